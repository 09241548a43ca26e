//! How many instances there may be.

use crate::port::Controls;
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use virtio_mdev_api::Refusal;

/// Counts the instances of a parent.
#[derive(Debug)]
pub struct Seats {
    capacity: u32,
    free: AtomicU32,
}

impl Seats {
    /// Room for `capacity`.
    pub fn new(capacity: u32) -> Arc<Self> {
        Arc::new(Self { capacity, free: AtomicU32::new(capacity) })
    }

    /// How many more there can be.
    pub fn free(&self) -> u32 {
        self.free.load(Ordering::Acquire)
    }

    /// Takes one, or ENOSPC. Of two that race for the last one, one gets it.
    pub fn take(self: &Arc<Self>) -> Result<Seat, Refusal> {
        let taken = self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(1));
        match taken {
            Ok(_) => Ok(Seat(Arc::clone(self))),
            Err(_) => Err(Refusal::new(Errno::ENOSPC, format!("all {} instances are in use", self.capacity))),
        }
    }
}

/// One instance's place, given back when dropped. It lives with the device, whose controls it has none to add to.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::AcqRel);
    }
}

impl Controls for Seat {}
