//! What an operator sees of the interface, and sets.

use crate::tun::Tun;
use nix::errno::Errno;
use std::sync::Arc;
use virtio_mdev_api::{AttributeSpec, Refusal};
use virtio_net::{Controls, LinkState, Seat};

pub struct TapControls {
    pub tun: Arc<Tun>,
    pub link: Arc<LinkState>,
    /// Given back with the instance.
    pub _seat: Seat,
}

impl Controls for TapControls {
    fn attributes(&self) -> Vec<AttributeSpec> {
        let attribute = |name: &str, writable| AttributeSpec { name: name.to_owned(), writable };
        vec![attribute("ifname", false), attribute("link", true)]
    }

    fn show(&mut self, name: &str) -> Option<Result<String, Refusal>> {
        match name {
            "ifname" => Some(Ok(self.tun.name().to_owned())),
            "link" => Some(Ok(if self.link.is_up() { "up" } else { "down" }.to_owned())),
            _ => None,
        }
    }

    fn store(&mut self, name: &str, value: &str) -> Option<Result<(), Refusal>> {
        (name == "link").then(|| {
            let up = match value {
                "up" => true,
                "down" => false,
                _ => return Err(Refusal::new(Errno::EINVAL, format!("link is up or down, not {value}"))),
            };
            let carrier = self.tun.set_carrier(up);
            carrier.map_err(|errno| Refusal::new(errno, "the interface does not take a carrier state"))?;
            self.link.set(up);
            Ok(())
        })
    }
}
