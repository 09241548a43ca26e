use super::*;
use crate::frame::set_field;

/// A TCP frame of `payload` bytes with a partial checksum.
fn tcp(v6: bool, vlan: bool, payload: usize, size: usize) -> Vec<u8> {
    let mut link = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]].concat();
    if vlan {
        link.extend([0x81, 0, 0, 7]);
    }
    link.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    let mut network = if v6 { vec![0; 40] } else { vec![0; 24] };
    network[0] = if v6 { 0x60 } else { 0x46 };
    network[if v6 { 6 } else { 9 }] = TCP;
    let addresses = if v6 { 8..40 } else { 12..20 };
    for (at, byte) in network[addresses.clone()].iter_mut().enumerate() {
        *byte = u8::try_from(at).unwrap() + 1;
    }
    if !v6 {
        network[4..6].copy_from_slice(&[0xff, 0xff]);
    }
    // 12 bytes of options, and every flag there is.
    let mut transport = vec![0; 32];
    transport[4..8].copy_from_slice(&0xffff_ff00u32.to_be_bytes());
    (transport[12], transport[13]) = (0x80, 0xff);
    let len = u32::try_from(32 + payload).unwrap().to_be_bytes();
    let pseudo = add(add(0, &network[addresses]), &[&len[..], &[0, TCP, 0, 0]].concat());
    let partial = finish(pseudo);
    transport[16..18].copy_from_slice(&[!partial[0], !partial[1]]);
    let mut header = [0; HEADER];
    (header[0], header[1]) = (NEEDS_CSUM, if v6 { GSO_TCPV6 } else { GSO_TCPV4 });
    set_field(&mut header, GSO_SIZE, size);
    set_field(&mut header, CSUM_START, link.len() + network.len());
    set_field(&mut header, CSUM_OFFSET, TCP_CHECKSUM);
    let data = (0..payload).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect();
    [header.to_vec(), link, network, transport, data].concat()
}

fn segments(frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let parsed = Parsed::new(frame).unwrap();
    let segments = Segments::new(frame, frame.len(), &parsed)?;
    let mut out = vec![0xee; 70_000];
    let cut = |number| segments.write(number, &mut out).map(|len| out[..len].to_vec()).unwrap();
    Some((0..segments.count()).map(cut).collect())
}

/// Whether all checksums of a frame are those that a receiver finds right.
fn is_right(v6: bool, link: usize, frame: &[u8]) -> bool {
    let network = &frame[HEADER + link..];
    let (header, addresses) = if v6 { (40, &network[8..40]) } else { (24, &network[12..20]) };
    let segment = &network[header..];
    let len = u32::try_from(segment.len()).unwrap().to_be_bytes();
    let transport = finish(add(add(add(0, addresses), &[&len[..], &[0, TCP, 0, 0]].concat()), segment));
    transport == [0, 0] && (v6 || finish(add(0, &network[..24])) == [0, 0])
}

#[test]
fn segments_are_what_a_receiver_takes_and_together_what_was_sent() {
    for (v6, vlan) in [(false, false), (false, true), (true, false), (true, true)] {
        let (link, network) = (if vlan { 18 } else { 14 }, if v6 { 40 } else { 24 });
        let frame = tcp(v6, vlan, 3001, 1000);
        let cut = segments(&frame).unwrap();
        assert_eq!(cut.len(), 4);
        let transport = HEADER + link + network;
        let mut data = Vec::new();
        for (number, segment) in cut.iter().enumerate() {
            assert!(is_right(v6, link, segment), "{v6} {vlan} segment {number}");
            assert_eq!(segment[..HEADER], [0; HEADER]);
            assert_eq!(segment[HEADER..HEADER + link], frame[HEADER..HEADER + link]);
            let sequence = u32::from_be_bytes(*segment[transport + 4..].first_chunk().unwrap());
            assert_eq!(sequence, 0xffff_ff00u32.wrapping_add(1000 * u32::try_from(number).unwrap()));
            let flags = [0xf6, 0x76, 0x76, 0x7f][number];
            assert_eq!(segment[transport + 13], flags, "flags of segment {number}");
            let header = &segment[HEADER + link..];
            if v6 {
                assert_eq!(usize::from(u16::from_be_bytes([header[4], header[5]])), header.len() - 40);
            } else {
                assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), header.len());
                assert_eq!(
                    u16::from_be_bytes([header[4], header[5]]),
                    0xffffu16.wrapping_add(u16::try_from(number).unwrap())
                );
            }
            data.extend_from_slice(&segment[transport + 32..]);
        }
        assert_eq!(data, frame[transport + 32..]);
        let parsed = Parsed::new(&frame).unwrap();
        let wire: usize = cut.iter().map(|segment| segment.len() - HEADER).sum();
        assert_eq!(on_the_wire(&frame[..crate::frame::HEADERS], frame.len(), &parsed), (4, wire as u64));
    }
}

#[test]
fn a_partial_checksum_is_completed() {
    for v6 in [false, true] {
        // A last byte without a pair.
        let mut frame = tcp(v6, false, 999, 1000);
        frame[1] = GSO_NONE;
        assert!(!is_right(v6, 14, &frame) || v6);
        complete(&mut frame);
        assert_eq!(frame[..HEADER], [0; HEADER]);
        let transport = frame.len() - 999 - 32;
        let addresses = if v6 { HEADER + 14 + 8..HEADER + 14 + 40 } else { HEADER + 14 + 12..HEADER + 14 + 20 };
        let len = u32::try_from(999 + 32).unwrap().to_be_bytes();
        let sum = add(add(add(0, &frame[addresses]), &[&len[..], &[0, TCP, 0, 0]].concat()), &frame[transport..]);
        assert_eq!(finish(sum), [0, 0]);
    }
}

#[test]
fn f22_what_is_not_the_tcp_that_its_header_says_is_refused() {
    let good = tcp(false, false, 3000, 1000);
    let is_good = |frame: &[u8]| {
        is_sane(&frame[..frame.len().min(crate::frame::HEADERS)], frame.len(), &Parsed::new(frame).unwrap())
    };
    assert!(is_good(&good));
    let ip = HEADER + 14;
    let changes: [(&str, usize, &[u8]); 11] = [
        ("another protocol of the link", HEADER + 12, &[0x86, 0xdd]),
        ("another version", ip, &[0x66]),
        ("a header shorter than any", ip, &[0x44]),
        ("a header of another length", ip, &[0x45]),
        ("another transport", ip + 9, &[17]),
        ("a transport header shorter than any", ip + 24 + 12, &[0x40]),
        ("a checksum elsewhere", CSUM_OFFSET, &[6, 0]),
        ("pieces of nearly nothing", GSO_SIZE, &[47, 0]),
        ("no checksum", 0, &[0]),
        ("another kind", 1, &[3]),
        ("a transport header at the end", CSUM_START, &[0xff, 0xff]),
    ];
    for (what, at, bytes) in changes {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(!is_good(&frame), "{what}");
    }
    assert!(!is_good(&good[..HEADER + 14 + 24 + 32]), "no payload");
}

#[test]
fn f22_a_checksum_in_the_link_header_is_refused() {
    let mut frame = tcp(false, true, 100, 1000);
    frame[1] = GSO_NONE;
    let is_good = |frame: &[u8]| {
        is_sane(&frame[..frame.len().min(crate::frame::HEADERS)], frame.len(), &Parsed::new(frame).unwrap())
    };
    set_field(&mut frame, CSUM_START, 18);
    assert!(is_good(&frame));
    // It would be written over the source's address, when that has been looked at.
    set_field(&mut frame, CSUM_START, 6);
    assert!(!is_good(&frame));
    set_field(&mut frame, CSUM_START, 17);
    assert!(!is_good(&frame));
}

#[test]
fn what_is_needed_depends_on_what_the_other_driver_accepted() {
    let [mut plain, partial, large] = [[0u8; HEADER]; 3].map(|header| header.to_vec());
    let (mut partial, mut large) = (partial, large);
    partial[0] = NEEDS_CSUM;
    (large[0], large[1]) = (NEEDS_CSUM, GSO_TCPV4);
    let all = VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4;
    let needs = |features| [&plain, &partial, &large].map(|frame| Need::of(frame, features));
    assert_eq!(needs(all), [Need::Nothing; 3]);
    assert_eq!(needs(VIRTIO_NET_F_GUEST_CSUM), [Need::Nothing, Need::Nothing, Need::Segments]);
    assert_eq!(needs(0), [Need::Silence, Need::Checksum, Need::Segments]);
    plain[1] = GSO_TCPV6;
    assert_eq!(Need::of(&plain, all), Need::Segments);
}
