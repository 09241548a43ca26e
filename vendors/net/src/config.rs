//! Configuration space (virtio 1.3 §5.1.4).

use crate::mac::Mac;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
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

/// The fields a driver reads, and what its control queue sets; shared by the device and its thread.
#[derive(Debug)]
pub struct NetConfig {
    /// `mac`, the one field a driver may write here.
    mac: AtomicU64,
    mtu: u16,
    /// `max_virtqueue_pairs`.
    pairs: u16,
    /// How many of them the driver enabled.
    enabled: AtomicU16,
}

impl NetConfig {
    /// With one pair enabled.
    pub fn new(mac: Mac, mtu: u16, pairs: u16) -> Self {
        Self { mac: AtomicU64::new(number(mac)), mtu, pairs, enabled: AtomicU16::new(1) }
    }

    /// The address of the card.
    pub fn mac(&self) -> Mac {
        let [bytes @ .., _, _] = self.mac.load(Ordering::Acquire).to_le_bytes();
        Mac::from(bytes)
    }

    /// Changes it.
    pub fn set_mac(&self, mac: Mac) {
        self.mac.store(number(mac), Ordering::Release);
    }

    /// Largest packet, Ethernet header aside.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Queue pairs there are.
    pub fn pairs(&self) -> u16 {
        self.pairs
    }

    /// Queue pairs frames for the driver go to.
    pub fn enabled(&self) -> u16 {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Changes it; at least one and at most all.
    pub fn enable(&self, pairs: u16) {
        self.enabled.store(pairs.clamp(1, self.pairs.max(1)), Ordering::Relaxed);
    }

    /// Fills `out` from `offset`; beyond the fields there are zeros.
    pub fn read(&self, link_up: bool, offset: u32, out: &mut [u8]) {
        let mut bytes = [0; CONFIG_SIZE as usize];
        bytes[..6].copy_from_slice(&self.mac().bytes());
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
    pub fn write(&self, offset: u32, data: &[u8]) {
        let mut mac = self.mac().bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, byte) in mac.iter_mut().skip(from).zip(data) {
            *place = *byte;
        }
        self.set_mac(Mac::from(mac));
    }
}

fn number(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.bytes();
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetConfig {
        NetConfig::new(Mac::from([2, 1, 2, 3, 4, 5]), 1500, 4)
    }

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let mut out = [0xff; 32];
        config().read(true, 0, &mut out);
        assert_eq!(out[..12], [2, 1, 2, 3, 4, 5, 1, 0, 4, 0, 0xdc, 5]);
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
        let config = config();
        config.write(4, &[8, 9, 0xff, 0xff, 0xff]);
        config.write(u32::MAX, &[1]);
        assert_eq!(config.mac(), Mac::from([2, 1, 2, 3, 8, 9]));
        assert_eq!((config.mtu(), config.pairs()), (1500, 4));
    }

    #[test]
    fn no_fewer_than_one_pair_and_no_more_than_all_are_enabled() {
        let config = config();
        let enable = |pairs| {
            config.enable(pairs);
            config.enabled()
        };
        assert_eq!([1, 3, 0, 5].map(enable), [1, 3, 1, 4]);
    }
}
