//! Configuration space (virtio 1.3 §5.1.4).

use crate::features::{HASHES, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_SPEED_DUPLEX};
use crate::filter::Filter;
use crate::hash::{HASH_TYPES, Hash, Hashing, MAX_KEY};
use crate::mac::Mac;
use crate::parameters::{Duplex, NetParameters};
use crate::rss::{MAX_TABLE, Rss};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use virtio_mdev_api::DeviceLink;
use virtqueue::{Moderation, Patience};

/// Bytes of `struct virtio_net_config`, all of its optional fields included.
pub const CONFIG_SIZE: u32 = 24;
const STATUS: usize = 6;
const MAX_PAIRS: usize = 8;
const MTU: usize = 10;
const SPEED: usize = 12;
const DUPLEX: usize = 16;
const RSS_MAX_KEY_SIZE: usize = 17;
const RSS_MAX_TABLE: usize = 18;
const HASH_TYPES_AT: usize = 20;
const LINK_UP: u16 = 1;
const ANNOUNCE: u16 = 2;

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
    #[inline]
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

/// What a driver wants of the frames it receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which of them.
    pub filter: Filter,
    /// What of them is hashed.
    pub hashing: Hashing,
    /// Where they go by their hashes, if it says so.
    pub rss: Option<Rss>,
}

impl Wanted {
    /// As after a reset, with `features` in effect.
    fn new(features: u64) -> Self {
        let filter = Filter::new(features & VIRTIO_NET_F_CTRL_VLAN != 0);
        Self { filter, hashing: Hashing::NONE, rss: None }
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
    /// Offered: which fields there are.
    features: u64,
    /// In Mbit/s; -1 unless it is known.
    speed: u32,
    duplex: Option<Duplex>,
    /// The driver shall announce where it is.
    announce: AtomicBool,
    wanted: ArcSwap<Wanted>,
    /// Frames are given to the driver with their hashes.
    reporting: AtomicBool,
    /// Whether it has to be asked at all.
    choosing: AtomicBool,
    /// How long the interrupts of queues of frames wait, by queue.
    moderations: Vec<Arc<Moderation>>,
}

impl NetConfig {
    /// With one pair enabled, and all frames wanted.
    pub fn new(card: &NetParameters) -> Self {
        Self {
            mac: AtomicU64::new(number(card.mac)),
            mtu: card.mtu,
            pairs: card.pairs,
            enabled: AtomicU16::new(1),
            features: card.features,
            speed: card.speed.unwrap_or(u32::MAX),
            duplex: card.duplex,
            announce: AtomicBool::new(false),
            wanted: ArcSwap::from_pointee(Wanted::new(0)),
            reporting: AtomicBool::new(false),
            choosing: AtomicBool::new(false),
            moderations: (0..2 * card.pairs).map(|_| Arc::default()).collect(),
        }
    }

    /// A driver begins, with `features` in effect: what another one set is gone.
    pub fn begin(&self, features: u64) {
        self.enable(1);
        self.set_announce(false);
        self.reporting.store(features & VIRTIO_NET_F_HASH_REPORT != 0, Ordering::Relaxed);
        self.set_wanted(Wanted::new(features));
        self.moderations.iter().for_each(|moderation| moderation.set_patience(Patience::default()));
    }

    /// How long the interrupts of queues of frames wait for each other, by queue.
    pub fn moderations(&self) -> &[Arc<Moderation>] {
        &self.moderations
    }

    /// What the driver wants of the frames it receives.
    pub fn wanted(&self) -> Arc<Wanted> {
        self.wanted.load_full()
    }

    /// Replaces it. By one thread at a time.
    pub fn set_wanted(&self, wanted: Wanted) {
        let choosing = !wanted.filter.is_promiscuous() || wanted.rss.is_some() || self.reports_hashes();
        self.wanted.store(Arc::new(wanted));
        self.choosing.store(choosing, Ordering::Release);
    }

    /// Whether the driver chooses: until then it wants every frame as it is, and says nothing of pairs.
    #[inline]
    pub fn chooses(&self) -> bool {
        self.choosing.load(Ordering::Acquire)
    }

    /// Whether the driver wants a frame from outside, which is without virtio-net header.
    pub fn wants(&self, frame: &[u8]) -> bool {
        self.wanted.load().filter.wants(frame, self.mac())
    }

    /// The hash of a frame, and the queue pair that the driver wants it on, if it says so.
    pub fn place_of(&self, frame: &[u8]) -> (Option<Hash>, Option<u16>) {
        let wanted = self.wanted.load();
        let hash = wanted.hashing.of(frame);
        (hash, wanted.rss.as_ref().map(|rss| rss.pair(hash)))
    }

    /// Whether the header of a frame for the driver has its hash.
    pub fn reports_hashes(&self) -> bool {
        self.reporting.load(Ordering::Relaxed)
    }

    /// Whether the driver is asked to announce where it is.
    pub fn announce(&self) -> bool {
        self.announce.load(Ordering::Acquire)
    }

    /// Asks it, or no more.
    pub fn set_announce(&self, announce: bool) {
        self.announce.store(announce, Ordering::Release);
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
        let status = if link_up { LINK_UP } else { 0 } | if self.announce() { ANNOUNCE } else { 0 };
        bytes[STATUS..STATUS + 2].copy_from_slice(&status.to_le_bytes());
        bytes[MAX_PAIRS..MAX_PAIRS + 2].copy_from_slice(&self.pairs.to_le_bytes());
        bytes[MTU..MTU + 2].copy_from_slice(&self.mtu.to_le_bytes());
        if self.features & VIRTIO_NET_F_SPEED_DUPLEX != 0 {
            bytes[SPEED..SPEED + 4].copy_from_slice(&self.speed.to_le_bytes());
            bytes[DUPLEX] = self.duplex.map_or(u8::MAX, |duplex| duplex as u8);
        }
        if self.features & HASHES != 0 {
            bytes[RSS_MAX_KEY_SIZE] = u8::try_from(MAX_KEY).unwrap_or(u8::MAX);
            let table = u16::try_from(MAX_TABLE).unwrap_or(u16::MAX);
            bytes[RSS_MAX_TABLE..RSS_MAX_TABLE + 2].copy_from_slice(&table.to_le_bytes());
            bytes[HASH_TYPES_AT..].copy_from_slice(&HASH_TYPES.to_le_bytes());
        }
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
    use crate::features::VIRTIO_NET_F_RSS;
    use crate::filter::Mode;
    use crate::parameters::Doorbell;

    fn card(features: u64) -> NetParameters {
        NetParameters {
            mac: Mac::from([2, 1, 2, 3, 4, 5]),
            mtu: 1500,
            pairs: 4,
            queue_size: 256,
            features,
            speed: Some(40_000),
            duplex: Some(Duplex::Full),
            ring_group: false,
            doorbell: Doorbell::EventFd,
        }
    }

    fn config() -> NetConfig {
        NetConfig::new(&card(0))
    }

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let mut out = [0xff; 32];
        config().read(true, 0, &mut out);
        assert_eq!(out[..12], [2, 1, 2, 3, 4, 5, 1, 0, 4, 0, 0xdc, 5]);
        assert_eq!(out[12..], [0; 20]);
    }

    #[test]
    fn fields_of_features_that_are_offered_are_there() {
        let mut out = [0; 24];
        NetConfig::new(&card(VIRTIO_NET_F_SPEED_DUPLEX | VIRTIO_NET_F_RSS)).read(true, 0, &mut out);
        assert_eq!(out[12..], [0x40, 0x9c, 0, 0, 1, 40, 128, 0, 0x3f, 0, 0, 0]);
        let unknown = NetParameters { speed: None, duplex: None, ..card(VIRTIO_NET_F_SPEED_DUPLEX) };
        NetConfig::new(&unknown).read(true, 0, &mut out);
        assert_eq!(out[12..], [0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_one_driver_set_is_nothing_to_the_next() {
        let (config, other) = (config(), [&[2; 14][..], &[0; 46]].concat());
        assert!(config.wants(&other));
        let mut wanted = Wanted::clone(&config.wanted());
        wanted.filter.set_mode(Mode::Promiscuous, false);
        config.set_wanted(wanted);
        config.set_announce(true);
        config.enable(3);
        let mut status = [0; 2];
        config.read(true, 6, &mut status);
        assert!(!config.wants(&other) && status == [3, 0]);
        config.begin(0);
        assert!(config.wants(&other) && !config.announce() && config.enabled() == 1);
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
