//! Work on a queue during one burst.

use crate::area::Areas;
use crate::chain::{Buffer, Chain};
use crate::error::{Cause, Halt, Part, RingError};
use crate::ring::{Marks, Ring};
use virtio_mdev_api::dirty::{DirtyRecord, RingPart};
use virtio_mdev_api::dma::{AccessError, Permissions, View};

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
    #[inline]
    fn halt<T>(&self, result: Result<T, Cause>) -> Result<T, Halt> {
        result.map_err(|cause| Halt { queue: self.ring.index, cause })
    }

    /// The request in `chain` is not one: the driver broke the rules of the device.
    pub fn refuse(&self, chain: &Chain, reason: &'static str) -> Halt {
        let error = RingError::Request { head: chain.head, reason };
        Halt { queue: self.ring.index, cause: Cause::Fault(error) }
    }

    /// The number of the queue.
    pub fn index(&self) -> u16 {
        self.ring.index
    }

    /// Entries in the ring: no more chains than this can be taken at once.
    pub fn size(&self) -> u16 {
        self.ring.layout.size
    }

    /// Takes the next chain, if there is one.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Chain>, Halt> {
        let taken = self.ring.take(&self.areas, &self.memory);
        self.halt(taken)
    }

    /// Copies from the readable part of the chain last taken, from `offset` on, and says how much that was: less than
    /// `out` holds only at the end of that part.
    #[inline]
    pub fn read(&self, chain: &Chain, offset: u64, out: &mut [u8]) -> Result<usize, Halt> {
        if let [only] = self.ring.buffers(chain).0
            && let Some(at) = within(only, offset, out.len())
            && let Some(memory) = self.memory.local(at, out.len(), Permissions::READ)
            && memory.read(out)
        {
            self.check_in_place(at)?;
            return Ok(out.len());
        }
        self.read_parts(chain, offset, out)
    }

    /// The first `N` bytes of the readable part of the chain last taken; zeros where it is shorter.
    #[inline]
    pub fn head<const N: usize>(&self, chain: &Chain) -> Result<[u8; N], Halt> {
        let mut head = [0; N];
        if let [first, ..] = self.ring.buffers(chain).0
            && let Some(at) = within(first, 0, N)
            && let Some(memory) = self.memory.local(at, N, Permissions::READ)
            && memory.read(&mut head)
        {
            self.check_in_place(at)?;
        } else {
            self.read_parts(chain, 0, &mut head)?;
        }
        Ok(head)
    }

    #[inline(never)]
    fn read_parts(&self, chain: &Chain, offset: u64, out: &mut [u8]) -> Result<usize, Halt> {
        let mut skip = offset;
        let mut done = 0;
        for buffer in self.ring.buffers(chain).0 {
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
        if let [only] = self.ring.buffers(chain).1
            && let Some(at) = within(only, offset, data.len())
            && let Some(memory) = self.memory.local(at, data.len(), Permissions::WRITE)
            && memory.write(data)
        {
            self.dirty.mark(at, data.len() as u64);
            self.check_in_place(at)?;
            return Ok(data.len());
        }
        self.write_parts(chain, offset, data)
    }

    #[inline(never)]
    fn write_parts(&self, chain: &Chain, offset: u64, data: &[u8]) -> Result<usize, Halt> {
        let mut skip = offset;
        let mut done = 0;
        for &Buffer { iova, len } in self.ring.buffers(chain).1 {
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
    fn check_in_place(&self, iova: u64) -> Result<(), Halt> {
        self.halt(self.memory.check_in_place(iova).map_err(|error| Cause::access(Part::Buffer, error)))
    }

    /// Copies the first `len` bytes of the readable part of the chain last taken to the writable part of the chain last
    /// taken of another queue, without a copy of our own, but for the first `N` bytes: `head` is there instead. `false`, and
    /// nothing done, where one of the two parts is not one buffer in place, or not so long: then [`write`](Self::write) and
    /// [`copy`](Self::copy) do it.
    ///
    /// The halt is that of the queue whose memory could not be reached.
    #[inline]
    pub fn forward<const N: usize>(
        &self,
        chain: &Chain,
        head: &[u8; N],
        (target, to): (&Io<'_>, &Chain),
        len: usize,
    ) -> Result<bool, Halt> {
        if let ([from], [into]) = (self.ring.buffers(chain).0, target.ring.buffers(to).1)
            && let (Some(from), Some(into)) = (within(from, 0, len), within(into, 0, len))
            && let Some(rest) = len.checked_sub(N)
            && let Some(source) = self.memory.local(from, len, Permissions::READ)
            && let Some(place) = target.memory.local(into, len, Permissions::WRITE)
            && let (Some(source), Some(behind)) = (source.part(N, rest), place.part(N, rest))
            && source.copy_to(behind)
            && place.write(head)
        {
            target.dirty.mark(into, len as u64);
            self.check_in_place(from)?;
            target.check_in_place(into)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Copies `len` bytes of the readable part of the chain last taken, from `offset` on, to the writable part of the chain
    /// last taken of another queue, from `to_offset` on. Says how much that was: less than `len` only when one of the two
    /// parts ends.
    ///
    /// The halt is that of the queue whose memory could not be reached.
    pub fn copy(&self, chain: &Chain, offset: u64, to: (&Io<'_>, &Chain, u64), len: usize) -> Result<usize, Halt> {
        let (target, to_chain, to_offset) = to;
        if let ([from], [into]) = (self.ring.buffers(chain).0, target.ring.buffers(to_chain).1)
            && let Some(from) = within(from, offset, len)
            && let Some(into) = within(into, to_offset, len)
            && let Some(source) = self.memory.local(from, len, Permissions::READ)
            && let Some(place) = target.memory.local(into, len, Permissions::WRITE)
            && source.copy_to(place)
        {
            target.dirty.mark(into, len as u64);
            self.check_in_place(from)?;
            target.check_in_place(into)?;
            return Ok(len);
        }
        self.copy_through(chain, offset, to, len)
    }

    /// The same by way of a buffer of our own.
    #[cold]
    fn copy_through(
        &self,
        chain: &Chain,
        offset: u64,
        (target, to_chain, to_offset): (&Io<'_>, &Chain, u64),
        len: usize,
    ) -> Result<usize, Halt> {
        let mut bytes = [0; 2048];
        let mut done = 0;
        while done < len {
            let part = bytes.len().min(len - done);
            let read = self.read(chain, offset + done as u64, &mut bytes[..part])?;
            let written = target.write(to_chain, to_offset + done as u64, &bytes[..read])?;
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

/// The address of `len` bytes of a buffer from `offset` on, if it has them.
#[inline]
fn within(buffer: &Buffer, offset: u64, len: usize) -> Option<u64> {
    let end = offset.checked_add(len as u64)?;
    (end <= u64::from(buffer.len)).then(|| buffer.iova + offset)
}

fn marks<'a>(ring: &Ring, dirty: &'a DirtyRecord) -> Marks<'a> {
    Marks { dirty, part: RingPart { queue: ring.index, elsewhere: ring.elsewhere } }
}
