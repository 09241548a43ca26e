//! A node, an open file and its client.

use devnode::Ioctl;
use libc::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_container::testing::{BASE, Descriptor, FakeClient};
use vhost_net::{VhostNet, VhostNetFile};
use virtio_mdev_api::notify::EventFd;

pub const GET_FEATURES: u32 = 0x8008_af00;
pub const SET_FEATURES: u32 = 0x4008_af00;
pub const SET_OWNER: u32 = 0xaf01;
pub const RESET_OWNER: u32 = 0xaf02;
pub const SET_MEM_TABLE: u32 = 0x4008_af03;
pub const SET_LOG_BASE: u32 = 0x4008_af04;
pub const SET_LOG_FD: u32 = 0x4004_af07;
pub const SET_VRING_NUM: u32 = 0x4008_af10;
pub const SET_VRING_ADDR: u32 = 0x4028_af11;
pub const SET_VRING_BASE: u32 = 0x4008_af12;
pub const GET_VRING_BASE: u32 = 0xc008_af12;
pub const SET_VRING_KICK: u32 = 0x4008_af20;
pub const SET_VRING_CALL: u32 = 0x4008_af21;
pub const SET_VRING_ERR: u32 = 0x4008_af22;
pub const SET_BUSYLOOP: u32 = 0x4008_af23;
pub const GET_BUSYLOOP: u32 = 0x4008_af24;
pub const SET_BACKEND_FEATURES: u32 = 0x4008_af25;
pub const GET_BACKEND_FEATURES: u32 = 0x8008_af26;
pub const SET_BACKEND: u32 = 0x4008_af30;
pub const GET_FEATURES_ARRAY: u32 = 0x8008_af83;
pub const SET_FEATURES_ARRAY: u32 = 0x4008_af83;

pub const VERSION_1: u64 = 1 << 32;
pub const MRG_RXBUF: u64 = 1 << 15;
pub const LOG_ALL: u64 = 1 << 26;
pub const OFFERED: u64 = LOG_ALL | VERSION_1 | MRG_RXBUF | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 40;

pub const ARG: u64 = BASE;
/// A bitmap of the client.
pub const LOG: u64 = BASE + 0x8000;
/// Guest memory: 256 KiB of the client, from guest-physical 0 on.
pub const RAM: u64 = BASE + 0x1_0000;
pub const RAM_SIZE: u64 = 0x4_0000;
pub const SIZE: u16 = 8;
pub const KICK: i32 = 10;
pub const NOT_EVENTFD: i32 = 11;
pub const TAP: i32 = 12;
pub const RX_KICK: i32 = 13;
pub const ERR: i32 = 14;
/// Receives, transmits.
pub const RX: u32 = 0;
pub const TX: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Lab {
    pub client: FakeClient,
    pub node: Arc<VhostNet>,
    pub file: Arc<VhostNetFile>,
    /// Of the transmit ring.
    pub kick: EventFd,
    pub rx_kick: EventFd,
    /// Of both rings.
    pub err: EventFd,
}

impl Lab {
    /// A file of which the client is the owner.
    pub fn new() -> Self {
        let lab = Self::unowned();
        lab.call(SET_OWNER, &[]).unwrap();
        lab
    }

    pub fn unowned() -> Self {
        Self::of_client(FakeClient::new(1))
    }

    pub fn of_client(client: FakeClient) -> Self {
        let node = VhostNet::new();
        let file = node.open_file(&client).unwrap();
        let [kick, rx_kick, err] = [KICK, RX_KICK, ERR].map(|fd| {
            let event = EventFd::new().unwrap();
            client.install(fd, Descriptor::Event(event.clone()));
            event
        });
        client.install(NOT_EVENTFD, Descriptor::Other);
        Self { client, node, file, kick, rx_kick, err }
    }

    /// With features, memory, both rings set up, and an interface as descriptor `TAP`, which is in a network namespace
    /// of this thread.
    pub fn ready() -> Self {
        Self::ready_with(VERSION_1, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    }

    pub fn ready_with(features: u64, flags: i32) -> Self {
        let lab = Self::new();
        lab.give_interface(flags);
        lab.call(SET_FEATURES, &features.to_ne_bytes()).unwrap();
        lab.table(&[[0, RAM_SIZE, RAM]]).unwrap();
        for (index, kick) in [(RX, RX_KICK), (TX, KICK)] {
            lab.vring(SET_VRING_NUM, index, SIZE.into()).unwrap();
            lab.addr(index, 0, ring(index)).unwrap();
            lab.fd(SET_VRING_KICK, index, kick).unwrap();
            lab.fd(SET_VRING_ERR, index, ERR).unwrap();
        }
        lab
    }

    pub fn give_interface(&self, flags: i32) {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        let tap = tap::testing::interface("given0", flags, 12);
        ip("link set given0 up");
        self.client.install(TAP, Descriptor::File(Arc::new(tap)));
    }

    pub fn call(&self, cmd: u32, input: &[u8]) -> Result<Vec<u8>, Errno> {
        self.call_as(&self.client, cmd, input)
    }

    pub fn call_as(&self, client: &FakeClient, cmd: u32, input: &[u8]) -> Result<Vec<u8>, Errno> {
        Ok(self.file.serve(client, &Ioctl { cmd, arg: ARG, input })?.output)
    }

    /// A call with `struct vhost_vring_state`.
    pub fn vring(&self, cmd: u32, index: u32, num: u32) -> Result<Vec<u8>, Errno> {
        self.call(cmd, &pair(index, num))
    }

    /// A call with `struct vhost_vring_file`.
    pub fn fd(&self, cmd: u32, index: u32, fd: i32) -> Result<(), Errno> {
        self.vring(cmd, index, fd.cast_unsigned()).map(drop)
    }

    pub fn backend(&self, index: u32, fd: i32) -> Result<(), Errno> {
        self.fd(SET_BACKEND, index, fd)
    }

    /// VHOST_SET_VRING_ADDR with the addresses of descriptors, used and available ring, and log.
    pub fn addr(&self, index: u32, flags: u32, words: [u64; 4]) -> Result<(), Errno> {
        let mut bytes = pair(index, flags);
        words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        self.call(SET_VRING_ADDR, &bytes).map(drop)
    }

    /// VHOST_SET_MEM_TABLE with regions of guest-physical address, size and address in the client.
    pub fn table(&self, regions: &[[u64; 3]]) -> Result<(), Errno> {
        let count = u32::try_from(regions.len()).unwrap();
        let head = pair(count, 0);
        let bodies = regions.iter().flat_map(|[gpa, size, uaddr]| [*gpa, *size, *uaddr, 0]);
        self.client.put(ARG + 8, &bodies.flat_map(u64::to_ne_bytes).collect::<Vec<_>>());
        self.call(SET_MEM_TABLE, &head).map(drop)
    }

    pub fn base(&self, index: u32) -> u32 {
        let state = self.vring(GET_VRING_BASE, index, 0).unwrap();
        u32::from_ne_bytes(*state.last_chunk().unwrap())
    }

    /// Makes a frame of 60 bytes available as the `nth` of the transmit ring, and kicks.
    pub fn transmit(&self, nth: u16) {
        self.transmit_at(nth, 0x2_0000);
    }

    /// The same, the frame at a guest-physical address.
    pub fn transmit_at(&self, nth: u16, gpa: u64) {
        let [desc, _, avail, _] = ring(TX);
        let slot = nth % SIZE;
        let mut descriptor = gpa.to_le_bytes().to_vec();
        descriptor.extend((12u32 + 60).to_le_bytes());
        descriptor.extend([0; 4]);
        self.client.put(desc + 16 * u64::from(slot), &descriptor);
        self.client.put(avail + 4 + 2 * u64::from(slot), &slot.to_le_bytes());
        self.client.put(avail + 2, &(nth + 1).to_le_bytes());
        self.kick.signal().unwrap();
    }

    /// The used index of the transmit ring.
    pub fn used(&self) -> u16 {
        let [_, used, ..] = ring(TX);
        u16::from_le_bytes(*self.client.get(used + 2, 2).first_chunk().unwrap())
    }

    pub fn until_used(&self, index: u16) {
        eventually("the frame is used", || self.used() == index);
    }
}

/// Addresses of descriptors, used and available ring, and log, in the client.
pub fn ring(index: u32) -> [u64; 4] {
    let at = RAM + u64::from(index) * 0x1000;
    [at, at + 0x400, at + 0x800, 0]
}

pub fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_ne_bytes(), second.to_ne_bytes()].concat()
}

pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}, and it did not happen");
        std::thread::yield_now();
    }
}
