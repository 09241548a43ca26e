//! Sequences of calls on an open vhost-net file, with rings that run and a TAP interface.

use crate::vhost_ioctl::{COMMANDS, pair};
use crate::world::{ARG, CALL, KICK, OTHER, argument_size};
use crate::{Input, assert_errno};
use devnode::{Ioctl, IoctlReply, OpenFile};
use libc::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use nix::sched::{CloneFlags, unshare};
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock};
use vfio_container::testing::{BASE, Descriptor, FakeClient, SIZE};
use vhost_abi::command::*;
use vhost_abi::feature::VHOST_F_LOG_ALL;
use vhost_net::{VhostNet, VhostNetFile};
use virtio_mdev_api::notify::EventFd;

/// The client's descriptor of an interface.
const TAP: i32 = 14;
/// Guest memory, from guest-physical address 0 on, and the rings in it.
const RAM: u64 = BASE + 0x1_0000;
const RAM_SIZE: u64 = 0x4_0000;
const RING_SIZE: u16 = 16;
/// The log of what is written.
const LOG: u64 = BASE + 0x8_0000;

/// An interface in a network namespace of its own, where nobody hears it.
static INTERFACE: LazyLock<Arc<OwnedFd>> = LazyLock::new(|| {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        tap::testing::interface("fuzz0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, 12)
    };
    Arc::new(std::thread::spawn(make).join().expect("an interface"))
});

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut steps = Steps::new();
    while input.more() {
        steps.step(&mut input);
    }
    steps.finish();
}

struct Steps {
    node: Arc<VhostNet>,
    file: Arc<VhostNetFile>,
    client: FakeClient,
    stranger: FakeClient,
    strange: bool,
    kick: EventFd,
    avail: [u16; 2],
}

impl Steps {
    fn new() -> Self {
        let (client, stranger, node) = (FakeClient::new(1), FakeClient::new(2), VhostNet::new());
        let file = node.open_file(&client).expect("one device");
        let kick = EventFd::new().expect("eventfd");
        for client in [&client, &stranger] {
            client.install(KICK, Descriptor::Event(kick.clone()));
            client.install(CALL, Descriptor::Event(EventFd::new().expect("eventfd")));
            client.install(OTHER, Descriptor::Other);
            client.install(TAP, Descriptor::File(INTERFACE.clone()));
        }
        Self { node, file, client, stranger, strange: false, kick, avail: [0; 2] }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0..4 => {
                let (nr, which) = (input.byte(), input.byte());
                let known = COMMANDS.get(&nr).and_then(|all| all.get(usize::from(which) % all.len().max(1)));
                if let Some(&cmd) = known {
                    self.call(cmd, &input.filled(argument_size(cmd)));
                }
            }
            4 => {
                let cmd = input.word();
                self.serve(cmd, ARG + u64::from(input.half()), input.blob());
            }
            5 => {
                let at = u64::from(input.half()) << 4;
                let blob = input.blob();
                if at + blob.len() as u64 <= SIZE as u64 {
                    self.caller().put(BASE + at, blob);
                }
            }
            6 => {
                let regions: Vec<_> = (0..input.byte() % 9)
                    .map(|_| [input.address(), input.size(), BASE.wrapping_add(input.address()), input.byte().into()])
                    .collect();
                self.table(&regions);
            }
            7 => self.ring(input.byte().into(), None),
            8 => self.start(input.byte()),
            9 => self.chain(input),
            10 => self.strange = !self.strange,
            _ => {
                let fd = if input.flag() { TAP } else { i32::from(input.byte()) - 1 };
                self.call(VHOST_NET_SET_BACKEND, &pair(input.byte().into(), fd.cast_unsigned()));
            }
        }
    }

    fn caller(&self) -> &FakeClient {
        if self.strange { &self.stranger } else { &self.client }
    }

    /// A call whose argument lies in the client's memory.
    fn call(&self, cmd: u32, argument: &[u8]) {
        self.caller().put(ARG, argument);
        self.serve(cmd, ARG, argument);
    }

    fn serve(&self, cmd: u32, arg: u64, input: &[u8]) {
        let mut whole = input.to_vec();
        whole.resize(if cmd & 1 << 30 != 0 { argument_size(cmd) } else { 0 }, 0);
        match self.file.serve(self.caller(), &Ioctl { cmd, arg, input: &whole }) {
            Ok(IoctlReply { value, output }) => {
                let fits = output.is_empty() || (cmd & 1 << 31 != 0 && output.len() == argument_size(cmd));
                assert!(value >= 0 && fits, "{cmd:#x} returns {value} and {} bytes", output.len());
            }
            Err(errno) => assert_errno(errno, format_args!("{cmd:#x}")),
        }
    }

    fn table(&self, regions: &[[u64; 4]]) {
        let words: Vec<u8> = regions.as_flattened().iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.caller().put(ARG + 8, &words);
        self.call(VHOST_SET_MEM_TABLE, &pair(u32::try_from(regions.len()).expect("few"), 0));
    }

    /// Sets a ring up, and where what is written to it is logged.
    fn ring(&self, index: u32, log: Option<u64>) {
        let at = ring(index);
        self.call(VHOST_SET_VRING_NUM, &pair(index, RING_SIZE.into()));
        self.call(VHOST_SET_VRING_BASE, &pair(index, 0));
        let mut addresses = pair(index, log.is_some().into());
        [at, at + 0x400, at + 0x800, log.unwrap_or(0)].iter().for_each(|word| addresses.extend(word.to_ne_bytes()));
        self.call(VHOST_SET_VRING_ADDR, &addresses);
        self.call(VHOST_SET_VRING_KICK, &pair(index, KICK.cast_unsigned()));
        self.call(VHOST_SET_VRING_CALL, &pair(index, CALL.cast_unsigned()));
    }

    /// What a client does to get a device going.
    fn start(&self, how: u8) {
        self.call(VHOST_SET_OWNER, &[]);
        let mut features: u64 = 1 << 32 | if how & 1 == 0 { 0 } else { 1 << 15 | 1 << 28 | 1 << 29 };
        if how & 2 != 0 {
            self.call(VHOST_SET_LOG_BASE, &LOG.to_ne_bytes());
            self.call(VHOST_SET_LOG_FD, &CALL.to_ne_bytes());
            features |= VHOST_F_LOG_ALL;
        }
        self.call(VHOST_SET_FEATURES, &features.to_ne_bytes());
        self.table(&[[0, RAM_SIZE, RAM, 0]]);
        for index in 0..2 {
            self.ring(index, (how & 4 != 0).then_some(RAM_SIZE));
            self.call(VHOST_NET_SET_BACKEND, &pair(index, TAP.cast_unsigned()));
        }
    }

    /// Makes a chain of any descriptors available, and kicks.
    fn chain(&mut self, input: &mut Input<'_>) {
        let queue = input.byte() % 2;
        let at = ring(queue.into());
        let first = input.byte() % 16;
        for n in 0..input.byte() % 4 {
            let mut descriptor = input.address().to_le_bytes().to_vec();
            descriptor.extend(u32::from(input.half()).to_le_bytes());
            descriptor.extend([input.byte(), 0, input.byte(), 0]);
            self.client.put(at + 16 * u64::from((first + n) % 16), &descriptor);
        }
        let avail = &mut self.avail[usize::from(queue)];
        self.client.put(at + 0x804 + 2 * u64::from(*avail % RING_SIZE), &u16::from(first).to_le_bytes());
        *avail = avail.wrapping_add(1);
        self.client.put(at + 0x802, &avail.to_le_bytes());
        // It is never at its maximum.
        let _ = self.kick.signal();
    }

    fn finish(self) {
        OpenFile::release(&*self.file);
        assert_eq!(self.node.devices(), 0, "a closed device is none");
        let after = self.file.serve(&self.client, &Ioctl { cmd: VHOST_GET_VRING_BASE, arg: ARG, input: &[0; 8] });
        assert!(after.is_err(), "a closed file answers");
        drop(self.file);
        for client in [&self.client, &self.stranger] {
            assert_eq!(client.holders(), 0, "memory of a client is held after the close");
        }
    }
}

/// Where a ring is in the client.
fn ring(index: u32) -> u64 {
    RAM + u64::from(index % 2) * 0x1000
}
