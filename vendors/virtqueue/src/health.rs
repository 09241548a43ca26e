//! Whether a device may still run.

use crate::error::RingError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_mdev_api::DeviceLink;
use virtio_mdev_api::dma::StallHandler;

/// Shared by all queues of a device: after a fault of one, none does anything until the device is reset.
#[derive(Debug)]
pub struct Health {
    link: DeviceLink,
    stopped: AtomicBool,
}

impl Health {
    /// Of the device that `link` is the line of.
    pub fn new(link: DeviceLink) -> Arc<Self> {
        Arc::new(Self { link, stopped: AtomicBool::new(false) })
    }

    /// The device's line upward.
    pub fn link(&self) -> &DeviceLink {
        &self.link
    }

    /// The driver of queue `queue` broke the rules.
    pub fn ring_fault(&self, queue: u16, error: &RingError) {
        self.fault(Some(queue), &error.to_string());
    }

    /// Stops the device: DEVICE_NEEDS_RESET.
    pub fn fault(&self, queue: Option<u16>, reason: &str) {
        self.stopped.store(true, Ordering::Release);
        self.link.fault(queue, reason);
    }

    /// Whether the device waits for a reset.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The device was reset. None of its queues is running.
    pub fn reset(&self) {
        self.stopped.store(false, Ordering::Release);
    }
}

/// The memory of a queue was replaced under it: what it computes is worthless.
impl StallHandler for Health {
    fn stalled(&self, reader: &str) {
        self.fault(None, &format!("{reader} did not leave memory that was unmapped"));
    }
}
