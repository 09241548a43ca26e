//! Malformed rings: the instance they belong to asks for a reset, its neighbour never notices, and a reset brings it back.

use nix::errno::Errno;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use umdev_tests::driver::abi::{
    NEEDS_RESET, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTQ_DESC_F_INDIRECT as INDIRECT,
    VIRTQ_DESC_F_NEXT as NEXT, VIRTQ_DESC_F_WRITE as WRITE,
};
use umdev_tests::driver::memory::{IOVA, SCRATCH, SIZE};
use umdev_tests::driver::packed::{AVAIL, USED};
use umdev_tests::driver::{Client, Daemon, Descriptor, Options, Ring, eventually};

const FRAME: [u8; 100] = [0x5a; 100];
const PLAIN: Options = Options { queue_size: 64, receive_buffers: 1, ..Options::DEFAULT };
const WITH_INDIRECT: Options = Options { features: VIRTIO_F_INDIRECT_DESC, ..PLAIN };
const WITH_EVENT_IDX: Options = Options { features: VIRTIO_F_EVENT_IDX, ..PLAIN };
const PACKED: Options = Options { features: VIRTIO_F_RING_PACKED | VIRTIO_F_INDIRECT_DESC, ..PLAIN };

/// Two running instances of one parent.
struct Scene {
    daemon: Daemon,
    uuid: String,
    victim: Client,
    bystander: Client,
}

impl Scene {
    fn new(options: Options) -> Self {
        let daemon = Daemon::start();
        let root = daemon.root().to_owned();
        let start = |uuid: &str| started(&root, uuid, options);
        let other = daemon.create_of("loopback-net-fast");
        let bystander = start(&other);
        let uuid = daemon.create_of("loopback-net-fast");
        let victim = start(&uuid);
        Self { daemon, uuid, victim, bystander }
    }

    /// The victim asked for a reset, for a reason that has `words` in it; nobody else is concerned; a reset helps.
    fn ends_in_needs_reset(&mut self, words: &str) {
        self.daemon.wait_for(&self.uuid, "state", "needs_reset");
        assert_ne!(self.victim.vhost.status().unwrap() & NEEDS_RESET, 0);
        let reason = self.daemon.attribute(&self.uuid, "last_fault");
        assert!(reason.contains(words), "{words:?} in {reason:?}");
        assert!(self.daemon.log().contains(&self.uuid), "the log names the instance");
        self.all_is_well_after_a_reset();
    }

    fn all_is_well_after_a_reset(&mut self) {
        (0..20).for_each(|_| self.bystander.exchange(&FRAME).unwrap());
        self.victim.restart().unwrap();
        assert_eq!(self.victim.vhost.status().unwrap() & NEEDS_RESET, 0);
        (0..20).for_each(|_| self.victim.exchange(&FRAME).unwrap());
        assert!(self.daemon.is_alive());
        assert!(!self.daemon.log().contains("panicked"), "{}", self.daemon.log());
    }
}

fn started(root: &Path, uuid: &str, options: Options) -> Client {
    let mut client = Client::start(root, uuid, options).unwrap();
    client.exchange(&FRAME).unwrap();
    client
}

/// Breaks a queue of a running device.
fn fault(options: Options, words: &str, break_it: impl FnOnce(&mut Client)) {
    let mut scene = Scene::new(options);
    break_it(&mut scene.victim);
    scene.ends_in_needs_reset(words);
}

/// Sends the chain of these descriptors, from descriptor 8 on, each linked to the next where NEXT is set.
fn transmit(client: &mut Client, chain: &[Descriptor]) {
    for (at, descriptor) in (8..).zip(chain) {
        client.tx.write_descriptor(at, *descriptor);
    }
    client.tx.offer(8);
    client.tx.notify().unwrap();
}

/// A frame comes for `descriptor`.
fn receive_into(client: &mut Client, descriptor: Descriptor) {
    client.receive_into(descriptor).unwrap();
    client.queue(&FRAME);
    client.tx.notify().unwrap();
}

/// The address the device has for an offset of its driver's memory.
fn iova(offset: usize) -> u64 {
    IOVA + u64::try_from(offset).unwrap()
}

fn readable(len: u32) -> Descriptor {
    Descriptor { addr: iova(SCRATCH), len, flags: 0, next: 0 }
}

fn linked(descriptor: Descriptor, next: u16) -> Descriptor {
    Descriptor { flags: descriptor.flags | NEXT, next, ..descriptor }
}

/// Writes an indirect table to scratch memory; the descriptor that leads to it.
fn indirect(client: &Client, table: &[Descriptor]) -> Descriptor {
    let offset = SCRATCH + 0x1000;
    for (at, descriptor) in table.iter().enumerate() {
        client.memory.write(offset + at * 16, &descriptor.bytes());
    }
    let len = u32::try_from(table.len() * 16).unwrap();
    Descriptor { addr: iova(offset), len, flags: INDIRECT, next: 0 }
}

#[test]
fn f01_an_avail_index_beyond_the_ring_stops_the_device() {
    fault(PLAIN, "available index", |client| {
        let beyond = client.tx.avail_idx.wrapping_add(client.tx.size + 1);
        client.tx.publish(beyond);
        client.tx.notify().unwrap();
    });
}

#[test]
fn f02_an_avail_index_that_goes_back_stops_the_device() {
    fault(PLAIN, "available index", |client| {
        let back = client.tx.avail_idx.wrapping_sub(1);
        client.tx.publish(back);
        client.tx.notify().unwrap();
    });
}

#[test]
fn f03_a_head_beyond_the_table_stops_the_device() {
    for head in [64, u16::MAX] {
        fault(PLAIN, "head", |client| {
            client.tx.offer(head);
            client.tx.notify().unwrap();
        });
    }
}

#[test]
fn f04_a_next_beyond_the_table_stops_the_device() {
    fault(PLAIN, "next 64", |client| transmit(client, &[linked(readable(64), 64)]));
}

#[test]
fn f05_a_descriptor_that_leads_to_itself_stops_the_device() {
    fault(PLAIN, "loop", |client| transmit(client, &[linked(readable(64), 8)]));
}

#[test]
fn f05_two_descriptors_that_lead_to_each_other_stop_the_device() {
    fault(PLAIN, "loop", |client| transmit(client, &[linked(readable(64), 9), linked(readable(64), 8)]));
}

#[test]
fn f06_an_indirect_chain_longer_than_the_ring_stops_the_device() {
    fault(WITH_INDIRECT, "more than 64", |client| {
        let table: Vec<_> = (1..=65).map(|next| linked(readable(1), next % 65)).collect();
        let entry = indirect(client, &table);
        transmit(client, &[entry]);
    });
}

#[test]
fn f07_an_indirect_descriptor_in_an_indirect_table_stops_the_device() {
    fault(WITH_INDIRECT, "inside", |client| {
        let inner = Descriptor { addr: iova(SCRATCH), len: 16, flags: INDIRECT, next: 0 };
        let entry = indirect(client, &[inner]);
        transmit(client, &[entry]);
    });
}

#[test]
fn f07_an_indirect_descriptor_that_was_not_negotiated_stops_the_device() {
    fault(PLAIN, "not negotiated", |client| {
        let entry = indirect(client, &[readable(64)]);
        transmit(client, &[entry]);
    });
}

#[test]
fn f08_an_indirect_descriptor_with_a_next_one_stops_the_device() {
    fault(WITH_INDIRECT, "has a next", |client| {
        let entry = indirect(client, &[readable(64)]);
        transmit(client, &[linked(entry, 9), readable(64)]);
    });
}

#[test]
fn f09_an_indirect_table_of_an_impossible_length_stops_the_device() {
    for len in [0, 8, 24, 65_536 * 16, u32::MAX] {
        fault(WITH_INDIRECT, "indirect table of", |client| {
            let entry = Descriptor { len, ..indirect(client, &[readable(64)]) };
            transmit(client, &[entry]);
        });
    }
}

#[test]
fn f10_an_indirect_table_that_leaves_mapped_memory_stops_the_device() {
    fault(WITH_INDIRECT, "indirect table", |client| {
        let addr = iova(SIZE - 16);
        client.memory.write(SIZE - 16, &linked(readable(64), 1).bytes());
        transmit(client, &[Descriptor { addr, len: 32, flags: INDIRECT, next: 0 }]);
    });
}

#[test]
fn f11_a_descriptor_of_no_bytes_stops_the_device() {
    fault(PLAIN, "empty buffer", |client| transmit(client, &[linked(readable(64), 9), readable(0)]));
    fault(PLAIN, "empty buffer", |client| receive_into(client, Descriptor { flags: WRITE, ..readable(0) }));
}

#[test]
fn f12_a_buffer_that_wraps_around_stops_the_device() {
    fault(PLAIN, "wraps", |client| {
        transmit(client, &[Descriptor { addr: u64::MAX - 10, len: 64, flags: 0, next: 0 }]);
    });
}

#[test]
fn f13_a_chain_of_more_than_4_gib_stops_the_device() {
    fault(PLAIN, "4 GiB", |client| {
        transmit(client, &[linked(readable(u32::MAX), 9), linked(readable(u32::MAX), 10), readable(64)]);
    });
}

#[test]
fn f14_a_readable_buffer_behind_a_writable_one_stops_the_device() {
    let writable = Descriptor { flags: WRITE, ..readable(64) };
    fault(PLAIN, "readable buffer after", |client| transmit(client, &[linked(writable, 9), readable(64)]));
}

#[test]
fn f15_a_writable_buffer_to_transmit_stops_the_device() {
    fault(PLAIN, "writable", |client| transmit(client, &[Descriptor { flags: WRITE, ..readable(64) }]));
}

#[test]
fn f15_a_readable_buffer_to_receive_into_stops_the_device() {
    fault(PLAIN, "readable", |client| receive_into(client, readable(4096)));
}

#[test]
fn f16_a_receive_buffer_over_its_own_ring_stops_the_device() {
    let over = |offset: fn(&Ring) -> usize| {
        fault(PLAIN, "overlaps", |client| {
            let addr = iova(offset(&client.rx));
            receive_into(client, Descriptor { addr, len: 4096, flags: WRITE, next: 0 });
        });
    };
    over(Ring::desc_offset);
    over(Ring::avail_offset);
    over(Ring::used_offset);
}

#[test]
fn a_buffer_outside_mapped_memory_stops_the_device() {
    let straddling = Descriptor { addr: iova(SIZE - 50), len: 100, flags: 0, next: 0 };
    fault(PLAIN, "buffer", |client| transmit(client, &[straddling]));
    let below = Descriptor { addr: IOVA - 50, len: 4096, flags: WRITE, next: 0 };
    fault(PLAIN, "buffer", |client| receive_into(client, below));
}

#[test]
fn f17_misaligned_ring_addresses_are_refused() {
    let mut scene = Scene::new(PLAIN);
    let client = &mut scene.victim;
    client.vhost.set_status(0).unwrap();
    let (desc, avail, used) = client.tx.addresses();
    for (desc, avail, used) in [(desc + 8, avail, used), (desc, avail + 1, used), (desc, avail, used + 2)] {
        let refused = client.vhost.set_vring_addr(1, desc, avail, used).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::EINVAL));
    }
    scene.all_is_well_after_a_reset();
}

#[test]
fn f17_rings_that_wrap_around_or_are_half_mapped_never_run() {
    let end = iova(SIZE);
    // Of 64 descriptors: 1,024 bytes of them, 134 bytes of available and 518 of used ring.
    let half_mapped = |desc, avail, used| (desc, avail, used);
    let mut scene = Scene::new(PLAIN);
    let (desc, avail, used) = scene.victim.tx.addresses();
    let top = u64::MAX - 15;
    for (desc, avail, used) in [
        half_mapped(end - 512, avail, used),
        half_mapped(desc, end - 64, used),
        half_mapped(desc, avail, end - 256),
        (top, avail, used),
        (desc, top, used),
        (desc, avail, top),
    ] {
        let client = &mut scene.victim;
        client.vhost.set_status(0).unwrap();
        client.negotiate().unwrap();
        client.tx.restart();
        client.program(&client.tx).unwrap();
        // Refused at once, or found out at the first kick.
        let refused = client.vhost.set_vring_addr(1, desc, avail, used);
        let refused = refused.and_then(|()| client.vhost.set_status(0xf));
        if let Err(error) = refused {
            assert!(matches!(error.errno(), Some(Errno::EINVAL | Errno::EFAULT)), "{error}");
        } else {
            client.tx.notify().unwrap();
            scene.daemon.wait_for(&scene.uuid, "state", "needs_reset");
        }
        scene.all_is_well_after_a_reset();
    }
}

#[test]
fn f18_a_size_that_no_ring_has_is_refused() {
    let mut scene = Scene::new(PLAIN);
    scene.victim.vhost.set_status(0).unwrap();
    for size in [0, 3, 63, 2048, 32_768, 65_535, 65_536, u32::MAX] {
        let refused = scene.victim.vhost.set_vring_num(1, size).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::EINVAL), "{size}");
    }
    scene.all_is_well_after_a_reset();
}

#[test]
fn f19_descriptors_that_change_while_they_are_used_harm_their_device_alone() {
    let mut scene = Scene::new(WITH_INDIRECT);
    let end = Instant::now() + Duration::from_secs(2);
    let mut resets = 0;
    while Instant::now() < end {
        flip_for(&mut scene.victim, Duration::from_millis(100));
        scene.bystander.exchange(&FRAME).unwrap();
        let needs_reset = scene.victim.vhost.status().unwrap() & NEEDS_RESET != 0;
        resets += u32::from(needs_reset);
        scene.victim.restart().unwrap();
    }
    println!("{resets} resets were asked for");
    scene.all_is_well_after_a_reset();
}

/// Offers descriptor 8 while another thread turns it into other things.
fn flip_for(client: &mut Client, time: Duration) {
    let good = indirect(client, &[readable(64)]);
    let shapes = [
        readable(64),
        good,
        Descriptor { len: u32::MAX, ..readable(0) },
        Descriptor { addr: u64::MAX, ..readable(64) },
        linked(readable(64), 8),
        linked(good, 70),
        Descriptor { flags: WRITE, ..readable(64) },
    ];
    let (table, memory) = (client.tx.desc_offset() + 8 * 16, Arc::clone(&client.memory));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for shape in shapes.iter().cycle() {
                memory.write(table, &shape.bytes());
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let end = Instant::now() + time;
        while Instant::now() < end {
            client.tx.offer(8);
            client.tx.notify().unwrap();
            // A device that stopped uses nothing any more.
            eventually(Duration::from_millis(20), || client.tx.used_idx() == client.tx.avail_idx);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn f20_garbage_event_indices_cost_interrupts_but_no_frames() {
    let mut scene = Scene::new(WITH_EVENT_IDX);
    for number in 0..200_u16 {
        let garbage = number.wrapping_mul(40_503);
        scene.victim.rx.write_used_event(garbage);
        scene.victim.tx.write_used_event(garbage.rotate_left(3));
        scene.victim.rx.write_avail_event(garbage.rotate_left(7));
        scene.victim.tx.write_avail_event(garbage.rotate_left(11));
        scene.victim.exchange(&FRAME).unwrap();
    }
    assert_eq!(scene.daemon.attribute(&scene.uuid, "state"), "running");
    scene.all_is_well_after_a_reset();
}

#[test]
fn a_faulting_device_tells_its_driver_by_the_config_interrupt() {
    let mut scene = Scene::new(PLAIN);
    let event = nix::sys::eventfd::EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_NONBLOCK).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&event));
    scene.victim.vhost.set_config_call(number).unwrap();
    transmit(&mut scene.victim, &[readable(0)]);
    assert!(eventually(Duration::from_secs(10), || event.read().is_ok()));
    scene.ends_in_needs_reset("empty buffer");
}

/// Sends these descriptors of a packed ring, as they are.
fn transmit_packed(client: &mut Client, id: u16, chain: &[Descriptor]) {
    client.tx.post_raw(id, chain);
    client.tx.notify().unwrap();
}

#[test]
fn f21_a_buffer_id_beyond_a_packed_ring_stops_the_device() {
    for id in [64, u16::MAX] {
        fault(PACKED, "head", |client| transmit_packed(client, id, &[readable(64)]));
    }
}

#[test]
fn f21_a_chain_without_end_on_a_packed_ring_stops_the_device() {
    fault(PACKED, "more than 64", |client| transmit_packed(client, 8, &[linked(readable(64), 0); 64]));
}

#[test]
fn f21_a_wrap_counter_that_turns_too_early_makes_nothing_available() {
    let mut scene = Scene::new(PACKED);
    let (slot, _) = scene.victim.tx.packed().unwrap().next_slot();
    let at = scene.victim.tx.desc_offset() + usize::from(slot) * 16;
    for flags in [USED, AVAIL | USED, 0] {
        // What the last turn, a device and nobody left there.
        scene.victim.memory.store(at + 14, flags);
        scene.victim.tx.notify().unwrap();
        (0..20).for_each(|_| scene.bystander.exchange(&FRAME).unwrap());
        assert_eq!(scene.victim.memory.load(at + 14), flags);
        assert_eq!(scene.daemon.attribute(&scene.uuid, "state"), "running");
    }
    scene.victim.exchange(&FRAME).unwrap();
    scene.all_is_well_after_a_reset();
}

#[test]
fn f21_what_is_available_before_its_predecessor_waits_for_it() {
    let mut scene = Scene::new(PACKED);
    let client = &mut scene.victim;
    let (slot, _) = client.tx.packed().unwrap().next_slot();
    let at = client.tx.desc_offset() + usize::from(slot) * 16 + 14;
    client.queue(&FRAME);
    let available = client.memory.load(at);
    client.memory.store(at, 0);
    client.queue(&FRAME);
    client.tx.notify().unwrap();
    (0..20).for_each(|_| scene.bystander.exchange(&FRAME).unwrap());
    assert_eq!(scene.victim.tx.take(), None);
    scene.victim.memory.store(at, available);
    scene.victim.tx.notify().unwrap();
    for _ in 0..2 {
        assert_eq!(scene.victim.receive(Duration::from_secs(10)).unwrap(), FRAME);
        scene.victim.tx.wait(Duration::from_secs(10), "a frame to be used").unwrap();
    }
    scene.all_is_well_after_a_reset();
}

#[test]
fn the_faults_of_chains_stop_a_device_of_packed_rings_too() {
    let writable = Descriptor { flags: WRITE, ..readable(64) };
    let nowhere = Descriptor { addr: u64::MAX - 10, ..readable(64) };
    let unmapped = Descriptor { addr: iova(SIZE - 50), ..readable(100) };
    let table = |len| Descriptor { flags: INDIRECT, ..readable(len) };
    for (words, chain) in [
        ("has a next", vec![linked(table(16), 0), readable(64)]),
        ("indirect table of", vec![table(24)]),
        ("empty buffer", vec![linked(readable(64), 0), readable(0)]),
        ("wraps", vec![nowhere]),
        ("4 GiB", vec![linked(readable(u32::MAX), 0), readable(64)]),
        ("readable buffer after", vec![linked(writable, 0), readable(64)]),
        ("writable", vec![writable]),
        ("buffer", vec![unmapped]),
    ] {
        fault(PACKED, words, |client| transmit_packed(client, 8, &chain));
    }
}

#[test]
fn f16_a_receive_buffer_over_its_own_packed_ring_stops_the_device() {
    for area in [Ring::desc_offset, Ring::avail_offset, Ring::used_offset] {
        fault(PACKED, "overlaps", |client| {
            let addr = iova(area(&client.rx));
            receive_into(client, Descriptor { addr, len: 4096, flags: WRITE, next: 0 });
        });
    }
}

#[test]
fn f20_garbage_in_the_event_areas_of_packed_rings_costs_interrupts_but_no_frames() {
    let mut scene = Scene::new(Options { features: VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX, ..PLAIN });
    for number in 0..200_u16 {
        let client = &mut scene.victim;
        for (turn, ring) in [(1, &client.rx), (3, &client.tx)] {
            for offset in [ring.avail_offset(), ring.used_offset()] {
                client.memory.store(offset, number.wrapping_mul(40_503).rotate_left(turn));
                client.memory.store(offset + 2, number.wrapping_mul(25_717).rotate_left(turn));
            }
        }
        client.exchange(&FRAME).unwrap();
    }
    assert_eq!(scene.daemon.attribute(&scene.uuid, "state"), "running");
    scene.all_is_well_after_a_reset();
}
