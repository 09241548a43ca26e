//! Split rings (virtio 1.3 §2.7).

use crate::area::Areas;
use crate::batch::{BATCH, Batch, Entry, Places, Room};
use crate::chain::{Buffer, Descriptor, INDIRECT, NEXT, Rules};
use crate::error::{Cause, RingError};
use crate::layout::DESCRIPTOR;
use crate::ring::{Completed, Marks, Traits};
use crate::sync::{AtomicU64, Ordering, fence};

/// Offset of `flags` in the available and the used ring.
const FLAGS: usize = 0;
/// Offset of `idx` in both.
const INDEX: usize = 2;
/// Offset of the first entry in both.
const ENTRIES: usize = 4;
/// Bytes of an entry of the available and of the used ring.
const HEAD: usize = 2;
const USED: usize = 8;

const NO_NOTIFY: u16 = 1;
const NO_INTERRUPT: u16 = 1;

/// What the device knows of a split ring. Places are available indices, free running.
pub struct Split {
    size: u16,
    /// The driver's index, as last read.
    known: u16,
    /// The first chain the driver was not told of.
    published: u16,
    /// The used index; `None` until it was read from the ring.
    used: Option<u16>,
    /// The used index at which the driver was last asked whether it wants to be told.
    told: Option<u16>,
    /// Whether VIRTQ_USED_F_NO_NOTIFY is clear; `None` when it is not known.
    notified: Option<bool>,
}

impl Split {
    pub fn new(size: u16, avail: u16) -> Self {
        Self { size, known: avail, published: avail, used: None, told: None, notified: None }
    }

    /// Where in its ring the entry with the free-running index `index` is.
    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Offset of `used_event` in the available ring.
    fn used_event(&self) -> usize {
        ENTRIES + HEAD * usize::from(self.size)
    }

    /// Offset of `avail_event` in the used ring.
    fn avail_event(&self) -> usize {
        ENTRIES + USED * usize::from(self.size)
    }

    /// Reads the used index before the first chain.
    pub fn prepare(&mut self, areas: &Areas<'_>) -> Result<(), Cause> {
        if self.used.is_none() {
            let used = areas.device.load_u16(INDEX, Ordering::Acquire)?;
            let (avail, size) = (self.published, self.size);
            if avail.wrapping_sub(used) > size {
                return Err(RingError::UsedIndex { used, avail, size }.into());
            }
            self.used = Some(used);
        }
        Ok(())
    }

    /// How many chains there are at `cursor` and after it, by the driver's index.
    pub fn available(&mut self, areas: &Areas<'_>, cursor: u16) -> Result<u16, Cause> {
        // Acquire: what the index announces is read after it.
        let found = areas.driver.load_u16(INDEX, Ordering::Acquire)?;
        let (announced, taken) = (found.wrapping_sub(self.published), cursor.wrapping_sub(self.published));
        if announced > self.size || announced < taken {
            return Err(RingError::AvailIndex { next: cursor, found, size: self.size }.into());
        }
        self.known = found;
        Ok(announced - taken)
    }

    /// Where the available index is, to see whether its memory was still the client's.
    pub fn check_kept(areas: &Areas<'_>) -> Result<(), Cause> {
        areas.check_kept(&areas.driver, INDEX)
    }

    /// Fetches chains from `cursor` on. What is wrong with one is said when it is the first.
    pub fn fetch<'b>(
        &mut self,
        areas: &Areas<'_>,
        rules: &Rules<'_, 'b>,
        cursor: u16,
        batch: &mut Batch,
        places: &mut Places<'b>,
    ) -> Result<(), Cause> {
        let available = match self.known.wrapping_sub(cursor) {
            0 => self.available(areas, cursor)?,
            known => known,
        };
        let count = usize::from(available).min(BATCH);
        let mut bytes = [0; HEAD * BATCH];
        let slot = self.slot(cursor);
        let (first, rest) = bytes[..HEAD * count].split_at_mut(HEAD * count.min(usize::from(self.size) - slot));
        if !first.is_empty() {
            areas.driver.read(ENTRIES + HEAD * slot, first)?;
        }
        if !rest.is_empty() {
            areas.driver.read(ENTRIES, rest)?;
        }
        let heads = bytes[..HEAD * count].as_chunks().0;
        if let Some(used) = self.used {
            areas.device.prefetch(ENTRIES + USED * self.slot(used), USED * count);
        }
        let mut after = cursor;
        if let Some(table) = areas.desc.pairs() {
            fetch_singles(table, rules, heads, &mut after, batch, places);
        }
        for head in &heads[usize::from(after.wrapping_sub(cursor))..] {
            let Some(room) = batch.room(places) else { break };
            after = after.wrapping_add(1);
            match self.chain(areas, rules, u16::from_le_bytes(*head), after, room) {
                Ok(()) => batch.extend(1),
                Err(cause) => {
                    batch.give_up();
                    return if batch.is_empty() { Err(cause) } else { Ok(()) };
                }
            }
        }
        Ok(())
    }

    /// Copies the chain at `head`, behind which the ring goes on at `after`.
    fn chain<'b>(
        &self,
        areas: &Areas<'_>,
        rules: &Rules<'_, 'b>,
        head: u16,
        after: u16,
        room: Room<'_, 'b>,
    ) -> Result<(), Cause> {
        if head >= self.size {
            return Err(RingError::Head { head, size: self.size }.into());
        }
        let Room { entry, held, more } = room;
        let found = Descriptor::split(areas.desc.load_descriptor(usize::from(head) * DESCRIPTOR)?);
        *entry = Entry { id: head, after, ..Entry::default() };
        self.walk(areas, rules, found, entry, more)?;
        *held = entry.hold(rules.memory);
        Ok(())
    }

    /// Copies the rest of the chain whose head is the entry's id and begins with `found`.
    #[inline(never)]
    fn walk(
        &self,
        areas: &Areas<'_>,
        rules: &Rules<'_, '_>,
        mut found: Descriptor,
        entry: &mut Entry,
        more: &mut Vec<Buffer>,
    ) -> Result<(), Cause> {
        let head = entry.id;
        // The table being walked: the ring's own, or from its first address an indirect one.
        let (mut indirect, mut entries) = (None, self.size);
        loop {
            let mut index = 0;
            if found.flags & INDIRECT != 0 {
                entries = rules.indirect_table(head, &found, indirect.is_some())?;
                indirect = Some(found.iova);
            } else {
                rules.add(entry, more, &found)?;
                if found.flags & NEXT == 0 {
                    return Ok(());
                }
                index = found.link;
                if index >= entries {
                    return Err(RingError::Next { next: index, entries }.into());
                }
            }
            found = Descriptor::split(match indirect {
                None => areas.desc.load_descriptor(usize::from(index) * DESCRIPTOR)?,
                Some(table) => rules.indirect_entry(table, index)?,
            });
        }
    }
    /// Asks for a notification of the next chain at `cursor`, or says that none is wanted.
    pub fn notify(
        &mut self,
        areas: &Areas<'_>,
        marks: &Marks<'_>,
        traits: Traits,
        cursor: Option<u16>,
    ) -> Result<(), Cause> {
        let (offset, value) = match cursor {
            Some(cursor) if traits.event_idx => (self.avail_event(), cursor),
            // The driver is past the index it was asked for.
            None if traits.event_idx => return Ok(()),
            _ if self.notified == Some(cursor.is_some()) => return Ok(()),
            Some(_) => (FLAGS, 0),
            None => (FLAGS, NO_NOTIFY),
        };
        areas.device.store_u16(offset, value, Ordering::Relaxed)?;
        marks.mark([areas.device.range(offset, 2)]);
        self.notified = Some(cursor.is_some());
        Ok(())
    }

    /// Publishes chains, up to `end`. Says whether there were any.
    pub fn publish(
        &mut self,
        areas: &Areas<'_>,
        marks: &Marks<'_>,
        traits: Traits,
        completed: &Completed,
        end: u16,
    ) -> Result<bool, Cause> {
        let Some(old) = self.used.filter(|_| !completed.is_empty()) else { return Ok(false) };
        let slot = self.slot(old);
        // No more than the size of the ring, so it is less than 2^16.
        let new = old.wrapping_add(u16::try_from(completed.len()).unwrap_or(u16::MAX));
        // In order and with no room for writing, one entry stands for all (virtio 1.3 §2.7.9).
        let bytes = if traits.in_order && completed.are_readable() { completed.last() } else { completed.bytes() };
        let until_end = (usize::from(self.size) - slot) * USED;
        let (first, rest) = bytes.split_at(until_end.min(bytes.len()));
        let used = &areas.device;
        let written = used
            .write(ENTRIES + slot * USED, first)
            .and_then(|()| if rest.is_empty() { Ok(()) } else { used.write(ENTRIES, rest) })
            .and_then(|()| used.store_u16(INDEX, new, Ordering::Release));
        // What was written before an error was written all the same.
        marks.mark([
            used.range(ENTRIES + slot * USED, first.len()),
            used.range(ENTRIES, rest.len()),
            used.range(INDEX, 2),
        ]);
        written?;
        self.used = Some(new);
        self.published = end;
        Ok(true)
    }

    /// Whether the driver wants to be told of what was published.
    pub fn wants_interrupt(&mut self, areas: &Areas<'_>, traits: Traits) -> Result<bool, Cause> {
        // The driver writes what it wants to be told of, then reads the used index; one of the two sees the other.
        fence(Ordering::SeqCst);
        if !traits.event_idx {
            return Ok(areas.driver.load_u16(FLAGS, Ordering::Relaxed)? & NO_INTERRUPT == 0);
        }
        let event = areas.driver.load_u16(self.used_event(), Ordering::Relaxed)?;
        let Some(new) = self.used else { return Ok(false) };
        Ok(self.told.replace(new).is_none_or(|old| crossed(event, old, new)))
    }
}

/// Fetches chains of one descriptor, as most are, as long as there are others and nothing is wrong with them. `after` goes
/// on with them.
fn fetch_singles<'b>(
    table: &[[AtomicU64; 2]],
    rules: &Rules<'_, 'b>,
    heads: &[[u8; HEAD]],
    after: &mut u16,
    batch: &mut Batch,
    places: &mut Places<'b>,
) {
    let mut found = 0;
    for (head, (entry, held)) in heads.iter().zip(batch.rooms(places)) {
        let head = u16::from_le_bytes(*head);
        let Some(pair) = table.get(usize::from(head)) else { break };
        let descriptor = Descriptor::split([0, 1].map(|half: usize| u64::from_le(pair[half].load(Ordering::Relaxed))));
        if !rules.single(entry, held, (head, 0), &descriptor) {
            break;
        }
        found += 1;
        *after = after.wrapping_add(1);
        entry.after = *after;
    }
    batch.extend(found);
}

/// Whether an index that went from `old` to `new` passed `event` (virtio 1.3 §2.7.10). Any value of `event` is fine: at
/// worst a driver gets more or fewer interrupts than it meant to.
fn crossed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::crossed;

    #[test]
    fn an_event_is_crossed_when_its_entry_is_among_the_new_ones() {
        assert!(crossed(5, 5, 6));
        assert!(!crossed(6, 5, 6));
        assert!(!crossed(4, 5, 6));
        assert!(crossed(0xffff, 0xfffe, 1));
        assert!(!crossed(1, 0xfffe, 1));
    }
}
