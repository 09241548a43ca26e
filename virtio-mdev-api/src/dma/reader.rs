//! Queue threads: how they hold on to a version of the table, and for how long.

use super::quiesce::Slot;
use super::{AddressSpace, Snapshot, View};
use arc_swap::Guard;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Told when a reader does not leave unmapped memory in time. The memory was replaced under it, so whatever it computes
/// is worthless: its instance has to be broken.
pub trait StallHandler: Send + Sync {
    /// The reader called `reader` stalled. Called on the thread that unmaps, with no lock held; must not wait for the
    /// reader.
    fn stalled(&self, reader: &str);
}

impl<F: Fn(&str) + Send + Sync> StallHandler for F {
    fn stalled(&self, reader: &str) {
        self(reader);
    }
}

/// A reader as the space keeps it.
pub(super) struct ReaderSlot {
    pub name: String,
    pub slot: Slot,
    pub on_stall: Arc<dyn StallHandler>,
    /// Did not leave in time once and has not left since: nobody waits for it again.
    pub stalled: AtomicBool,
    /// The reader is no more; leases may be.
    pub gone: AtomicBool,
}

/// One queue thread's access to an address space.
pub struct Reader {
    pub(super) space: Arc<AddressSpace>,
    pub(super) slot: Arc<ReaderSlot>,
}

impl Reader {
    /// Begins a burst: what is mapped now stays accessible until the burst is dropped.
    ///
    /// Wait-free; takes no lock and does not allocate. Keep bursts short (no system call that can block): an unmap waits
    /// for them, and revokes the memory after a while.
    #[inline]
    pub fn enter(&mut self) -> Burst<'_> {
        self.slot.slot.announce();
        let snapshot = self.space.published();
        self.slot.slot.entered(snapshot.generation);
        Burst { slot: &self.slot, snapshot: Some(snapshot) }
    }

    /// The space.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.slot.gone.store(true, Ordering::Release);
        self.space.forget_gone_readers();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("name", &self.slot.name).finish_non_exhaustive()
    }
}

/// A short time during which nothing that was mapped at its beginning goes away.
pub struct Burst<'r> {
    slot: &'r Arc<ReaderSlot>,
    /// `None` only while dropping.
    snapshot: Option<Guard<Arc<Snapshot>>>,
}

impl Burst<'_> {
    /// What is mapped.
    #[inline]
    pub fn snapshot(&self) -> &Snapshot {
        match &self.snapshot {
            Some(snapshot) => snapshot,
            None => unreachable!("the snapshot is there until the burst is dropped"),
        }
    }

    /// Access to the memory. A view remembers the last region it found: use one for the whole burst.
    #[inline]
    pub fn view(&self) -> View<'_> {
        self.snapshot().view()
    }

    /// Which version of the table this burst sees.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.snapshot().generation
    }

    /// Keeps what is mapped now accessible beyond the burst, for asynchronous I/O. An unmap waits for it too.
    pub fn lease(&self) -> Lease {
        let snapshot = match &self.snapshot {
            Some(snapshot) => Arc::clone(snapshot),
            None => unreachable!("the snapshot is there until the burst is dropped"),
        };
        self.slot.slot.lease(snapshot.bank);
        Lease { slot: Arc::clone(self.slot), bank: snapshot.bank, snapshot: Some(snapshot) }
    }
}

impl Drop for Burst<'_> {
    #[inline]
    fn drop(&mut self) {
        // First: once the thread has left, whoever unmaps wants to be the last owner of the memory.
        self.snapshot = None;
        self.slot.slot.leave();
    }
}

impl fmt::Debug for Burst<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Burst").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

/// Access to memory that outlives a burst, until dropped.
pub struct Lease {
    slot: Arc<ReaderSlot>,
    bank: usize,
    /// `None` only while dropping.
    snapshot: Option<Arc<Snapshot>>,
}

impl Lease {
    /// What was mapped when the lease was taken.
    pub fn snapshot(&self) -> &Snapshot {
        match &self.snapshot {
            Some(snapshot) => snapshot,
            None => unreachable!("the snapshot is there until the lease is dropped"),
        }
    }

    /// Access to the memory.
    pub fn view(&self) -> View<'_> {
        self.snapshot().view()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.snapshot = None;
        self.slot.slot.end_lease(self.bank);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("generation", &self.snapshot().generation).finish_non_exhaustive()
    }
}
