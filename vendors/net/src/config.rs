//! Configuration space (virtio 1.3 §5.1.4).

use crate::mac::Mac;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_mdev_api::DeviceLink;

/// Bytes of `struct virtio_net_config`, all of its optional fields included.
pub const CONFIG_SIZE: u32 = 24;
const STATUS: usize = 6;
const MAX_PAIRS: usize = 8;
const MTU: usize = 10;
const LINK_UP: u16 = 1;

/// Whether the link is up, shared with whoever changes it.
#[derive(Debug)]
pub struct LinkState {
    up: AtomicBool,
    link: DeviceLink,
}

impl LinkState {
    /// Up.
    pub fn new(link: DeviceLink) -> Self {
        Self { up: AtomicBool::new(true), link }
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Sets it; a change is told to the driver.
    pub fn set(&self, up: bool) {
        if self.up.swap(up, Ordering::AcqRel) != up {
            self.link.config_changed();
        }
    }
}

/// The fields a driver reads.
#[derive(Debug, Clone, Copy)]
pub struct NetConfig {
    /// `mac`, the one field a driver may write here: without a control queue there is no other way to change it.
    pub mac: Mac,
    /// `mtu`.
    pub mtu: u16,
    /// `max_virtqueue_pairs`.
    pub pairs: u16,
}

impl NetConfig {
    /// Fills `out` from `offset`; beyond the fields there are zeros.
    pub fn read(&self, link_up: bool, offset: u32, out: &mut [u8]) {
        let mut bytes = [0; CONFIG_SIZE as usize];
        bytes[..6].copy_from_slice(&self.mac.bytes());
        bytes[STATUS..STATUS + 2].copy_from_slice(&if link_up { LINK_UP } else { 0 }.to_le_bytes());
        bytes[MAX_PAIRS..MAX_PAIRS + 2].copy_from_slice(&self.pairs.to_le_bytes());
        bytes[MTU..MTU + 2].copy_from_slice(&self.mtu.to_le_bytes());
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let tail = bytes.get(from..).unwrap_or(&[]);
        let len = tail.len().min(out.len());
        out[..len].copy_from_slice(&tail[..len]);
        out[len..].fill(0);
    }

    /// Writes the bytes that belong to the MAC address; the rest is read-only and ignored.
    pub fn write(&mut self, offset: u32, data: &[u8]) {
        let mut mac = self.mac.bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, byte) in mac.iter_mut().skip(from).zip(data) {
            *place = *byte;
        }
        self.mac = Mac::from(mac);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetConfig {
        NetConfig { mac: Mac::from([2, 1, 2, 3, 4, 5]), mtu: 1500, pairs: 1 }
    }

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let mut out = [0xff; 32];
        config().read(true, 0, &mut out);
        assert_eq!(out[..12], [2, 1, 2, 3, 4, 5, 1, 0, 1, 0, 0xdc, 5]);
        assert_eq!(out[12..], [0; 20]);
    }

    #[test]
    fn a_read_may_begin_and_end_anywhere() {
        let mut out = [0xff; 4];
        config().read(false, 4, &mut out);
        assert_eq!(out, [4, 5, 0, 0]);
        config().read(false, u32::MAX, &mut out);
        assert_eq!(out, [0; 4]);
    }

    #[test]
    fn only_the_mac_address_can_be_written() {
        let mut config = config();
        config.write(4, &[8, 9, 0xff, 0xff, 0xff]);
        config.write(u32::MAX, &[1]);
        assert_eq!(config.mac, Mac::from([2, 1, 2, 3, 8, 9]));
        assert_eq!((config.mtu, config.pairs), (1500, 1));
    }
}
