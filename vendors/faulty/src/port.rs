//! The wire that goes back, with faults.

use crate::faults::Faults;
use std::sync::Arc;
use virtio_mdev_api::{DeviceLink, Refusal};
use virtio_net::{Delivery, HEADER, Halt, Port, Receiver, Sent, Statistics};

pub struct FaultyPort {
    faults: Arc<Faults>,
    link: DeviceLink,
}

impl FaultyPort {
    pub fn new(faults: Arc<Faults>, link: DeviceLink) -> Self {
        Self { faults, link }
    }
}

impl Port for FaultyPort {
    const RETURNS: bool = true;

    fn start(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn send(&mut self, frame: &mut [u8], driver: &mut Receiver<'_, '_>, _: &Statistics) -> Result<Sent, Halt> {
        if self.faults.needs_reset_after.strikes() {
            self.link.fault(None, "it was told to ask for a reset");
        }
        let missing = usize::try_from(self.faults.short_used.get()).unwrap_or(usize::MAX);
        let len = frame.len().saturating_sub(missing).max(HEADER);
        Ok(match driver.deliver(&mut frame[..len])? {
            Delivery::Delivered => Sent::Taken,
            Delivery::NoBuffers => Sent::Busy,
            Delivery::Dropped => Sent::Dropped,
        })
    }
}
