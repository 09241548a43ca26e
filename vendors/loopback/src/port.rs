//! The wire that goes back.

use virtio_mdev_api::Refusal;
use virtio_net::{Halt, Outgoing, Port, Receiver, Statistics};

pub struct LoopbackPort;

impl Port for LoopbackPort {
    const RETURNS: bool = true;

    fn start(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn transmit(
        &mut self,
        frames: &mut Outgoing<'_, '_>,
        driver: &mut Receiver<'_, '_>,
        _: &Statistics,
    ) -> Result<(), Halt> {
        while frames.take_header(|header, len, features| self.accepts(header, len, features))? {
            frames.return_to(driver)?;
        }
        Ok(())
    }
}
