//! Queues that stop in the middle of traffic, by SUSPEND and by a reset: where they stood is exact, so that every frame
//! arrives once and in order.

use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;
use umdev_tests::driver::abi::*;
use umdev_tests::driver::{Client, Daemon, Options, Ring, Via, new_uuid};

const PATIENCE: Duration = Duration::from_secs(20);

/// Suspends, and sees that both rings stand still where GET_VRING_BASE says.
fn suspend(client: &Client) -> [u32; 2] {
    client.vhost.suspend().unwrap();
    let bases = [0, 1].map(|ring| client.vhost.vring_base(ring).unwrap());
    for (ring, base) in [&client.rx, &client.tx].into_iter().zip(bases) {
        assert_eq!(ring.vring_base(), base, "ring {}: what is used and the base", ring.index);
    }
    bases
}

/// What a client does that goes on elsewhere, or with other memory: everything anew, only the rings go on.
fn begin_again(client: &Client, features: u64, bases: [u32; 2]) {
    client.vhost.set_status(0).unwrap();
    client.vhost.set_status(ACKNOWLEDGE | DRIVER).unwrap();
    client.vhost.set_features(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | features).unwrap();
    client.vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK).unwrap();
    for (ring, base) in [&client.rx, &client.tx].into_iter().zip(bases) {
        client.program(ring).unwrap();
        client.vhost.set_vring_base(ring.index, base).unwrap();
    }
    client.vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK).unwrap();
}

/// Stops the queues in one of two ways and lets them go on.
fn interrupt(client: &Client, features: u64, round: u32) {
    let bases = suspend(client);
    if round.is_multiple_of(3) {
        begin_again(client, features, bases);
    } else {
        client.vhost.resume().unwrap();
    }
}

fn drain(ring: &mut Ring) {
    while ring.take().is_some() {}
}

fn stop_under_loopback_traffic(kind: &str, features: u64, via: Via) {
    let daemon = Daemon::start();
    let uuid = daemon.create_of(kind);
    let options = Options { via, features, ..Options::default() };
    let mut client = Client::start(daemon.root(), &uuid, options).unwrap();
    let (mut sent, mut received) = (0u32, 0u32);
    for round in 0..300 {
        for _ in 0..1 + round * 7 % 97 {
            drain(&mut client.tx);
            if client.tx.outstanding() < client.tx.size {
                client.queue(&sent.to_le_bytes().repeat(16));
                sent += 1;
            }
        }
        client.tx.notify().unwrap();
        interrupt(&client, features, round);
        // Some rounds leave frames in the rings.
        while received < sent.saturating_sub(if round.is_multiple_of(5) { 30 } else { 0 }) {
            assert_eq!(client.receive(PATIENCE).unwrap(), received.to_le_bytes().repeat(16), "{received}");
            received += 1;
        }
    }
    while received < sent {
        assert_eq!(client.receive(PATIENCE).unwrap(), received.to_le_bytes().repeat(16), "{received}");
        received += 1;
    }
    let bases = suspend(&client);
    if features & VIRTIO_F_RING_PACKED == 0 {
        assert_eq!(bases, [received & 0xffff, sent & 0xffff]);
    }
    assert_eq!(client.rx.take(), None, "a frame came twice");
    assert_eq!(daemon.attribute(&uuid, "statistics/tx_dropped"), "0");
}

#[test]
fn a_loopback_instance_that_stops_under_traffic_loses_and_repeats_nothing() {
    stop_under_loopback_traffic("loopback-net", 0, Via::Container);
}

#[test]
fn so_with_event_indices() {
    stop_under_loopback_traffic("loopback-net-fast", VIRTIO_F_EVENT_IDX, Via::Container);
}

#[test]
fn so_with_packed_rings() {
    stop_under_loopback_traffic("loopback-net-fast", VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX, Via::Container);
}

#[test]
fn so_with_packed_rings_in_order() {
    stop_under_loopback_traffic("loopback-net-fast", VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER, Via::Container);
}

#[test]
fn so_with_split_rings_in_order() {
    stop_under_loopback_traffic("loopback-net-fast", VIRTIO_F_IN_ORDER, Via::Container);
}

#[test]
fn so_with_an_iommu_of_its_own() {
    stop_under_loopback_traffic("loopback-net-iommu", 0, Via::Iotlb);
}

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
const PORT: u16 = 7000;

/// An Ethernet frame with a UDP datagram from the guest to the host, without a UDP checksum.
fn datagram(payload: [u8; 4]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1];
    let mut sum = ip.chunks(2).fold(0, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
    sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    let port = PORT.to_be_bytes();
    let udp = [port, port, [0, 12], [0, 0]].concat();
    [&[0x52, 0x54, 0, 0, 0, 1][..], &GUEST_MAC, &[8, 0], &ip, &udp, &payload].concat()
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_tap_instance_that_stops_under_traffic_loses_and_repeats_nothing() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
    let daemon = Daemon::with(&["--parent", "tap:tap0"]);
    let uuid = new_uuid();
    let kind = daemon.path("sys/class/mdev_bus/tap0/mdev_supported_types/tap-net/create");
    fs::write(kind, format!("{uuid} ifname=vnet0")).unwrap();
    ip("link set dev vnet0 address 52:54:00:00:00:01");
    ip("addr add 10.9.0.1/24 dev vnet0");
    ip("neigh add 10.9.0.2 lladdr 52:54:00:00:00:02 dev vnet0");
    let host = UdpSocket::bind(("10.9.0.1", PORT)).unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    let mut next = [0u32; 2];
    for round in 0..300u32 {
        let count = 1 + round * 7 % 61;
        for n in 0..count {
            drain(&mut client.tx);
            client.queue(&datagram((next[0] + n).to_le_bytes()));
            host.send_to(&(next[1] + n).to_le_bytes(), ("10.9.0.2", PORT)).unwrap();
            if n == count / 2 {
                client.tx.notify().unwrap();
                interrupt(&client, 0, round);
            }
        }
        client.tx.notify().unwrap();
        for n in 0..count {
            let mut heard = [0; 100];
            let len = host.recv(&mut heard).unwrap();
            assert_eq!(heard[..len], (next[0] + n).to_le_bytes(), "to the host, round {round}");
            let payload = loop {
                let frame = client.receive(PATIENCE).unwrap();
                if frame[..6] == GUEST_MAC && frame[12..14] == [8, 0] && frame[23] == 17 {
                    break frame[42..].to_vec();
                }
            };
            assert_eq!(payload, (next[1] + n).to_le_bytes(), "to the guest, round {round}");
        }
        next = next.map(|next| next + count);
    }
    assert_eq!(daemon.attribute(&uuid, "statistics/tx_dropped"), "0");
    assert_eq!(daemon.attribute(&uuid, "statistics/rx_dropped"), "0");
}
