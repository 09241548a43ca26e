//! The wire that goes back.

use virtio_mdev_api::Refusal;
use virtio_net::{Delivery, Halt, Port, Receiver, Sent, Statistics};

pub struct LoopbackPort;

impl Port for LoopbackPort {
    const RETURNS: bool = true;

    fn start(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn send(&mut self, frame: &mut [u8], driver: &mut Receiver<'_, '_>, _: &Statistics) -> Result<Sent, Halt> {
        Ok(match driver.deliver(frame)? {
            Delivery::Delivered => Sent::Taken,
            Delivery::NoBuffers => Sent::Busy,
            Delivery::Dropped => Sent::Dropped,
        })
    }
}
