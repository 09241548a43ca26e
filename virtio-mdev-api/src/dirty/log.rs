//! vhost's dirty log: a bitmap in the memory of a client, who is told by an eventfd and sends no message.
//!
//! One bit a page of 4096 bytes, the page at 0 in the lowest bit of the first byte. A bit is set after the page was
//! written, atomically, because the client takes bits out at any time.

use super::{DirtyError, DirtySink, RingPart};
use crate::dma::{Backing, Permissions, Region};
use crate::notify::CallSlot;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use thiserror::Error;
use vm_memory::VolatileMemory;

/// Bytes of a page of the log, whatever the machine's pages are.
pub const LOG_PAGE: u64 = 4096;

/// How many bytes a log needs that records all addresses up to `last`.
pub fn log_len(last: u64) -> u64 {
    last / LOG_PAGE / 8 + 1
}

/// Why a write could not be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LogError {
    /// The log is too short for this address.
    #[error("the dirty log has no bit for {0:#x}")]
    Beyond(u64),
    /// The client took this byte of its log away.
    #[error("the memory of the dirty log is gone at byte {0:#x}")]
    Gone(u64),
}

/// The used ring of a queue for which `VHOST_VRING_F_LOG` was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedRing {
    /// First address.
    pub first: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where the log has that first address (`log_guest_addr`).
    pub log: u64,
}

impl LoggedRing {
    /// The last address that the log must have for it; `None` when it wraps.
    pub fn last_logged(&self) -> Option<u64> {
        self.log.checked_add(self.len.saturating_sub(1))
    }
}

/// What a [`Log`] is made of.
pub struct LogSetup {
    /// The bitmap: regions from address 0 on, without a gap, that a device may read and write.
    pub bitmap: Vec<Region>,
    /// What becomes of writes to used rings, by queue. Those of a queue that is absent are recorded like any other.
    pub rings: Vec<RingLog>,
    /// Who is told that something was recorded (`VHOST_SET_LOG_FD`).
    pub notify: Arc<CallSlot>,
}

/// What becomes of writes to a used ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingLog {
    /// Nothing: the client did not ask for it.
    Unlogged,
    /// It is recorded at an address of its own.
    At(LoggedRing),
}

/// A dirty log. It is a [`DirtySink`].
///
/// It never writes outside of its bitmap; what it cannot record it remembers, and [`flush`](DirtySink::flush) says so.
pub struct Log {
    setup: LogSetup,
    len: u64,
    /// Something was recorded and nobody was told.
    news: AtomicBool,
    failure: OnceLock<LogError>,
}

impl Log {
    /// A log in `setup.bitmap`; EINVAL when that has a gap or is not for reading and writing.
    pub fn new(setup: LogSetup) -> Result<Arc<Self>, DirtyError> {
        let mut len = 0u64;
        for region in &setup.bitmap {
            if region.iova != len || !region.permissions.contains(Permissions::READ | Permissions::WRITE) {
                return Err(DirtyError::Bitmap { at: region.iova });
            }
            len = len.checked_add(region.len).ok_or(DirtyError::Bitmap { at: region.iova })?;
        }
        Ok(Arc::new(Self { setup, len, news: AtomicBool::new(false), failure: OnceLock::new() }))
    }

    /// Records the `len` bytes at `addr`, an address of the log.
    fn record(&self, addr: u64, len: u64) {
        let Some(last) = len.checked_sub(1).map(|len| addr.saturating_add(len)) else { return };
        let (first, last) = (addr / LOG_PAGE, last / LOG_PAGE);
        self.news.store(true, Ordering::Release);
        for byte in first / 8..=last / 8 {
            let low = if byte == first / 8 { u8::MAX << (first % 8) } else { u8::MAX };
            let high = if byte == last / 8 { u8::MAX >> (7 - last % 8) } else { u8::MAX };
            if let Err(error) = self.set(byte, low & high) {
                // The first one is what stops the device.
                let _ = self.failure.set(error);
                return;
            }
        }
    }

    /// Sets bits in a byte of the bitmap. Bits that are set are left alone, so that queues which write the same pages do
    /// not contend.
    fn set(&self, byte: u64, mask: u8) -> Result<(), LogError> {
        if byte >= self.len {
            return Err(LogError::Beyond(byte * 8 * LOG_PAGE));
        }
        let gone = LogError::Gone(byte);
        let at = self.setup.bitmap.partition_point(|region| region.last() < byte);
        let region = self.setup.bitmap.get(at).ok_or(gone)?;
        let skipped = byte - region.iova;
        match &region.backing {
            Backing::Shared { memory, offset } => {
                let at = usize::try_from(skipped).ok().and_then(|skipped| offset.checked_add(skipped)).ok_or(gone)?;
                let slice = memory.slice();
                let bits = slice.get_atomic_ref::<AtomicU8>(at).map_err(|_| gone)?;
                if bits.load(Ordering::Relaxed) & mask != mask {
                    bits.fetch_or(mask, Ordering::Release);
                }
                if memory.faulted() { Err(gone) } else { Ok(()) }
            }
            Backing::Remote { memory, addr } => {
                let at = addr.checked_add(skipped).ok_or(gone)?;
                // Bits that the client takes out meanwhile come back: a page is copied once too often.
                memory.set_bits(at, mask).map_err(|_| gone)
            }
        }
    }
}

impl DirtySink for Log {
    fn mark(&self, iova: u64, len: u64) {
        self.record(iova, len);
    }

    fn mark_ring(&self, ring: RingPart, iova: u64, len: u64) {
        match self.setup.rings.get(usize::from(ring.queue)) {
            Some(RingLog::Unlogged) => {}
            Some(RingLog::At(used)) if iova >= used.first && iova - used.first < used.len => {
                self.record(used.log.saturating_add(iova - used.first), len);
            }
            _ if ring.elsewhere => {}
            _ => self.mark(iova, len),
        }
    }

    fn flush(&self) -> Result<(), LogError> {
        if self.news.swap(false, Ordering::AcqRel)
            && let Err(errno) = self.setup.notify.signal()
        {
            // The log is in memory; a client that makes its eventfd block has to look there.
            tracing::debug!(%errno, "who reads the dirty log was not told");
        }
        self.failure.get().map_or(Ok(()), |error| Err(*error))
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("len", &self.len).field("failure", &self.failure).finish_non_exhaustive()
    }
}
