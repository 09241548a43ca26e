//! Work on a queue during one burst.

use crate::area::Areas;
use crate::chain::{Buffer, Chain, Fetch};
use crate::error::{Cause, Halt, Part, RingError};
use crate::layout::{ENTRIES, INDEX, USED_ENTRY};
use crate::ring::{HEADS, Ring};
use std::sync::atomic::{Ordering, fence};
use virtio_mdev_api::dirty::{DirtyRecord, RingPart};
use virtio_mdev_api::dma::{AccessError, View};

const NO_NOTIFY: u16 = 1;
const NO_INTERRUPT: u16 = 1;

/// A queue during one burst. Chains are taken in order with [`take`](Self::take), given back used with
/// [`complete`](Self::complete), and stay so after [`commit`](Self::commit); what is not committed when the burst ends
/// was never taken. The driver sees the results when the burst ends, all at once.
pub struct Io<'b> {
    pub(crate) ring: &'b mut Ring,
    pub(crate) areas: Areas<'b>,
    pub(crate) memory: View<'b>,
    pub(crate) dirty: &'b DirtyRecord,
}

impl Io<'_> {
    fn halt<T>(&self, result: Result<T, Cause>) -> Result<T, Halt> {
        result.map_err(|cause| Halt { queue: self.ring.index, cause })
    }

    /// The request in `chain` is not one: the driver broke the rules of the device.
    pub fn refuse(&self, chain: &Chain, reason: &'static str) -> Halt {
        let error = RingError::Request { head: chain.head, reason };
        Halt { queue: self.ring.index, cause: Cause::Fault(error) }
    }

    /// Entries in the ring: no more chains than this can be taken at once.
    pub fn size(&self) -> u16 {
        self.ring.layout.size
    }

    /// Takes the next chain, if there is one.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Chain>, Halt> {
        let taken = self.fetch();
        self.halt(taken)
    }

    #[inline]
    fn fetch(&mut self) -> Result<Option<Chain>, Cause> {
        let Some(head) = self.head()? else { return Ok(None) };
        let Ring { layout, indirect, elsewhere, buffers, .. } = &mut *self.ring;
        let fetch =
            Fetch { layout, elsewhere: *elsewhere, indirect: *indirect, table: &self.areas.desc, memory: &self.memory };
        let chain = fetch.chain(head, buffers)?;
        self.ring.cursor = self.ring.cursor.wrapping_add(1);
        Ok(Some(chain))
    }

    /// The head of the chain at the cursor. Heads are copied in bulk: one look at the index serves many chains.
    #[inline]
    fn head(&mut self) -> Result<Option<u16>, Cause> {
        if let Some(head) = self.ring.cached_head() {
            return Ok(Some(head));
        }
        let available = self.available()?;
        if available == 0 {
            return Ok(None);
        }
        let ring = &mut *self.ring;
        let slot = ring.layout.slot(ring.cursor);
        let count = usize::from(available).min(HEADS).min(usize::from(ring.layout.size) - slot);
        let mut bytes = [0; 2 * HEADS];
        self.areas.avail.read(ENTRIES + 2 * slot, &mut bytes[..2 * count])?;
        ring.heads.clear();
        ring.heads.extend(bytes[..2 * count].as_chunks().0.iter().map(|head| u16::from_le_bytes(*head)));
        ring.heads_base = ring.cursor;
        Ok(ring.cached_head())
    }

    /// How many chains there are at the cursor and after it, by the driver's index.
    fn available(&self) -> Result<u16, Cause> {
        let ring = &*self.ring;
        // Acquire: what the index announces is read after it.
        let found = self.areas.avail.load_u16(INDEX, Ordering::Acquire)?;
        let (announced, taken) = (found.wrapping_sub(ring.published), ring.cursor.wrapping_sub(ring.published));
        if announced > ring.layout.size || announced < taken {
            return Err(RingError::AvailIndex { next: ring.cursor, found, size: ring.layout.size }.into());
        }
        Ok(announced - taken)
    }

    /// Copies from the readable part of the chain last taken, from `offset` on, and says how much that was: less than
    /// `out` holds only at the end of that part.
    #[inline]
    pub fn read(&self, chain: &Chain, offset: u64, out: &mut [u8]) -> Result<usize, Halt> {
        let mut skip = offset;
        let mut done = 0;
        for buffer in &self.ring.buffers[..chain.readable_buffers] {
            let len = u64::from(buffer.len);
            if skip >= len {
                skip -= len;
                continue;
            }
            let part = usize::try_from(len - skip).unwrap_or(usize::MAX).min(out.len() - done);
            if part == 0 {
                break;
            }
            let read = self.memory.read(buffer.iova + skip, &mut out[done..done + part]);
            self.halt(read.map_err(|error| Cause::access(Part::Buffer, error)))?;
            done += part;
            skip = 0;
        }
        Ok(done)
    }

    /// Copies to the writable part of the chain last taken, from `offset` on, and says how much that was: less than
    /// all of `data` only when that part is full.
    #[inline]
    pub fn write(&self, chain: &Chain, offset: u64, data: &[u8]) -> Result<usize, Halt> {
        let mut skip = offset;
        let mut done = 0;
        for &Buffer { iova, len } in &self.ring.buffers[chain.readable_buffers..] {
            let len = u64::from(len);
            if skip >= len {
                skip -= len;
                continue;
            }
            let part = usize::try_from(len - skip).unwrap_or(usize::MAX).min(data.len() - done);
            if part == 0 {
                break;
            }
            self.write_at(iova + skip, &data[done..done + part])?;
            done += part;
            skip = 0;
        }
        Ok(done)
    }

    /// Where byte `offset` of the writable part of the chain last taken is.
    pub fn writable_address(&self, chain: &Chain, offset: u64) -> Option<u64> {
        let mut skip = offset;
        for buffer in &self.ring.buffers[chain.readable_buffers..] {
            let len = u64::from(buffer.len);
            if skip < len {
                return Some(buffer.iova + skip);
            }
            skip -= len;
        }
        None
    }

    /// Writes at an address that came from [`writable_address`](Self::writable_address) of a chain not yet committed.
    pub fn write_at(&self, iova: u64, data: &[u8]) -> Result<(), Halt> {
        let written = self.memory.write(iova, data);
        // What was written before an error was written all the same.
        let len = match written {
            Err(AccessError::Fault { iova: end, .. } | AccessError::Pending { iova: end }) => end - iova,
            _ => data.len() as u64,
        };
        self.dirty.mark(iova, len);
        self.halt(written.map_err(|error| Cause::access(Part::Buffer, error)))
    }

    /// Gives `chain` back with `written` bytes in its writable part. Chains are given back in the order they were taken.
    #[inline]
    pub fn complete(&mut self, chain: &Chain, written: u32) {
        self.ring.completed.extend_from_slice(&u32::from(chain.head).to_le_bytes());
        self.ring.completed.extend_from_slice(&written.to_le_bytes());
    }

    /// What was completed stays so; every chain taken was completed.
    #[inline]
    pub fn commit(&mut self) {
        self.ring.commit();
    }

    /// Chains taken and not committed were never taken.
    pub fn rewind(&mut self) {
        self.ring.rewind();
    }

    /// Asks the driver for a notification of the next chain it makes available. `true`: there is one already, take it.
    pub fn enable_notifications(&mut self) -> Result<bool, Halt> {
        let enabled = self.enable();
        self.halt(enabled)
    }

    fn enable(&mut self) -> Result<bool, Cause> {
        let offset = if self.ring.event_idx { self.ring.layout.avail_event() } else { 0 };
        let value = if self.ring.event_idx { self.ring.cursor } else { 0 };
        if self.ring.event_idx || self.ring.notified != Some(true) {
            self.store_used(offset, value)?;
            self.ring.notified = Some(true);
        }
        // The driver writes its index, then reads this; one of the two sees the other.
        fence(Ordering::SeqCst);
        let more = self.available()? > 0;
        if !more {
            // An index that says nothing may be memory the client took away.
            self.areas.check_kept()?;
        }
        Ok(more)
    }

    /// Notifications are a waste from now on. With VIRTIO_F_EVENT_IDX there is nothing to do: the driver is past the
    /// index it was asked for.
    pub fn disable_notifications(&mut self) -> Result<(), Halt> {
        if self.ring.event_idx || self.ring.notified == Some(false) {
            return Ok(());
        }
        let stored = self.store_used(0, NO_NOTIFY);
        self.ring.notified = Some(false);
        self.halt(stored)
    }

    fn store_used(&mut self, offset: usize, value: u16) -> Result<(), Cause> {
        self.areas.used.store_u16(offset, value, Ordering::Relaxed)?;
        self.mark_ring([self.areas.used.range(offset, 2)]);
        Ok(())
    }

    /// These ranges of the used ring were written.
    #[inline]
    fn mark_ring<const N: usize>(&self, ranges: [(u64, u64); N]) {
        self.dirty.mark_ring(RingPart { queue: self.ring.index, elsewhere: self.ring.elsewhere }, ranges);
    }

    /// Publishes what was committed. Says whether the driver wants to be told.
    pub(crate) fn publish(&mut self) -> Result<bool, Halt> {
        let published = self.publish_used();
        self.halt(published)
    }

    fn publish_used(&mut self) -> Result<bool, Cause> {
        let ring = &mut *self.ring;
        ring.rewind();
        let count = ring.completed.len() / USED_ENTRY;
        let Some(old) = ring.used.filter(|_| count > 0) else { return Ok(false) };
        let slot = ring.layout.slot(old);
        let until_end = (usize::from(ring.layout.size) - slot) * USED_ENTRY;
        let (first, rest) = ring.completed.split_at(until_end.min(ring.completed.len()));
        let used = &self.areas.used;
        // No more than the size of the ring, so it is less than 2^16.
        let new = old.wrapping_add(u16::try_from(count).unwrap_or(u16::MAX));
        let written = used
            .write(ENTRIES + slot * USED_ENTRY, first)
            .and_then(|()| if rest.is_empty() { Ok(()) } else { used.write(ENTRIES, rest) })
            .and_then(|()| used.store_u16(INDEX, new, Ordering::Release));
        let index = used.range(INDEX, 2);
        let ranges = [used.range(ENTRIES + slot * USED_ENTRY, first.len()), used.range(ENTRIES, rest.len()), index];
        // What was written before an error was written all the same.
        self.mark_ring(ranges);
        written?;
        let ring = &mut *self.ring;
        ring.used = Some(new);
        ring.published = ring.committed;
        ring.completed.clear();
        ring.kept = 0;
        self.wants_interrupt(new)
    }

    fn wants_interrupt(&mut self, new: u16) -> Result<bool, Cause> {
        // The driver writes what it wants to be told of, then reads the used index; one of the two sees the other.
        fence(Ordering::SeqCst);
        if !self.ring.event_idx {
            return Ok(self.areas.avail.load_u16(0, Ordering::Relaxed)? & NO_INTERRUPT == 0);
        }
        let event = self.areas.avail.load_u16(self.ring.layout.used_event(), Ordering::Relaxed)?;
        let old = self.ring.told.replace(new);
        Ok(old.is_none_or(|old| crossed(event, old, new)))
    }
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
