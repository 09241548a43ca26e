//! Packed rings and in-order use, by a whole client of the files.

use std::time::Duration;
use umdev_tests::driver::abi::{
    VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MRG_RXBUF,
};
use umdev_tests::driver::{Client, Daemon, Options, Via};

const PATIENCE: Duration = Duration::from_secs(20);
const PACKED: u64 = VIRTIO_F_RING_PACKED;

/// Frames of every size, several rounds of the ring, one at a time and as many at once as there is room for.
fn frames_pass(options: Options) {
    let daemon = Daemon::start();
    let uuid = daemon.create_of("loopback-net-fast");
    let mut client = Client::start(daemon.root(), &uuid, options).unwrap();
    for number in 0..u16::from(u8::MAX) {
        let frame: Vec<u8> = (0..60 + 5 * number).map(|at| (at ^ number).to_le_bytes()[0]).collect();
        client.exchange(&frame).unwrap_or_else(|error| panic!("{options:?}, frame {number}: {error}"));
    }
    for round in 0..20_u8 {
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
