//! A queue as its slot and its task know it. Its ring is behind a lock: the orders of rings have a model of their own.

use crate::memory::Memory;
use crate::sync::EventFd;
use loom::sync::Condvar;
use std::sync::Arc;
use virtio_mdev_api::QueueState;
use virtio_mdev_api::doorbell::Doorbell;

/// What a driver and a device have in common.
#[derive(Default)]
pub struct Ring {
    chains: loom::sync::Mutex<Chains>,
    changed: Condvar,
    /// What it is in.
    pub memory: Memory,
}

#[derive(Default)]
struct Chains {
    posted: u16,
    used: u16,
    /// The driver was asked to tell of the next one.
    asked: bool,
}

impl Ring {
    /// Posts a chain; whether the driver has to tell of it.
    pub fn post(&self) -> bool {
        let mut chains = self.chains.lock().unwrap();
        chains.posted += 1;
        chains.asked
    }

    /// Waits until so many chains were used.
    pub fn wait(&self, count: u16) {
        let mut chains = self.chains.lock().unwrap();
        while chains.used < count {
            chains = self.changed.wait(chains).unwrap();
        }
    }

    /// Uses what there is. Says whether that was any.
    pub fn serve(&self) -> bool {
        let mut chains = self.chains.lock().unwrap();
        let found = chains.used != chains.posted;
        if found {
            (chains.used, chains.asked) = (chains.posted, false);
            self.changed.notify_all();
        }
        found
    }

    /// Asks to be told of the next chain. Says whether there is one already.
    pub fn ask(&self) -> bool {
        let mut chains = self.chains.lock().unwrap();
        chains.asked = true;
        self.changed.notify_all();
        chains.used != chains.posted
    }

    /// Waits until the driver is asked to tell of the next chain.
    pub fn wait_until_it_rests(&self) {
        let mut chains = self.chains.lock().unwrap();
        while !chains.asked {
            chains = self.changed.wait(chains).unwrap();
        }
    }

    /// As the device would leave it on its way from serving to sleep.
    fn used(&self) -> u16 {
        self.chains.lock().unwrap().used
    }
}

/// A running queue.
pub struct Queue {
    pub ring: Arc<Ring>,
    kick: Option<EventFd>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

impl Queue {
    pub fn new(ring: &Arc<Ring>, kick: &EventFd) -> Self {
        Self { ring: Arc::clone(ring), kick: Some(kick.clone()) }
    }

    pub fn kick(&self) -> Option<&EventFd> {
        self.kick.as_ref()
    }

    pub fn doorbell(&self) -> Option<&Doorbell> {
        None
    }

    pub fn is_slow(&self) -> bool {
        false
    }

    pub fn interrupt(&mut self) {}

    pub fn resume(&mut self) -> bool {
        false
    }

    /// It holds nothing back.
    pub fn release(&mut self) {}

    pub fn state(&self) -> QueueState {
        QueueState::Split { avail: self.ring.used() }
    }
}
