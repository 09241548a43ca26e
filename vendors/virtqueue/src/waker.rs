//! What ends the waiting of queues: control, and new mappings for those that miss some.

use crate::sync::{AtomicBool, EventFd, Ordering, fence};
use nix::errno::Errno;
use virtio_mdev_api::dma::{Limits, Region, Subscriber};

/// Wakes the thread of a device.
#[derive(Debug)]
pub struct Waker {
    fd: EventFd,
    /// Whether a queue waits for memory.
    armed: AtomicBool,
}

impl Waker {
    /// A waker nobody has woken.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self { fd: EventFd::new()?, armed: AtomicBool::new(false) })
    }

    /// Becomes readable when woken.
    pub fn fd(&self) -> &EventFd {
        &self.fd
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        if let Err(errno) = self.fd.signal() {
            tracing::error!(%errno, "cannot wake a device's thread");
        }
    }

    /// From now on, a new version of the table of mappings wakes the thread, once. Look at the version after this.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

impl Subscriber for Waker {
    fn name(&self) -> String {
        "queue".to_owned()
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn map(&self, _region: &Region) -> Result<(), Errno> {
        Ok(())
    }

    fn unmap(&self, _iova: u64, _len: u64) {}

    fn replace(&self, _removed: &[Region], _added: &[Region]) -> Result<(), Errno> {
        Ok(())
    }

    fn published(&self, _generation: u64) {
        fence(Ordering::SeqCst);
        if self.armed.swap(false, Ordering::Relaxed) {
            self.wake();
        }
    }
}
