//! Work on a queue during one burst.

use crate::area::Areas;
use crate::batch::{BATCH, Places};
use crate::chain::{Buffer, Chain};
use crate::error::{Cause, Halt, Part, RingError};
use crate::ring::{Marks, Ring};
use virtio_mdev_api::dirty::{DirtyRecord, RingPart};
use virtio_mdev_api::dma::{AccessError, Held, LINE, Local, Permissions, View};

/// Of how many chains buffers are fetched ahead, two lines of each: enough to be there in time, few enough for a processor
/// to wait for all of them at once. It drops what it cannot wait for.
const LOOKAHEAD: usize = 24;

/// A queue during one burst. Chains are taken in order with [`take`](Self::take), given back used with
/// [`complete`](Self::complete), and stay so after [`commit`](Self::commit); what is not committed when the burst ends
/// was never taken. The driver sees the results when the burst ends, all at once.
pub struct Io<'b> {
    pub(crate) ring: &'b mut Ring,
    pub(crate) areas: Areas<'b>,
    pub(crate) memory: View<'b>,
    pub(crate) dirty: &'b DirtyRecord,
    /// Buffers of the chains of this burst.
    places: Places<'b>,
    /// Bytes at the beginning of a chain that the device does not read.
    skipped: usize,
}

impl<'b> Io<'b> {
    pub(crate) fn new(ring: &'b mut Ring, areas: Areas<'b>, memory: View<'b>, dirty: &'b DirtyRecord) -> Self {
        Self { ring, areas, memory, dirty, places: [None; BATCH], skipped: 0 }
    }

    #[inline]
    fn halt<T>(&self, result: Result<T, Cause>) -> Result<T, Halt> {
        result.map_err(|cause| Halt { queue: self.ring.index, cause })
    }

    /// The request in `chain` is not one: the driver broke the rules of the device.
    #[inline]
    pub fn refuse(&self, chain: &Chain, reason: &'static str) -> Halt {
        self.refused(chain.head(), reason)
    }

    #[cold]
    fn refused(&self, head: u16, reason: &'static str) -> Halt {
        Halt { queue: self.ring.index, cause: Cause::Fault(RingError::Request { head, reason }) }
    }

    /// The number of the queue.
    pub fn index(&self) -> u16 {
        self.ring.index
    }

    /// Entries in the ring: no more chains than this can be taken at once.
    pub fn size(&self) -> u16 {
        self.ring.layout.size
    }

    /// The device does not read the first `bytes` of chains: they are not fetched ahead. What a driver wrote there is nearest
    /// to itself, and stays there.
    pub fn skip(&mut self, bytes: usize) {
        self.skipped = bytes;
    }

    /// Takes the next chain, if there is one.
    pub fn take(&mut self) -> Result<Option<Chain>, Halt> {
        Ok(if self.has_next()? { self.take_next() } else { None })
    }

    /// Whether there is a chain to take.
    #[inline(always)]
    pub fn has_next(&mut self) -> Result<bool, Halt> {
        if !self.ring.has_next() {
            self.fetch()?;
        }
        Ok(self.ring.has_next())
    }

    #[inline(never)]
    fn fetch(&mut self) -> Result<(), Halt> {
        let fetched = self.ring.fetch(&self.areas, &self.memory, &mut self.places);
        if let Some(writable) = self.ring.next_is_writable() {
            (0..LOOKAHEAD).for_each(|at| self.prefetch(at, writable));
        }
        self.halt(fetched)
    }

    /// The buffer of the chain fetched as number `at`, as far as it is going to be accessed: the driver touched it last, on
    /// another processor. Whether it is to be written is guessed from another chain: queues have one direction.
    #[inline(always)]
    fn prefetch(&self, at: usize, writable: bool) {
        let Some(Some(held)) = self.places.get(at) else { return };
        let (from, access) = if writable { (0, Permissions::WRITE) } else { (self.skipped, Permissions::READ) };
        held.memory().prefetch_line(from, access);
        held.memory().prefetch_line(from + LINE, access);
    }

    /// Takes the chain that [`has_next`](Self::has_next) found.
    // Apart from what can fail, so that chains stay in registers: one that shares its place with an error is put together
    // from pieces in memory, which is slow.
    #[inline(always)]
    pub fn take_next(&mut self) -> Option<Chain> {
        let chain = self.ring.take()?;
        self.prefetch(chain.at() + LOOKAHEAD, chain.writable > 0);
        if self.held(&chain).is_none() {
            self.hold(chain);
        }
        Some(chain)
    }

    /// The only buffer of the chain last taken, if it is reached in place.
    #[inline]
    fn held(&self, chain: &Chain) -> Option<Held<'b>> {
        *self.places.get(chain.at())?
    }

    /// Looks for the buffer of a chain that was fetched in an earlier burst.
    #[inline(never)]
    fn hold(&mut self, chain: Chain) {
        if let Some(place) = self.places.get_mut(chain.at()) {
            *place = self.ring.hold(&self.memory, &chain);
        }
    }

    /// The same, if the device may read it.
    #[inline]
    fn held_to_read(&self, chain: &Chain) -> Option<Held<'b>> {
        self.held(chain).filter(|_| chain.readable > 0)
    }

    /// The same, if the device may write it.
    #[inline]
    fn held_to_write(&self, chain: &Chain) -> Option<Held<'b>> {
        self.held(chain).filter(|_| chain.writable > 0)
    }

    /// Copies from the readable part of the chain last taken, from `offset` on, and says how much that was: less than
    /// `out` holds only at the end of that part.
    #[inline(always)]
    pub fn read(&self, chain: &Chain, offset: u64, out: &mut [u8]) -> Result<usize, Halt> {
        if let Some(buffer) = self.held_to_read(chain)
            && let Some(part) = part(buffer, offset, out.len())
            && part.memory().read(out)
        {
            self.check_kept(part, chain)?;
            return Ok(out.len());
        }
        self.read_parts(*chain, offset, out)
    }

    /// Shows where the readable part of the chain last taken is, from `offset` on. `false`: some of it is not in this
    /// process, or `part` had enough; it is to be copied.
    pub fn in_place<'s>(&'s self, chain: &Chain, offset: u64, mut part: impl FnMut(Local<'s>) -> bool) -> bool {
        let mut skip = offset;
        for buffer in self.ring.buffers(chain).0 {
            let len = u64::from(buffer.len);
            if skip >= len {
                skip -= len;
                continue;
            }
            let Ok(left) = usize::try_from(len - skip) else { return false };
            let Some(held) = self.memory.held(buffer.iova + skip, left, Permissions::READ) else { return false };
            if !part(held.memory()) {
                return false;
            }
            skip = 0;
        }
        true
    }

    /// Fills `head` with the beginning of the readable part of the chain last taken. Where that is shorter, the rest is left.
    #[inline(always)]
    pub fn head<const N: usize>(&self, chain: &Chain, head: &mut [u8; N]) -> Result<(), Halt> {
        if let Some(buffer) = self.held_to_read(chain)
            && buffer.memory().read(head)
        {
            return self.check_kept(buffer, chain);
        }
        self.read_parts(*chain, 0, head).map(drop)
    }

    // What is called seldom takes a chain by value here: one whose address is given away is kept in memory all the time, and
    // every store waits there behind those to memory of clients.
    #[inline(never)]
    fn read_parts(&self, chain: Chain, offset: u64, out: &mut [u8]) -> Result<usize, Halt> {
        let mut skip = offset;
        let mut done = 0;
        for buffer in self.ring.buffers(&chain).0 {
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
    #[inline(always)]
    pub fn write(&self, chain: &Chain, offset: u64, data: &[u8]) -> Result<usize, Halt> {
        if let Some(buffer) = self.held_to_write(chain)
            && let Some(part) = part(buffer, offset, data.len())
            && part.memory().write(data)
        {
            self.mark(chain, offset, data.len());
            self.check_kept(part, chain)?;
            return Ok(data.len());
        }
        self.write_parts(*chain, offset, data)
    }

    #[inline(never)]
    fn write_parts(&self, chain: Chain, offset: u64, data: &[u8]) -> Result<usize, Halt> {
        let mut skip = offset;
        let mut done = 0;
        for &Buffer { iova, len } in self.ring.buffers(&chain).1 {
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

    /// Whether what was just accessed in place was the client's to the end.
    #[inline]
    fn check_kept(&self, buffer: Held<'_>, chain: &Chain) -> Result<(), Halt> {
        if buffer.is_kept() { Ok(()) } else { Err(self.lost(*chain)) }
    }

    #[cold]
    fn lost(&self, chain: Chain) -> Halt {
        let (readable, writable) = self.ring.buffers(&chain);
        let iova = readable.first().or(writable.first()).map_or(0, |buffer| buffer.iova);
        Halt { queue: self.ring.index, cause: Cause::access(Part::Buffer, AccessError::Lost { iova }) }
    }

    /// So many bytes of the only buffer of a chain were written.
    #[inline]
    fn mark(&self, chain: &Chain, offset: u64, len: usize) {
        if self.dirty.is_active()
            && let Some(buffer) = self.ring.buffers(chain).1.first()
        {
            self.dirty.mark(buffer.iova + offset, len as u64);
        }
    }

    /// Copies the first `len` bytes of the readable part of the chain last taken to the writable part of the chain last
    /// taken of another queue, without a copy of our own, but for the first ones: `head` is there instead, and `number` behind
    /// it. `false`, and nothing done, where one of the two parts is not one buffer in place, or not so long: then
    /// [`write`](Self::write) and [`copy`](Self::copy) do it.
    ///
    /// The halt is that of the queue whose memory could not be reached.
    #[inline(always)]
    pub fn forward<const N: usize>(
        &self,
        chain: &Chain,
        (head, number): (&[u8; N], u16),
        (target, to): (&Io<'_>, &Chain),
        len: usize,
    ) -> Result<bool, Halt> {
        let behind = N + size_of::<u16>();
        if let (Some(from), Some(into)) = (self.held_to_read(chain), target.held_to_write(to))
            && let Some(rest) = len.checked_sub(behind)
            && let (Some(source), Some(place)) = (from.memory().part(behind, rest), into.memory().part(behind, rest))
            && source.copy_to(place)
            && let Some(place) = into.memory().part(N, size_of::<u16>())
            && place.write(&number.to_le_bytes())
            && into.memory().write(head)
        {
            target.mark(to, 0, len);
            self.check_kept(from, chain)?;
            target.check_kept(into, to)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Copies `len` bytes of the readable part of the chain last taken, from `offset` on, to the writable part of the chain
    /// last taken of another queue, from `to_offset` on. Says how much that was: less than `len` only when one of the two
    /// parts ends.
    ///
    /// The halt is that of the queue whose memory could not be reached.
    #[inline]
    pub fn copy(&self, chain: &Chain, offset: u64, to: (&Io<'_>, &Chain, u64), len: usize) -> Result<usize, Halt> {
        let (target, to_chain, to_offset) = to;
        if let (Some(from), Some(into)) = (self.held_to_read(chain), target.held_to_write(to_chain))
            && let (Some(from), Some(into)) = (part(from, offset, len), part(into, to_offset, len))
            && from.memory().copy_to(into.memory())
        {
            target.mark(to_chain, to_offset, len);
            self.check_kept(from, chain)?;
            target.check_kept(into, to_chain)?;
            return Ok(len);
        }
        self.copy_through(*chain, offset, (target, *to_chain, to_offset), len)
    }

    /// The same by way of a buffer of our own.
    #[cold]
    fn copy_through(
        &self,
        chain: Chain,
        offset: u64,
        (target, to_chain, to_offset): (&Io<'_>, Chain, u64),
        len: usize,
    ) -> Result<usize, Halt> {
        let mut bytes = [0; 2048];
        let mut done = 0;
        while done < len {
            let part = bytes.len().min(len - done);
            let read = self.read(&chain, offset + done as u64, &mut bytes[..part])?;
            let written = target.write(&to_chain, to_offset + done as u64, &bytes[..read])?;
            done += written;
            if written < part {
                break;
            }
        }
        Ok(done)
    }

    /// Where byte `offset` of the writable part of the chain last taken is.
    pub fn writable_address(&self, chain: &Chain, offset: u64) -> Option<u64> {
        let mut skip = offset;
        for buffer in self.ring.buffers(chain).1 {
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
        self.ring.complete(chain, written);
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
        let marks = marks(self.ring, self.dirty);
        let enabled = self.ring.enable_notifications(&self.areas, &marks);
        self.halt(enabled)
    }

    /// Notifications are a waste from now on.
    #[inline]
    pub fn disable_notifications(&mut self) -> Result<(), Halt> {
        let marks = marks(self.ring, self.dirty);
        let disabled = self.ring.disable_notifications(&self.areas, &marks);
        self.halt(disabled)
    }

    /// Publishes what was committed. Says whether the driver wants to be told.
    pub(crate) fn publish(&mut self) -> Result<bool, Halt> {
        let marks = marks(self.ring, self.dirty);
        let published = self.ring.publish(&self.areas, &marks);
        self.halt(published)
    }
}

/// `len` bytes of a buffer from `offset` on, if it has them.
#[inline]
fn part(buffer: Held<'_>, offset: u64, len: usize) -> Option<Held<'_>> {
    buffer.part(usize::try_from(offset).ok()?, len)
}

fn marks<'a>(ring: &Ring, dirty: &'a DirtyRecord) -> Marks<'a> {
    Marks { dirty, part: RingPart { queue: ring.index, elsewhere: ring.elsewhere } }
}
