//! Which pages a device wrote, for those who copy memory while it runs (live migration).
//!
//! Sources (queues) report what they wrote; any number of consumers each see all of it and clear their own copy.

mod log;
mod pages;
mod rings;
mod word;
mod writers;

pub use log::{LOG_PAGE, Log, LogError, LogSetup, LoggedRing, RingLog, log_len};
pub use pages::{DirtyPages, DirtyWord};
pub use writers::{WriterGuard, Writers};

/// What `word` is built on.
mod sync {
    pub use std::sync::atomic::{AtomicU64, Ordering, fence};
}

use crate::HasErrno;
use arc_swap::ArcSwap;
use nix::errno::Errno;
use parking_lot::Mutex;
use rustix::thread::{MembarrierCommand, membarrier};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Most pages that a log can have: 8 TiB of pages of 4 KiB.
pub const MAX_PAGES: u64 = 1 << 31;

/// How long a change of the listeners waits for marks under way.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whose ring was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingPart {
    /// The queue.
    pub queue: u16,
    /// The ring is in another address space than the buffers.
    pub elsewhere: bool,
}

/// Is told of every write at once (vhost's log).
pub trait DirtySink: Send + Sync {
    /// The `len` bytes at `iova` were written; the range is not empty and does not wrap. Called on a queue's thread.
    fn mark(&self, iova: u64, len: u64);

    /// The same, of a part of `ring`. A ring elsewhere is in memory that most are not interested in.
    fn mark_ring(&self, ring: RingPart, iova: u64, len: u64) {
        if !ring.elsewhere {
            self.mark(iova, len);
        }
    }

    /// A burst of writes is over. An error says that one of them is not recorded and will be missed: the device must
    /// stop.
    fn flush(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// Why there is no such record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DirtyError {
    /// The page size is no power of two.
    #[error("{0} is no page size")]
    PageSize(u64),
    /// The memory for a log has a gap here, or cannot be read and written.
    #[error("the memory of the log is not whole at {at:#x}")]
    Bitmap {
        /// Byte of the log.
        at: u64,
    },
}

impl HasErrno for DirtyError {
    fn errno(&self) -> Errno {
        match self {
            Self::PageSize(_) | Self::Bitmap { .. } => Errno::EINVAL,
        }
    }
}

/// Where the writes of a device are reported.
pub struct DirtyRecord {
    /// Whether anybody listens.
    active: AtomicBool,
    sinks: ArcSwap<Vec<Listener>>,
    changes: Mutex<()>,
    next: AtomicU64,
}

#[derive(Clone)]
struct Listener {
    id: u64,
    sink: Arc<dyn DirtySink>,
}

impl DirtyRecord {
    /// A record nobody listens to.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            active: AtomicBool::new(false),
            sinks: ArcSwap::from_pointee(Vec::new()),
            changes: Mutex::new(()),
            next: AtomicU64::new(0),
        })
    }

    /// A record for a queue with its ring in the memory `whole` is about, and its buffers in other memory: `whole` is told
    /// of writes to the ring.
    pub fn of_ring(whole: Arc<Self>) -> Arc<Self> {
        let sink = Arc::new(rings::Rings(whole));
        Arc::new(Self {
            active: AtomicBool::new(true),
            sinks: ArcSwap::from_pointee(vec![Listener { id: 0, sink }]),
            changes: Mutex::new(()),
            next: AtomicU64::new(1),
        })
    }

    /// Whether anybody listens: one relaxed load. Ask **after** writing: then a consumer made in between either sees the
    /// mark, or was made after the write was there to be copied.
    #[inline]
    pub fn is_active(&self) -> bool {
        compiler_fence(Ordering::SeqCst);
        self.active.load(Ordering::Relaxed)
    }

    /// The `len` bytes at `iova` were written. Call it after the write, before the driver is told of it, and within the burst
    /// or lease that the write was made in: whoever unmaps the memory takes its marks when that is over.
    ///
    /// What lies beyond the end of the 64-bit space is ignored.
    #[inline]
    pub fn mark(&self, iova: u64, len: u64) {
        if self.is_active() {
            self.mark_all([(iova, len)]);
        }
    }

    /// All these ranges (address, length) were written: cheaper than one by one.
    #[inline]
    pub fn mark_all(&self, ranges: impl IntoIterator<Item = (u64, u64)>) {
        if self.is_active() {
            self.tell(ranges, |sink, iova, len| sink.mark(iova, len));
        }
    }

    /// All these ranges of a ring were written.
    #[inline]
    pub fn mark_ring(&self, ring: RingPart, ranges: impl IntoIterator<Item = (u64, u64)>) {
        if self.is_active() {
            self.tell(ranges, |sink, iova, len| sink.mark_ring(ring, iova, len));
        }
    }

    /// To be called at the end of every burst, outside of it: listeners may be a client's. An error says that a write
    /// could not be recorded: the device must stop.
    pub fn flush(&self) -> Result<(), LogError> {
        if !self.is_active() {
            return Ok(());
        }
        self.sinks.load().iter().try_for_each(|listener| listener.sink.flush())
    }

    fn tell(&self, ranges: impl IntoIterator<Item = (u64, u64)>, mark: impl Fn(&dyn DirtySink, u64, u64)) {
        word::written();
        let sinks = self.sinks.load();
        for (iova, len) in ranges {
            let len = len.min((u64::MAX - iova).saturating_add(1));
            if len == 0 {
                continue;
            }
            for listener in sinks.iter() {
                mark(&*listener.sink, iova, len);
            }
        }
    }

    /// From now on, `sink` is told.
    pub fn add_sink(self: &Arc<Self>, sink: Arc<dyn DirtySink>) -> SinkGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let first = self.change(|listeners| listeners.push(Listener { id, sink }));
        // Sources see a new listener of a record that has some after a fence of their own (`mark_all`); they have none
        // on their way when nobody listens, so the first listener brings it. When this returns, every write whose
        // source did not see the listener is visible to whoever copies memory next.
        word::taken();
        if first {
            fence_sources();
        }
        SinkGuard { record: Arc::clone(self), id }
    }

    /// Whether nobody listened before.
    fn change(&self, edit: impl FnOnce(&mut Vec<Listener>)) -> bool {
        let _one_at_a_time = self.changes.lock();
        let mut listeners = self.sinks.load().to_vec();
        let first = listeners.is_empty();
        edit(&mut listeners);
        let active = !listeners.is_empty();
        let old = self.sinks.swap(Arc::new(listeners));
        self.active.store(active, Ordering::Release);
        wait_for_last(&old);
        first
    }
}

/// A full fence on every thread that is a source. The one of the whole machine takes milliseconds, that of a process,
/// which has to be asked for once, takes none; all sources are threads of this process.
fn fence_sources() {
    static OURS: LazyLock<bool> = LazyLock::new(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok());
    let command = if *OURS { MembarrierCommand::PrivateExpedited } else { MembarrierCommand::Global };
    if let Err(error) = membarrier(command) {
        tracing::debug!(%error, "no membarrier");
    }
}

/// Waits until no source goes through `listeners` any more, for a bounded time: a listener in a client's memory may take
/// as long as the client likes.
fn wait_for_last(listeners: &Arc<Vec<Listener>>) {
    let begun = Instant::now();
    while Arc::strong_count(listeners) > 1 {
        if begun.elapsed() >= PATIENCE {
            tracing::warn!("a mark of a dirty page takes long, and may come late");
            return;
        }
        std::thread::yield_now();
    }
}

impl fmt::Debug for DirtyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyRecord").field("listeners", &self.sinks.load().len()).finish_non_exhaustive()
    }
}

/// Ends the reports to a sink when dropped. Afterwards no mark arrives.
#[must_use = "dropping the guard ends the reports"]
pub struct SinkGuard {
    record: Arc<DirtyRecord>,
    id: u64,
}

impl Drop for SinkGuard {
    fn drop(&mut self) {
        self.record.change(|listeners| listeners.retain(|listener| listener.id != self.id));
    }
}
