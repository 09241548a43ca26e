//! What is done with a control queue, beside the queues of frames.

use crate::control::Control;
use crate::pair::Shared;
use std::sync::Arc;
use virtqueue::{Next, Service, Slot, Waker};

/// The control queue of a device.
pub struct ControlService {
    shared: Shared,
    control: Control,
    queue: Arc<Slot>,
    /// Of the pairs.
    wakers: Vec<Arc<Waker>>,
    /// In effect.
    features: u64,
}

impl ControlService {
    /// `wakers` wake who serves the pairs.
    pub fn new(shared: Shared, wakers: Vec<Arc<Waker>>) -> Self {
        let control = Control::new(Arc::clone(&shared.config), shared.health.link().clone());
        Self { shared, control, queue: Slot::new(), wakers, features: 0 }
    }

    /// The queues of the device are about to start; `features` are in effect.
    pub fn start(&mut self, features: u64) {
        self.features = features;
    }
}

impl Service for ControlService {
    fn slots(&self) -> Vec<Arc<Slot>> {
        vec![Arc::clone(&self.queue)]
    }

    fn serve(&mut self) -> Next {
        if self.shared.health.is_stopped() {
            return Next::Wait;
        }
        let (enabled, wanted) = (self.shared.config.enabled(), self.shared.config.wanted());
        let serve = |queue: &mut _| self.control.serve(queue, self.features);
        let next = self.queue.work(|queue| queue.map_or(Next::Wait, serve));
        if self.shared.config.enabled() != enabled || !Arc::ptr_eq(&self.shared.config.wanted(), &wanted) {
            // Frames that wait for buffers of one lane may go to another now.
            self.wakers.iter().for_each(|waker| waker.wake());
        }
        next
    }

    fn rest(&mut self) -> Next {
        if self.shared.health.is_stopped() {
            return Next::Wait;
        }
        self.queue.work(|queue| queue.map_or(Next::Wait, |queue| self.control.rest(queue)))
    }
}
