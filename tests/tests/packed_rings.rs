//! Packed rings and in-order use, by a whole client of the files.

use nix::errno::Errno;
use std::time::Duration;
use umdev_tests::driver::abi::{
    VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MRG_RXBUF,
};
use umdev_tests::driver::memory::{LARGE, LARGE_ROOM, Memory};
use umdev_tests::driver::{Client, Daemon, Options, Via};

const PATIENCE: Duration = Duration::from_secs(20);
const PACKED: u64 = VIRTIO_F_RING_PACKED;
/// Entries of the largest ring there is (virtio 1.3 §2.7).
const LARGEST: u16 = 1 << 15;

/// Frames of every size, several rounds of the ring, one at a time and as many at once as there is room for.
fn frames_pass(options: Options) {
    let daemon = Daemon::start();
    let uuid = daemon.try_create("loopback-net-fast", &format!("queue-size={LARGEST}")).unwrap();
    let mut client = if options.queue_size > 1024 {
        let memory = Memory::of_size(LARGE + 2 * LARGE_ROOM).unwrap();
        let mut client = Client::open_unmapped(daemon.root(), &uuid, options, memory).unwrap();
        client.map_memory().unwrap();
        client.run().unwrap();
        client
    } else {
        Client::start(daemon.root(), &uuid, options).unwrap()
    };
    for number in 0..u16::from(u8::MAX) {
        let frame: Vec<u8> = (0..60 + 5 * number).map(|at| (at ^ number).to_le_bytes()[0]).collect();
        client.exchange(&frame).unwrap_or_else(|error| panic!("{options:?}, frame {number}: {error}"));
    }
    // Twice around at least: a wrap counter is both.
    for round in 0..if options.queue_size > 1024 { 2 } else { 20_u8 } {
        let count = usize::from(options.queue_size);
        (0..count).for_each(|number| client.queue(&[round, number.to_le_bytes()[0]].repeat(40)));
        client.tx.notify().unwrap();
        for number in 0..count {
            let back = client.receive(PATIENCE).unwrap_or_else(|error| panic!("{options:?}, {round}: {error}"));
            assert_eq!(back, [round, number.to_le_bytes()[0]].repeat(40), "{options:?}");
            client.tx.wait(PATIENCE, "a frame to be used").unwrap();
        }
    }
    assert_eq!(client.tx.outstanding(), 0);
    assert_eq!(daemon.attribute(&uuid, "state"), "running");
}

#[test]
fn frames_pass_by_rings_of_every_kind() {
    for features in [
        PACKED,
        PACKED | VIRTIO_F_EVENT_IDX,
        PACKED | VIRTIO_F_IN_ORDER,
        PACKED | VIRTIO_F_IN_ORDER | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC | VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_F_IN_ORDER,
        VIRTIO_F_IN_ORDER | VIRTIO_F_EVENT_IDX,
    ] {
        frames_pass(Options { features, queue_size: 64, ..Options::default() });
    }
}

#[test]
fn frames_pass_by_packed_rings_of_the_smallest_and_a_large_size() {
    for queue_size in [2, 256] {
        frames_pass(Options { features: PACKED | VIRTIO_F_EVENT_IDX, queue_size, ..Options::default() });
    }
}

#[test]
fn frames_pass_by_packed_rings_of_sizes_that_are_no_power_of_two() {
    for queue_size in [3, 100, 255] {
        frames_pass(Options { features: PACKED | VIRTIO_F_EVENT_IDX, queue_size, ..Options::default() });
    }
}

#[test]
fn frames_pass_by_the_largest_rings_there_are() {
    for (queue_size, features) in [
        (LARGEST, VIRTIO_F_EVENT_IDX),
        (LARGEST, VIRTIO_F_IN_ORDER),
        (LARGEST, PACKED | VIRTIO_F_EVENT_IDX),
        (LARGEST - 256, PACKED),
        (2048, PACKED | VIRTIO_F_IN_ORDER),
        (4096, 0),
    ] {
        frames_pass(Options { features, queue_size, ..Options::default() });
    }
}

#[test]
fn f18_a_split_ring_has_a_power_of_two_of_entries_and_no_ring_more_than_its_limit() {
    let daemon = Daemon::start();
    let uuid = daemon.try_create("loopback-net-fast", "queue-size=4096").unwrap();
    for (features, odd) in [(0, Err(Some(Errno::EINVAL))), (PACKED, Ok(()))] {
        let options = Options { features, ..Options::default() };
        let client = Client::open(daemon.root(), &uuid, options).unwrap();
        let set = |size| client.vhost.set_vring_num(0, size).map_err(|error| error.errno());
        assert_eq!(set(100), Err(Some(Errno::EINVAL)), "it is not known yet which ring it is");
        client.negotiate().unwrap();
        assert_eq!((set(100), set(4095), set(4096)), (odd, odd, Ok(())));
        for wrong in [0, 4097, 8192, 0x1_0000, u32::MAX] {
            assert_eq!(set(wrong), Err(Some(Errno::EINVAL)), "{wrong}");
        }
    }
}

#[test]
fn frames_pass_by_packed_rings_in_private_memory_and_by_iotlb_messages() {
    let features = PACKED | VIRTIO_F_IN_ORDER | VIRTIO_F_EVENT_IDX;
    frames_pass(Options { features, queue_size: 16, private: true, ..Options::default() });
    frames_pass(Options { features, queue_size: 16, via: Via::Iotlb, ..Options::default() });
    frames_pass(Options { features, queue_size: 16, via: Via::Device, ..Options::default() });
}

#[test]
fn a_packed_ring_starts_where_it_is_told_to() {
    let daemon = Daemon::start();
    let uuid = daemon.create_of("loopback-net-fast");
    let options = Options { features: PACKED, queue_size: 8, ..Options::default() };
    let mut client = Client::start(daemon.root(), &uuid, options).unwrap();
    (0..13).for_each(|number| client.exchange(&[number; 60]).unwrap());
    client.vhost.suspend().unwrap();
    // Thirteen chains of a descriptor each: the second turn, five on.
    assert_eq!([0, 1].map(|ring| client.vhost.vring_base(ring).unwrap()), [0x0005_0005; 2]);
    assert_eq!([client.rx.vring_base(), client.tx.vring_base()], [0x0005_0005; 2]);
    client.vhost.resume().unwrap();
    client.exchange(&[14; 60]).unwrap();
}
