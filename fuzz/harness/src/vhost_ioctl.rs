//! Sequences of calls on an open vhost file of a real device, with rings that run.
//!
//! An input is the kind of device and then steps, each a byte that chooses and what it needs.

use crate::Input;
use crate::world::{ARG, CALL, KICK, World, argument_size, loopback};
use devnode::{Ioctl, OpenFile, PollEvents};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, LazyLock};
use vfio_container::testing::{BASE, Descriptor, FakeClient, SIZE};
use vfio_container::{ContainerFile, GroupFile};
use vhost_abi::command::*;
use vhost_abi::feature::VHOST_F_LOG_ALL;
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::{DeviceLink, Status};

/// Every command there is, by its number.
pub static COMMANDS: LazyLock<HashMap<u8, Vec<u32>>> = LazyLock::new(|| {
    let mut commands: HashMap<u8, Vec<u32>> = HashMap::new();
    for nr in 0..=u8::MAX {
        for direction in 0..4u32 {
            let of_size = |size: u32| direction << 30 | size << 16 | 0xaf00 | u32::from(nr);
            let known = (0..64).map(of_size).filter(|&cmd| find(cmd).is_some());
            commands.entry(nr).or_default().extend(known);
        }
    }
    commands
});

/// The client's descriptor of a container.
const CONTAINER: i32 = 13;
/// Where the steps put the ring of a queue; the client's memory is mapped from address 0 on.
const RINGS: u64 = 0x1_0000;
const RING_STRIDE: u64 = 0x4000;
const RING_SIZE: u16 = 16;
/// Waits for the device that one input may have.
const WAITS: usize = 4;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let link = DeviceLink::new("fuzzed");
    let mut steps = Steps {
        world: World::new(loopback(input.byte(), &link), link, FakeClient::new(1)),
        vfio: None,
        avail: [0; 8],
        waits: 0,
    };
    while input.more() {
        steps.step(&mut input);
    }
    steps.finish();
}

struct Steps {
    world: World,
    vfio: Option<(Arc<ContainerFile>, Arc<GroupFile>)>,
    avail: [u16; 8],
    waits: usize,
}

impl Steps {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 18 {
            0..3 => self.known(input),
            3 => {
                let (cmd, arg) = (input.word(), BASE + u64::from(input.half()));
                drop(self.world.raw_ioctl(cmd, arg, input.blob()));
            }
            4 => {
                let (cmd, arg) = (input.word(), input.long());
                drop(self.world.raw_ioctl(cmd, arg, input.blob()));
            }
            5 => {
                let at = u64::from(input.half()) << 4;
                let blob = input.blob();
                if at + blob.len() as u64 <= SIZE as u64 {
                    self.world.caller().put(BASE + at, blob);
                }
            }
            6 => {
                let (version, asid, request) = (input.byte(), input.byte(), input.byte());
                let (iova, size, page, permission) = (input.address(), input.size(), input.byte(), input.byte());
                let uaddr = BASE + (u64::from(page) << 12);
                self.message(u32::from(version), asid.into(), [iova, size, uaddr], permission, request);
            }
            7 => {
                let _ = self.world.write(input.blob());
            }
            8 => self.ring(input.byte()),
            9 => self.start(input.byte()),
            10 => self.chain(input),
            11 => {
                let _ = self.world.kick.signal();
            }
            12 => self.wait(),
            13 => self.world.strange = !self.world.strange,
            14 => self.vfio(input),
            16 => self.misses(input.byte()),
            17 => self.log(input),
            _ => {
                self.world.reopen();
                self.avail = [0; 8];
            }
        }
    }

    /// A command that exists, with an argument of its size.
    fn known(&self, input: &mut Input<'_>) {
        let (nr, which) = (input.byte(), input.byte());
        let Some(&cmd) = COMMANDS.get(&nr).and_then(|all| all.get(usize::from(which) % all.len().max(1))) else {
            return;
        };
        let argument = input.filled(argument_size(cmd));
        let Ok(output) = self.world.ioctl(cmd, &argument) else { return };
        self.check(cmd, &output);
    }

    /// What is answered is within its bounds.
    fn check(&self, cmd: u32, output: &[u8]) {
        let info = self.world.session.info();
        let number = output.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        let second = number >> 32;
        match cmd {
            VHOST_VDPA_GET_STATUS => {
                let status = Status::from_bits(output[0]).expect("no reserved bit");
                let started = status.contains(Status::DRIVER_OK);
                assert!(!started || status.contains(Status::FEATURES_OK), "{status:?}");
            }
            VHOST_GET_FEATURES => assert_eq!(number & REQUIRED, REQUIRED),
            VHOST_VDPA_GET_VRING_NUM => assert!((1..=32768).contains(&number)),
            VHOST_VDPA_GET_VRING_SIZE => assert!((1..=32768).contains(&second)),
            VHOST_VDPA_GET_VQS_COUNT => assert_eq!(number, info.queues.len() as u64),
            VHOST_VDPA_GET_CONFIG_SIZE => assert_eq!(number, u64::from(info.config_size)),
            VHOST_VDPA_GET_GROUP_NUM | VHOST_VDPA_GET_AS_NUM => assert!(number >= 1),
            VHOST_VDPA_GET_VRING_GROUP => assert!(second <= info.queues.len() as u64),
            _ => {}
        }
    }

    fn message(&self, version: u32, asid: u32, words: [u64; 3], permission: u8, request: u8) {
        let _ = self.world.write(&message(version, asid, words, permission, request));
    }

    /// Sets up a queue's ring where `chain` expects it.
    fn ring(&self, queue: u8) {
        let index = u32::from(queue);
        let call = |cmd, first: u32, second: u32| drop(self.world.ioctl(cmd, &pair(first, second)));
        call(VHOST_SET_VRING_NUM, index, RING_SIZE.into());
        call(VHOST_SET_VRING_BASE, index, 0);
        self.addresses(queue, None);
        call(VHOST_SET_VRING_KICK, index, KICK.cast_unsigned());
        call(VHOST_SET_VRING_CALL, index, CALL.cast_unsigned());
        call(VHOST_VDPA_SET_VRING_ENABLE, index, 1);
    }

    /// Where a ring is, and where what is written to it is logged.
    fn addresses(&self, queue: u8, log: Option<u64>) {
        let at = RINGS + RING_STRIDE * u64::from(queue % 8);
        let mut addresses = pair(queue.into(), log.is_some().into());
        for word in [at, at + 0x2000, at + 0x1000, log.unwrap_or(0)] {
            addresses.extend(word.to_ne_bytes());
        }
        drop(self.world.ioctl(VHOST_SET_VRING_ADDR, &addresses));
    }

    /// What a client does to get a device going, in one of some orders.
    fn start(&self, how: u8) {
        drop(self.world.ioctl(VHOST_SET_OWNER, &[]));
        if how & 1 == 0 {
            self.message(2, 0, [0, SIZE as u64, BASE], 3, 2);
        }
        let status = |status: u8| drop(self.world.ioctl(VHOST_VDPA_SET_STATUS, &[status]));
        [0, 1, 3].into_iter().filter(|_| how & 2 == 0).for_each(status);
        let features = if how & 4 == 0 { REQUIRED } else { self.world.session.info().features };
        drop(self.world.ioctl(VHOST_SET_FEATURES, &features.to_ne_bytes()));
        [0xb].into_iter().filter(|_| how & 2 == 0).for_each(status);
        (0..2).for_each(|queue| self.ring(queue));
        status(0xf);
    }

    /// Makes a chain of any descriptors available, and kicks.
    fn chain(&mut self, input: &mut Input<'_>) {
        let queue = input.byte() % 8;
        let at = BASE + RINGS + RING_STRIDE * u64::from(queue);
        let first = input.byte();
        for n in 0..input.byte() % 4 {
            let slot = u64::from(first.wrapping_add(n)) % u64::from(RING_SIZE);
            let mut descriptor = input.address().to_le_bytes().to_vec();
            descriptor.extend(u32::from(input.half()).to_le_bytes());
            descriptor.extend(u16::from(input.byte()).to_le_bytes());
            descriptor.extend(u16::from(input.byte()).to_le_bytes());
            self.world.client.put(at + 16 * slot, &descriptor);
        }
        let avail = &mut self.avail[usize::from(queue)];
        let slot = u64::from(*avail % RING_SIZE);
        *avail = avail.wrapping_add(1);
        self.world.client.put(at + 0x1004 + 2 * slot, &u16::from(first).to_le_bytes());
        self.world.client.put(at + 0x1002, &avail.to_le_bytes());
        let _ = self.world.kick.signal();
    }

    /// Gives the device a moment to do what it was asked for.
    fn wait(&mut self) {
        self.waits += 1;
        if self.waits > WAITS {
            return;
        }
        let mut fds = [PollFd::new(self.world.call.as_fd(), PollFlags::POLLIN)];
        // Nothing depends on whether it answered.
        let _ = poll(&mut fds, PollTimeout::from(1u8));
        let _ = self.world.call.drain();
    }

    /// The client looks for what the device misses.
    fn misses(&self, how: u8) {
        if how & 1 == 0 {
            self.world.poll(if how & 2 == 0 { PollEvents::IN } else { PollEvents::OUT });
        } else {
            self.world.read(how.into(), how & 2 != 0);
        }
    }

    /// A client that migrates has what is written logged.
    fn log(&self, input: &mut Input<'_>) {
        let (base, how) = (BASE.wrapping_add(input.address()), input.byte());
        drop(self.world.ioctl(VHOST_SET_LOG_BASE, &base.to_ne_bytes()));
        drop(self.world.ioctl(VHOST_SET_LOG_FD, &(if how & 1 == 0 { CALL } else { -1 }).to_ne_bytes()));
        let Ok(features) = self.world.session.features() else { return };
        let features = features | if how & 2 == 0 { VHOST_F_LOG_ALL } else { 0 };
        drop(self.world.ioctl(VHOST_SET_FEATURES, &features.to_ne_bytes()));
        if how & 4 != 0 {
            self.addresses(how >> 4, Some(input.address()));
        }
    }

    /// The container comes, maps, and goes.
    fn vfio(&mut self, input: &mut Input<'_>) {
        let client = &self.world.client;
        let call = |cmd, arg| Ioctl { cmd, arg, input: &[] };
        match (input.byte() % 4, &self.vfio) {
            (0, None) => {
                let Ok(group) = self.world.group.clone().open_file() else { return };
                let container = Arc::new(ContainerFile::new());
                client.install(CONTAINER, Descriptor::Device(container.clone()));
                client.put(ARG, &CONTAINER.to_ne_bytes());
                drop(group.serve(client, &call(0x3b68, ARG)));
                drop(container.serve(client, &call(0x3b66, 3)));
                self.vfio = Some((container, group));
            }
            (1, Some((container, _))) => {
                let mut map = pair(32, 3);
                for word in [BASE, input.address(), SIZE as u64] {
                    map.extend(word.to_ne_bytes());
                }
                client.put(ARG, &map);
                drop(container.serve(client, &call(0x3b71, ARG)));
            }
            (2, Some((_, group))) => drop(group.serve(client, &call(0x3b69, 0))),
            (3, Some(_)) => self.leave(),
            _ => {}
        }
    }

    fn leave(&mut self) {
        if let Some((_, group)) = self.vfio.take() {
            OpenFile::release(&*group);
            self.world.client.install(CONTAINER, Descriptor::Other);
        }
    }

    fn finish(mut self) {
        self.world.close();
        self.leave();
    }
}

/// A structure of two words.
pub fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_ne_bytes(), second.to_ne_bytes()].concat()
}

/// A whole IOTLB message.
pub fn message(version: u32, asid: u32, words: [u64; 3], permission: u8, request: u8) -> Vec<u8> {
    let mut bytes = pair(version, asid);
    words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    bytes.extend([permission, request]);
    bytes.resize(72, 0);
    bytes
}
