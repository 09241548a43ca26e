//! What one driver leaves to the device, and another takes or does not.

use crate::lab::{Lab, Port};
use virtio_net::HEADER;
use virtio_net::features::{
    OFFLOADS, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MRG_RXBUF,
};

const SENDS: u64 = VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4;
const TCP_AT: usize = 34;

fn sum(bytes: &[u8], from: u32) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut sum = words.sum::<u32>() + from;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn pseudo(frame: &[u8]) -> u32 {
    sum(&frame[26..34], u32::try_from(frame.len() - TCP_AT).unwrap() + 6)
}

/// A TCP frame whose checksum is left to do, and its header; in segments of `size` bytes where that is not 0.
fn tcp(from: &Port, to: &Port, payload: &[u8], size: u16) -> ([u8; HEADER], Vec<u8>) {
    let mut frame = [&to.mac[..], &from.mac, &[8, 0], &[0; 40], payload].concat();
    let len = u16::try_from(40 + payload.len()).unwrap().to_be_bytes();
    frame[14..34].copy_from_slice(&[0x45, 0, len[0], len[1], 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let checksum = !u16::try_from(sum(&frame[14..34], 0)).unwrap();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame[46] = 0x50;
    let partial = u16::try_from(pseudo(&frame)).unwrap();
    frame[50..52].copy_from_slice(&partial.to_be_bytes());
    let mut header = [0; HEADER];
    header[0] = 1;
    header[6..10].copy_from_slice(&[34, 0, 16, 0]);
    if size > 0 {
        header[1] = 1;
        header[2..4].copy_from_slice(&[54, 0]);
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }
    (header, frame)
}

fn is_complete(frame: &[u8]) -> bool {
    sum(&frame[14..34], 0) == 0xffff && sum(&frame[TCP_AT..], pseudo(frame)) == 0xffff
}

#[test]
fn a_partial_checksum_passes_to_who_takes_it_and_is_completed_for_who_does_not() {
    let mut lab = Lab::new();
    let mut a = lab.guest("access", SENDS, &[]);
    let mut takes = lab.guest("access", VIRTIO_NET_F_GUEST_CSUM, &[]);
    let mut does_not = lab.guest("access", 0, &[]);
    let (header, frame) = tcp(&a, &takes, &[7; 99], 0);
    assert!(a.guest.send_with(&header, &frame));
    let (got, data) = takes.guest.wait();
    assert_eq!((&got[..10], data), (&header[..10], frame));
    let (header, frame) = tcp(&a, &does_not, &[7; 99], 0);
    assert!(a.guest.send_with(&header, &frame));
    let (got, data) = does_not.guest.wait();
    assert_eq!(got[..10], [0; 10]);
    assert!(is_complete(&data) && !is_complete(&frame));
    assert_eq!(data[54..], [7; 99]);
}

#[test]
fn a_large_frame_passes_whole_to_who_takes_it() {
    let mut lab = Lab::new();
    let mut a = lab.guest("access", SENDS, &[]);
    let mut b = lab.guest("access", OFFLOADS | VIRTIO_NET_F_MRG_RXBUF, &[]);
    let payload: Vec<u8> = (0..9000u32).map(|n| n.to_le_bytes()[0]).collect();
    let (header, frame) = tcp(&a, &b, &payload, 1448);
    assert!(a.guest.send_with(&header, &frame));
    let (got, data) = b.guest.wait();
    assert_eq!((&got[..10], data), (&header[..10], frame));
}

#[test]
fn a_large_frame_is_cut_for_who_does_not_take_it() {
    for features in [0, VIRTIO_NET_F_GUEST_CSUM] {
        let mut lab = Lab::new();
        let mut a = lab.guest("access", SENDS, &[]);
        let mut b = lab.guest("access", features, &[]);
        let payload: Vec<u8> = (0..9000u32).map(|n| n.to_le_bytes()[0]).collect();
        let (header, frame) = tcp(&a, &b, &payload, 1448);
        assert!(a.guest.send_with(&header, &frame));
        let mut data = Vec::new();
        for number in 0..7 {
            let (got, segment) = b.guest.wait();
            assert_eq!(got[..10], [0; 10]);
            assert!(is_complete(&segment), "segment {number}");
            assert_eq!(segment[38..42], u32::try_from(data.len()).unwrap().to_be_bytes());
            data.extend_from_slice(&segment[54..]);
        }
        assert_eq!(data, payload);
    }
}

#[test]
fn a_trunk_gets_a_tag_and_the_checksum_stays_where_it_is() {
    let mut lab = Lab::new();
    let mut a = lab.guest("access", SENDS, &[("vlan", "10")]);
    let mut trunk = lab.guest("trunk", OFFLOADS | VIRTIO_NET_F_MRG_RXBUF, &[]);
    let mut plain = lab.guest("trunk", 0, &[]);
    let (header, frame) = tcp(&a, &trunk, &[7; 4000], 1000);
    assert!(a.guest.send_with(&header, &frame));
    let (got, data) = trunk.guest.wait();
    assert_eq!((got[2], got[6], got[8]), (58, 38, 16));
    let expected = [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat();
    assert_eq!(data, expected);
    let (header, frame) = tcp(&a, &plain, &[7; 4000], 1000);
    assert!(a.guest.send_with(&header, &frame));
    for _ in 0..4 {
        let (_, data) = plain.guest.wait();
        assert_eq!(data[12..16], [0x81, 0, 0, 10]);
        assert!(is_complete(&[&data[..12], &data[16..]].concat()));
    }
}

#[test]
fn f22_a_header_that_lies_is_dropped_and_counted() {
    let mut lab = Lab::new();
    let mut a = lab.guest("access", SENDS, &[]);
    let mut b = lab.guest("access", OFFLOADS | VIRTIO_NET_F_MRG_RXBUF, &[]);
    let (good, frame) = tcp(&a, &b, &[7; 4000], 1000);
    for (at, value) in [(4, 47u16), (6, 12), (8, 6)] {
        let mut header = good;
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        assert!(a.guest.send_with(&header, &frame));
    }
    assert!(a.guest.send_with(&good, &frame));
    assert_eq!(b.guest.wait().1, frame);
    assert_eq!(a.count("tx_bad_header"), 3);
}

#[test]
fn a_large_frame_counts_as_the_packets_that_it_is() {
    let mut lab = Lab::new();
    let mut a = lab.guest("access", SENDS, &[("tx-pps", "10:10")]);
    let mut b = lab.guest("access", OFFLOADS | VIRTIO_NET_F_MRG_RXBUF, &[]);
    for size in [1000, 1000, 4000, 4000, 4000] {
        let (header, frame) = tcp(&a, &b, &[7; 4000], size);
        assert!(a.guest.send_with(&header, &frame));
    }
    let sizes = [(); 4].map(|()| u16::from_le_bytes(*b.guest.wait().0[4..].first_chunk().unwrap()));
    assert_eq!(sizes, [1000, 1000, 4000, 4000]);
    a.wait_count("tx_limited", 1);
}
