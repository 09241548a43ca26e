//! What is behind a queue pair: frames come from outside, and go nowhere.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use virtio_mdev_api::Refusal;
use virtio_mdev_api::notify::EventFd;
use virtio_net::{Delivery, HEADER, Halt, Interest, Next, Port, Receiver, Statistics};

/// The other end.
pub struct End {
    frames: Mutex<VecDeque<Vec<u8>>>,
    bell: EventFd,
}

impl End {
    pub fn new() -> Self {
        Self { frames: Mutex::default(), bell: EventFd::new().expect("eventfd") }
    }

    /// Sends a frame, which is without virtio-net header.
    pub fn put(&self, frame: Vec<u8>) {
        self.frames.lock().push_back([vec![0; HEADER], frame].concat());
        self.bell.signal().expect("a bell");
    }
}

pub struct Wire(pub Arc<End>);

impl Port for Wire {
    const OUTSIDE: bool = true;

    fn start(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn may_receive(&self) -> bool {
        true
    }

    fn receive(&mut self, driver: &mut Receiver<'_, '_>, _statistics: &Statistics) -> Result<Next, Halt> {
        let mut frames = self.0.frames.lock();
        while let Some(frame) = frames.front_mut() {
            if driver.deliver(frame)? == Delivery::NoBuffers {
                break;
            }
            frames.pop_front();
        }
        Ok(Next::Wait)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.bell.as_fd())
    }

    fn interest(&self) -> Interest {
        Interest::Input
    }

    fn ready(&mut self) {
        self.0.bell.drain().expect("a bell");
    }
}
