//! When has everybody stopped using an old version of the table?
//!
//! A reader **announces** that it enters, then loads what is published. A writer **publishes**, then looks at the
//! announcements. With a full fence between the two steps on both sides, one of them sees the other: either the writer
//! sees the announcement and waits, or the reader loads the new version. Memory used beyond a burst is counted
//! (a *lease*), in one of two banks: every unmap begins a new bank, so that waiting for the old one ends.
//!
//! This file uses nothing but `super::sync`, so that a model checker can run it on atomics of its own.

use super::sync::{AtomicU64, AtomicUsize, Ordering, fence};

const IDLE: u64 = 0;
/// Has announced itself and not yet said what it loaded: older than every version.
const ENTERING: u64 = 1;
/// The number of the first version.
pub const FIRST_GENERATION: u64 = 2;

/// What one reader tells writers.
#[derive(Debug)]
pub struct Slot {
    announced: AtomicU64,
    leases: [AtomicUsize; 2],
}

impl Slot {
    pub fn new() -> Self {
        Self { announced: AtomicU64::new(IDLE), leases: [AtomicUsize::new(0), AtomicUsize::new(0)] }
    }

    /// To be called before loading what is published.
    #[inline]
    pub fn announce(&self) {
        self.announced.store(ENTERING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// To be called after loading version `generation`: those who wait for an older one need not wait any more.
    #[inline]
    pub fn entered(&self, generation: u64) {
        self.announced.store(generation, Ordering::Release);
    }

    /// The reader uses nothing any more.
    #[inline]
    pub fn leave(&self) {
        self.announced.store(IDLE, Ordering::Release);
    }

    /// The reader, which has entered a version of this bank, will use it beyond its burst.
    pub fn lease(&self, bank: usize) {
        self.leases[bank].fetch_add(1, Ordering::Relaxed);
    }

    /// The end of one lease; on any thread.
    pub fn end_lease(&self, bank: usize) {
        self.leases[bank].fetch_sub(1, Ordering::Release);
    }

    /// Whether the reader may use a version older than `generation`, which is published and the first one not in
    /// `old_bank`. Called after [`published`].
    pub fn is_behind(&self, generation: u64, old_bank: usize) -> bool {
        // In this order: a lease is taken in a burst, so it is counted before the burst ends.
        let announced = self.announced.load(Ordering::Acquire);
        (announced != IDLE && announced < generation) || self.leases[old_bank].load(Ordering::Acquire) != 0
    }

    /// Whether nothing is used beyond bursts.
    pub fn has_no_leases(&self) -> bool {
        self.leases.iter().all(|count| count.load(Ordering::Acquire) == 0)
    }
}

/// To be called after publishing a version and before looking at slots.
pub fn published() {
    fence(Ordering::SeqCst);
}
