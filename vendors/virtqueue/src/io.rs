//! Work on a queue during one burst.

use crate::area::Areas;
use crate::chain::{Buffer, Chain};
use crate::error::{Cause, Halt, Part, RingError};
use crate::ring::{Marks, Ring};
use virtio_mdev_api::dirty::{DirtyRecord, RingPart};
use virtio_mdev_api::dma::{AccessError, View};

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

fn marks<'a>(ring: &Ring, dirty: &'a DirtyRecord) -> Marks<'a> {
    Marks { dirty, part: RingPart { queue: ring.index, elsewhere: ring.elsewhere } }
}
