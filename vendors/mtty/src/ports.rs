//! How many ports there are left.

use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use virtio_mdev_api::Refusal;

/// The ports of a parent.
#[derive(Debug)]
pub struct Ports {
    all: u32,
    free: AtomicU32,
}

impl Ports {
    /// So many, none of them taken.
    pub fn new(all: u32) -> Arc<Self> {
        Arc::new(Self { all, free: AtomicU32::new(all) })
    }

    /// How many are left.
    pub fn free(&self) -> u32 {
        self.free.load(Ordering::Acquire)
    }

    /// Takes `count`, or ENOSPC. Of two that race for the last ones, one gets them.
    pub fn take(self: &Arc<Self>, count: u32) -> Result<Taken, Refusal> {
        let taken = self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(count));
        match taken {
            Ok(_) => Ok(Taken { ports: Arc::clone(self), count }),
            Err(free) => {
                let words = format!("{count} ports wanted, {free} of {} are left", self.all);
                Err(Refusal::new(Errno::ENOSPC, words))
            }
        }
    }
}

/// Ports of one card, given back when dropped.
#[derive(Debug)]
pub struct Taken {
    ports: Arc<Ports>,
    count: u32,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.ports.free.fetch_add(self.count, Ordering::AcqRel);
    }
}
