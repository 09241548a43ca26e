//! The wire that ends.

use virtio_mdev_api::Refusal;
use virtio_net::{Halt, Port, Receiver, Sent, Statistics};

pub struct SinkPort;

impl Port for SinkPort {
    fn start(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn send(&mut self, _: &mut [u8], _: &mut Receiver<'_, '_>, _: &Statistics) -> Result<Sent, Halt> {
        Ok(Sent::Taken)
    }
}
