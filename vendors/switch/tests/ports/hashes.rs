//! Drivers that are told the hash of each frame.

use crate::lab::{Lab, mac};
use virtio_mdev_api::DeviceLink;
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_RING_PACKED};
use virtio_net::features::{CONTROL, VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF};
use virtio_net::testing::Station;

const HASHES: u64 = REQUIRED | CONTROL | VIRTIO_NET_F_MQ | VIRTIO_NET_F_HASH_REPORT;
/// The key of Microsoft's "Verifying the RSS Hash Calculation".
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];
const CONTROL_QUEUE: usize = 4;
const TCP_OR_ADDRESSES: u8 = 3;
/// Of its example of TCP over IPv4, and of the addresses alone.
const TCP_HASH: [u8; 8] = [0x78, 0xc1, 0xcc, 0x51, 2, 0, 0, 0];
const ADDRESS_HASH: [u8; 8] = [0xc2, 0x8f, 0x3e, 0x32, 1, 0, 0, 0];

/// Two drivers at two ports, which know each other's place.
fn pair(features: [u64; 2]) -> ([Station; 2], [DeviceLink; 2]) {
    let mut lab = Lab::new();
    let cards = [(); 2].map(|()| lab.card("access-fast", &[("pairs", "2"), ("mtu", "9000")]));
    let links = [&cards[0], &cards[1]].map(|(_, link, _)| link.clone());
    let [one, other] = cards;
    ([Station::start(one.0, features[0]), Station::start(other.0, features[1])], links)
}

/// The command that says what is hashed.
fn configure(station: &mut Station, types: u8) -> u8 {
    let command = [&[4, 2, types, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40][..], &KEY].concat();
    station.command(CONTROL_QUEUE, &command)
}

/// A packet of the published example, of a protocol over IPv4, with so many bytes behind its ports.
fn packet(to: u8, from: u8, protocol: u8, len: usize) -> Vec<u8> {
    let ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 66, 9, 149, 187, 161, 142, 100, 80];
    let ports = [0x0a, 0xea, 0x06, 0xe6];
    let payload: Vec<u8> = (0..=250).cycle().take(len).collect();
    [&mac(to)[..], &mac(from), &[8, 0], &ip, &ports, &payload].concat()
}

#[test]
fn a_frame_comes_with_the_hash_of_what_its_driver_asked_for() {
    for (features, other) in [(HASHES, HASHES), (HASHES | VIRTIO_F_RING_PACKED, REQUIRED)] {
        let ([mut station, mut peer], links) = pair([features, other]);
        let exchange = |station: &mut Station, peer: &mut Station, protocol| {
            let frame = packet(1, 2, protocol, 46);
            station.post(0);
            peer.send(0, &frame);
            let bytes = station.wait_buffer(0);
            assert_eq!(bytes[10..12], [1, 0], "one buffer");
            assert_eq!(bytes[20..], frame);
            <[u8; 8]>::try_from(&bytes[12..20]).unwrap()
        };
        assert_eq!(exchange(&mut station, &mut peer, 6), [0; 8], "nothing was asked for");
        assert_eq!(configure(&mut station, TCP_OR_ADDRESSES), 0);
        assert_eq!(exchange(&mut station, &mut peer, 6), TCP_HASH);
        assert_eq!(exchange(&mut station, &mut peer, 17), ADDRESS_HASH);
        assert_eq!(station.command(CONTROL_QUEUE, &[4, 0, 2, 0]), 0);
        assert_eq!(exchange(&mut station, &mut peer, 6), TCP_HASH, "pairs have nothing to do with it");
        assert_eq!(configure(&mut station, 0), 0);
        assert_eq!(exchange(&mut station, &mut peer, 6), [0; 8]);
        // What it sends has as long a header, and the other sees nothing of it.
        let frame = packet(2, 1, 6, 1000);
        peer.post(0);
        station.send(0, &frame);
        assert_eq!(peer.wait(0), frame);
        assert!(links.iter().all(|link| !link.needs_reset()));
    }
}

#[test]
fn a_frame_that_is_merged_has_its_hash_once() {
    let ([mut station, mut peer], links) = pair([HASHES | VIRTIO_NET_F_MRG_RXBUF, REQUIRED]);
    assert_eq!(configure(&mut station, TCP_OR_ADDRESSES), 0);
    let frame = packet(1, 2, 6, 216);
    assert_eq!(frame.len(), 254);
    // The last one has room for all of it, the first one for the header alone.
    for room in [20u32, 21, 64, 137, 273, 274] {
        let buffers = 274u32.div_ceil(room);
        (0..buffers).for_each(|_| station.post_some(0, room));
        peer.send(0, &frame);
        let bytes: Vec<u8> = (0..buffers).flat_map(|_| station.wait_buffer(0)).collect();
        assert_eq!(bytes[10..12], u16::try_from(buffers).unwrap().to_le_bytes(), "buffers of {room} bytes");
        assert_eq!((&bytes[12..20], &bytes[20..]), (&TCP_HASH[..], &frame[..]), "buffers of {room} bytes");
    }
    assert!(links.iter().all(|link| !link.needs_reset()));
}

#[test]
fn f22_a_buffer_without_room_for_the_hash_is_refused() {
    let ([mut station, mut peer], [link, other]) = pair([HASHES, REQUIRED]);
    let ring = &mut station.rings[0];
    ring.add(&[(0x8000, 19, true)]);
    station.kick(0);
    peer.send(0, &packet(1, 2, 6, 46));
    let begun = std::time::Instant::now();
    while !link.needs_reset() {
        assert!(begun.elapsed().as_secs() < 5, "the buffer was used");
        std::thread::yield_now();
    }
    assert!(!other.needs_reset());
}

#[test]
fn what_was_asked_for_goes_along_and_ends_with_a_reset() {
    let ([mut station, mut peer], _) = pair([HASHES, REQUIRED]);
    assert_eq!(configure(&mut station, TCP_OR_ADDRESSES), 0);
    let state = station.device.save_state().unwrap();
    station.restart();
    let hash = |station: &mut Station, peer: &mut Station| {
        station.post(0);
        peer.send(0, &packet(1, 2, 6, 46));
        <[u8; 8]>::try_from(&station.wait_buffer(0)[12..20]).unwrap()
    };
    assert_eq!(hash(&mut station, &mut peer), [0; 8]);
    station.device.restore_state(&state).unwrap();
    assert_eq!(hash(&mut station, &mut peer), TCP_HASH);
}

#[test]
fn a_driver_that_does_without_hashes_cannot_ask_for_them() {
    let ([mut station, _], _) = pair([HASHES & !VIRTIO_NET_F_HASH_REPORT, REQUIRED]);
    assert_eq!(configure(&mut station, TCP_OR_ADDRESSES), 1);
    let mut limits = [0; 7];
    station.device.read_config(17, &mut limits);
    assert_eq!(limits, [40, 128, 0, 0x3f, 0, 0, 0], "what can be asked for is told all the same");
}
