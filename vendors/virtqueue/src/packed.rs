//! Packed rings (virtio 1.3 §2.8).

use crate::area::Areas;
use crate::batch::{BATCH, Batch, Entry, Places, Room};
use crate::chain::{Buffer, Descriptor, INDIRECT, NEXT, Rules, WRITE};
use crate::error::{Cause, RingError};
use crate::layout::DESCRIPTOR;
use crate::ring::{Completed, Marks, Traits};
use crate::sync::{AtomicU64, Ordering, fence};
use virtio_mdev_api::QueueState;

/// Offset of length, buffer id and flags in a descriptor: read and written as one number.
const REST: usize = 8;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Offset of `desc_event_off` and `desc_event_wrap`, and after them `desc_event_flags`, in an area of events: one number.
const EVENT: usize = 0;
const EVENT_ENABLE: u32 = 0;
const EVENT_DISABLE: u32 = 1;
const EVENT_DESC: u32 = 2;

/// A place on the ring: an index in the lower 15 bits, above them the wrap counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u16);

impl Place {
    fn new(index: u16, wrap: bool) -> Self {
        Self(index | u16::from(wrap) << 15)
    }

    #[inline]
    fn index(self) -> u16 {
        self.0 & 0x7fff
    }

    #[inline]
    fn wrap(self) -> bool {
        self.0 & 0x8000 != 0
    }

    /// `slots` descriptors further, at most a round.
    #[inline]
    fn after(self, slots: u16, size: u16) -> Self {
        // Less than 2^15, and no more than that.
        match (self.index() + slots).checked_sub(size) {
            Some(index) => Self::new(index, !self.wrap()),
            None => Self(self.0 + slots),
        }
    }

    /// How far it is from here to `other`, in descriptors, less than two rounds.
    fn distance(self, other: Self, size: u16) -> u32 {
        let size = u32::from(size);
        let linear = |place: Self| u32::from(place.index()) % size + if place.wrap() { 0 } else { size };
        (linear(other) + 2 * size - linear(self)) % (2 * size)
    }

    #[inline]
    fn offset(self) -> usize {
        usize::from(self.index()) * DESCRIPTOR
    }

    /// Whether the descriptor here, whose second half is `rest`, is available.
    #[inline]
    fn is_available(self, rest: u64) -> bool {
        let flags = Descriptor::packed([0, rest]).flags;
        (flags & AVAIL != 0) == self.wrap() && (flags & USED != 0) != self.wrap()
    }
}

/// What the device knows of a packed ring.
pub struct Packed {
    size: u16,
    /// The first descriptor the driver was not told of: how far the device may look ahead.
    published: Place,
    /// The next descriptor to write as used.
    used: Place,
    /// Where that was when the driver was last asked whether it wants to be told.
    told: Option<Place>,
    /// Whether the driver was asked to notify; `None` when it is not known.
    notified: Option<bool>,
}

impl Packed {
    /// At `state`, with the place of the next descriptor to fetch; `None` where it is of the other format or not on the
    /// ring.
    pub fn new(size: u16, state: QueueState) -> Option<(Self, u16)> {
        let QueueState::Packed { avail, avail_wrap, used, used_wrap } = state else { return None };
        let (avail, used) = (Place::new(avail, avail_wrap), Place::new(used, used_wrap));
        let there = state.fits(true, size);
        there.then_some((Self { size, published: avail, used, told: None, notified: None }, avail.0))
    }

    pub fn state(&self, committed: u16) -> QueueState {
        let avail = Place(committed);
        QueueState::Packed {
            avail: avail.index(),
            avail_wrap: avail.wrap(),
            used: self.used.index(),
            used_wrap: self.used.wrap(),
        }
    }

    /// Whether the driver made the descriptor at `cursor` available.
    pub fn available(&self, areas: &Areas<'_>, cursor: u16) -> Result<bool, Cause> {
        Ok(self.find(areas, Place(cursor))?.is_some())
    }

    pub fn check_kept(areas: &Areas<'_>, cursor: u16) -> Result<(), Cause> {
        areas.check_kept(&areas.desc, Place(cursor).offset() + REST)
    }

    /// The second half of the descriptor at `place`, if it is available.
    fn find(&self, areas: &Areas<'_>, place: Place) -> Result<Option<u64>, Cause> {
        // Acquire: the rest of what the flags make available is read after them.
        let rest = areas.desc.load_u64(place.offset() + REST, Ordering::Acquire)?;
        Ok(place.is_available(rest).then_some(rest))
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
        let mut place = Place(cursor);
        // A driver that turns its flags round again shall not make the device take more than there is.
        let mut left = u32::from(self.size).saturating_sub(self.published.distance(place, self.size));
        if let Some(ring) = areas.desc.pairs() {
            self.fetch_singles(ring, rules, &mut place, &mut left, batch, places);
            if batch.is_full() {
                // Of a driver that is so far ahead the next ones are ready as well. They are going to be written as used.
                areas.desc.prefetch(place.offset(), BATCH * DESCRIPTOR);
            }
        }
        while left > 0 {
            let Some(room) = batch.room(places) else { break };
            let chain = match self.find(areas, place) {
                Ok(Some(rest)) => self.chain(areas, rules, place, rest, left, room),
                Ok(None) => break,
                Err(cause) => Err(cause),
            };
            match chain {
                Ok((after, slots)) => {
                    batch.extend(1);
                    place = after;
                    left -= u32::from(slots);
                }
                Err(cause) => {
                    batch.give_up();
                    return if batch.is_empty() { Err(cause) } else { Ok(()) };
                }
            }
        }
        Ok(())
    }

    /// Fetches chains of one descriptor, as most are, as long as there are others and nothing is wrong with them.
    fn fetch_singles<'b>(
        &self,
        ring: &[[AtomicU64; 2]],
        rules: &Rules<'_, 'b>,
        place: &mut Place,
        left: &mut u32,
        batch: &mut Batch,
        places: &mut Places<'b>,
    ) {
        loop {
            let (begin, wrap) = (*place, if place.wrap() { AVAIL } else { USED });
            let until_end = u32::from(self.size) - u32::from(begin.index());
            let run = ring.get(usize::from(begin.index())..).unwrap_or_default();
            let mut found: u16 = 0;
            for (pair, (entry, held)) in run.iter().zip(batch.rooms(places)).take(until_end.min(*left) as usize) {
                // Acquire: the rest of what the flags make available is read after them.
                let rest = u64::from_le(pair[1].load(Ordering::Acquire));
                let descriptor = Descriptor::packed([u64::from_le(pair[0].load(Ordering::Relaxed)), rest]);
                let id = descriptor.link;
                if descriptor.flags & (AVAIL | USED) != wrap
                    || id >= self.size
                    || !rules.single(entry, held, (id, 1), &descriptor)
                {
                    break;
                }
                found += 1;
                // Within the ring, or right behind it.
                entry.after = begin.0.wrapping_add(found);
            }
            batch.extend(usize::from(found));
            *left -= u32::from(found);
            *place = begin.after(found, self.size);
            if found == 0 || place.index() != 0 {
                return;
            }
            // At the end of the ring it goes on at its beginning.
            batch.end_at(place.0);
        }
    }

    /// Copies the chain at `place`, the second half of whose first descriptor is `rest`; says where the ring goes on, and how
    /// many descriptors it takes up: at most `left`.
    fn chain<'b>(
        &self,
        areas: &Areas<'_>,
        rules: &Rules<'_, 'b>,
        place: Place,
        rest: u64,
        left: u32,
        room: Room<'_, 'b>,
    ) -> Result<(Place, u16), Cause> {
        let Room { entry, held, more } = room;
        let found = Descriptor::packed([areas.desc.load_u64(place.offset(), Ordering::Relaxed)?, rest]);
        *entry = Entry::default();
        let after = self.walk(areas, rules, place, found, left, entry, more)?;
        if entry.id >= self.size {
            return Err(RingError::Head { head: entry.id, size: self.size }.into());
        }
        entry.after = after.0;
        *held = entry.hold(rules.memory);
        Ok((after, entry.slots))
    }

    /// Copies the rest of the chain at `place`, which begins with `found`; says where it ends.
    #[allow(clippy::too_many_arguments, reason = "a step of `chain`")]
    fn walk(
        &self,
        areas: &Areas<'_>,
        rules: &Rules<'_, '_>,
        mut place: Place,
        mut found: Descriptor,
        left: u32,
        entry: &mut Entry,
        more: &mut Vec<Buffer>,
    ) -> Result<Place, Cause> {
        loop {
            // The id is that of the last descriptor (virtio 1.3 §2.8.6); until then an error names what it has.
            (entry.id, entry.slots) = (found.link, entry.slots + 1);
            place = place.after(1, self.size);
            if found.flags & INDIRECT != 0 {
                self.indirect(rules, &found, entry, more)?;
                return Ok(place);
            }
            rules.add(entry, more, &found)?;
            if found.flags & NEXT == 0 {
                return Ok(place);
            }
            if u32::from(entry.slots) >= left {
                return Err(RingError::ChainTooLong { head: entry.id, size: self.size }.into());
            }
            found = Descriptor::packed(areas.desc.load_descriptor(place.offset())?);
        }
    }

    /// All entries of an indirect table, in order (virtio 1.3 §2.8.7).
    #[cold]
    fn indirect(
        &self,
        rules: &Rules<'_, '_>,
        found: &Descriptor,
        entry: &mut Entry,
        more: &mut Vec<Buffer>,
    ) -> Result<(), Cause> {
        // A chain is either in the ring or in a table.
        let entries = rules.indirect_table(entry.id, found, entry.slots > 1)?;
        for index in 0..entries {
            let inner = Descriptor::packed(rules.indirect_entry(found.iova, index)?);
            if inner.flags & INDIRECT != 0 {
                return Err(RingError::IndirectNested { head: entry.id }.into());
            }
            rules.add(entry, more, &inner)?;
        }
        Ok(())
    }

    /// Asks for a notification of the next chain at `cursor`, or says that none is wanted.
    pub fn notify(
        &mut self,
        areas: &Areas<'_>,
        marks: &Marks<'_>,
        traits: Traits,
        cursor: Option<u16>,
    ) -> Result<(), Cause> {
        let event = match cursor {
            Some(cursor) if traits.event_idx => EVENT_DESC << 16 | u32::from(cursor),
            _ if self.notified == Some(cursor.is_some()) => return Ok(()),
            Some(_) => EVENT_ENABLE << 16,
            None => EVENT_DISABLE << 16,
        };
        areas.device.store_u32(EVENT, event, Ordering::Relaxed)?;
        marks.mark([areas.device.range(EVENT, 4)]);
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
        if completed.is_empty() {
            return Ok(false);
        }
        let first = self.used;
        let written = self.write_used(areas, traits, completed);
        // What was written before an error was written all the same, whatever that was.
        let slots = if written.is_ok() { first.distance(self.used, self.size) } else { u32::from(self.size) };
        let until_end = u32::from(self.size - first.index()).min(slots);
        let bytes = |slots: u32| usize::try_from(slots).unwrap_or(0) * DESCRIPTOR;
        marks.mark([areas.desc.range(first.offset(), bytes(until_end)), areas.desc.range(0, bytes(slots - until_end))]);
        written?;
        self.published = Place(end);
        Ok(true)
    }

    /// The first one last: a driver looks at them in order. A length counts where something was written (virtio 1.3 §2.8.4).
    fn write_used(&mut self, areas: &Areas<'_>, traits: Traits, completed: &Completed) -> Result<(), Cause> {
        // In order and with no room for writing, one descriptor stands for all (virtio 1.3 §2.8.9).
        let one = traits.in_order && completed.are_readable();
        match areas.desc.pairs() {
            Some(ring) => self.write_all(completed, one, |place, rest, order| {
                if let Some([_, half]) = ring.get(usize::from(place.index())) {
                    half.store(rest.to_le(), order);
                }
                Ok(())
            }),
            None => self.write_all(completed, one, |place, rest, order| {
                areas.desc.store_u64(place.offset() + REST, rest, order)
            }),
        }
    }

    #[inline]
    fn write_all(
        &mut self,
        completed: &Completed,
        one: bool,
        store: impl Fn(Place, u64, Ordering) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        let (size, first) = (self.size, self.used);
        let half = |place: Place, id: u16, len: u32| {
            let flags = if place.wrap() { AVAIL | USED } else { 0 } | if len > 0 { WRITE } else { 0 };
            u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48
        };
        let mut all = completed.iter();
        let Some((mut id, slots, mut len)) = all.next() else { return Ok(()) };
        let mut place = first.after(slots, size);
        for (next_id, slots, next_len) in all {
            if one {
                (id, len) = (next_id, next_len);
            } else {
                store(place, half(place, next_id, next_len), Ordering::Relaxed)?;
            }
            place = place.after(slots, size);
        }
        store(first, half(first, id, len), Ordering::Release)?;
        self.used = place;
        Ok(())
    }

    /// Whether the driver wants to be told of what was published.
    pub fn wants_interrupt(&mut self, areas: &Areas<'_>) -> Result<bool, Cause> {
        // The driver writes what it wants to be told of, then looks at descriptors; one of the two sees the other.
        fence(Ordering::SeqCst);
        let event = areas.driver.load_u32(EVENT, Ordering::Relaxed)?;
        let old = self.told.replace(self.used);
        match event >> 16 & 3 {
            EVENT_DISABLE => Ok(false),
            EVENT_DESC => {
                // Any place is fine: at worst a driver gets more or fewer interrupts than it meant to.
                let event = Place(u16::try_from(event & 0xffff).unwrap_or_default());
                let passed = |old: Place| old.distance(event, self.size) < old.distance(self.used, self.size);
                Ok(old.is_none_or(passed))
            }
            _ => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn a_place_goes_round_and_turns_its_wrap_counter() {
        let place = Place::new(5, true);
        assert_eq!(place.after(1, 7), Place::new(6, true));
        assert_eq!(place.after(2, 7), Place::new(0, false));
        assert_eq!(place.after(7, 7), Place::new(5, false));
        assert_eq!(Place::new(0x7fff, false).after(1, 0x8000), Place::new(0, true));
    }

    #[test]
    fn distances_go_forward() {
        let place = Place::new(5, true);
        assert_eq!(place.distance(place, 7), 0);
        assert_eq!(place.distance(Place::new(5, false), 7), 7);
        assert_eq!(place.distance(Place::new(4, true), 7), 13);
        assert_eq!(Place::new(6, false).distance(Place::new(0, true), 7), 1);
    }
}
