//! The control queue (virtio 1.3 §5.1.6.5).
//!
//! Every command is done when its burst ends: none waits for anything. Receive modes and filter tables are taken and
//! nothing is filtered, which the specification leaves to the device: what is behind the card decides who gets what.

use crate::config::NetConfig;
use crate::features::{VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ};
use crate::mac::Mac;
use std::sync::Arc;
use virtio_mdev_api::DeviceLink;
use virtqueue::{Chain, Halt, Io, Next, Queue};

/// Commands of one burst.
const BURST: usize = 16;
/// Longest command: two filter tables of some hundred addresses.
const MAX_COMMAND: usize = 4096;

const OK: u8 = 0;
const ERR: u8 = 1;

/// Classes, with their commands.
const RX: u8 = 0;
const RX_PROMISC: u8 = 0;
const RX_ALLMULTI: u8 = 1;
const MAC: u8 = 1;
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDR_SET: u8 = 1;
const MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;

/// Which queue takes commands, with `features` in effect: the last of those there are then.
pub fn control_queue(features: u64, pairs: u16) -> Option<u16> {
    let pairs = if features & VIRTIO_NET_F_MQ != 0 { pairs } else { 1 };
    (features & VIRTIO_NET_F_CTRL_VQ != 0).then(|| 2 * pairs)
}

/// Does what a driver commands.
pub struct Control {
    config: Arc<NetConfig>,
    link: DeviceLink,
    /// Configuration space is another than before the burst.
    changed: bool,
    command: Box<[u8]>,
}

impl Control {
    pub fn new(config: Arc<NetConfig>, link: DeviceLink) -> Self {
        Self { config, link, changed: false, command: vec![0; MAX_COMMAND].into_boxed_slice() }
    }

    /// Does what waits in the queue, at most a burst of it.
    pub fn serve(&mut self, queue: &mut Queue, features: u64) -> Next {
        if queue.is_parked() {
            return Next::Wait;
        }
        let served = queue.burst(|io| self.burst(io, features));
        // Not within the burst: the notifier is the client's.
        if std::mem::take(&mut self.changed) {
            self.link.config_changed();
        }
        served.unwrap_or(Next::Again)
    }

    /// Asks the driver to tell of the next command.
    pub fn rest(&self, queue: &mut Queue) -> Next {
        if queue.is_parked() {
            return Next::Wait;
        }
        match queue.burst(|io| io.enable_notifications()) {
            Ok(false) => Next::Wait,
            Ok(true) | Err(_) => Next::Again,
        }
    }

    fn burst(&mut self, io: &mut Io<'_>, features: u64) -> Result<Next, Halt> {
        let mut next = Next::Wait;
        for _ in 0..BURST {
            let Some(chain) = io.take()? else { break };
            next = Next::Again;
            io.disable_notifications()?;
            if chain.writable == 0 {
                return Err(io.refuse(&chain, "control command without room for its answer"));
            }
            let answer = self.obey(io, &chain, features)?;
            io.write(&chain, 0, &[answer])?;
            io.complete(&chain, 1);
            io.commit();
        }
        Ok(next)
    }

    fn obey(&mut self, io: &Io<'_>, chain: &Chain, features: u64) -> Result<u8, Halt> {
        if chain.readable > self.command.len() as u64 {
            return Ok(ERR);
        }
        let len = io.read(chain, 0, &mut self.command)?;
        let [class, command, ref data @ ..] = self.command[..len] else { return Ok(ERR) };
        let has = |feature| features & feature != 0;
        let done = match (class, command, data) {
            (RX, RX_PROMISC | RX_ALLMULTI, [0 | 1]) => has(VIRTIO_NET_F_CTRL_RX),
            (MAC, MAC_TABLE_SET, tables) => has(VIRTIO_NET_F_CTRL_RX) && are_tables(tables),
            (MAC, MAC_ADDR_SET, &[a, b, c, d, e, f]) if has(VIRTIO_NET_F_CTRL_MAC_ADDR) => {
                let mac = Mac::of_station([a, b, c, d, e, f]);
                if let Ok(mac) = mac {
                    self.changed |= mac != self.config.mac();
                    self.config.set_mac(mac);
                }
                mac.is_ok()
            }
            (MQ, MQ_VQ_PAIRS_SET, &[low, high]) if has(VIRTIO_NET_F_MQ) => {
                let pairs = u16::from_le_bytes([low, high]);
                let known = (1..=self.config.pairs()).contains(&pairs);
                if known {
                    self.config.enable(pairs);
                }
                known
            }
            _ => false,
        };
        Ok(if done { OK } else { ERR })
    }
}

/// Whether these are the tables of single and of group addresses, each a number of them and as many.
fn are_tables(bytes: &[u8]) -> bool {
    let rest = |bytes| -> Option<&[u8]> {
        let (count, table) = <[u8]>::split_first_chunk(bytes)?;
        table.get(usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?..)
    };
    rest(bytes).and_then(rest) == Some(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_queue_is_the_last_of_those_negotiated() {
        assert_eq!(control_queue(VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_MQ, 4), Some(8));
        assert_eq!(control_queue(VIRTIO_NET_F_CTRL_VQ, 4), Some(2));
        assert_eq!(control_queue(0, 4), None);
    }

    #[test]
    fn f22_tables_are_as_long_as_they_say() {
        assert!(are_tables(&[0; 8]));
        assert!(are_tables(&[&[1, 0, 0, 0][..], &[2; 6], &[0; 4]].concat()));
        for wrong in
            [&[][..], &[0; 7], &[0; 9], &[1, 0, 0, 0, 2, 2], &[0xff; 16], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]]
        {
            assert!(!are_tables(wrong), "{wrong:?}");
        }
    }
}
