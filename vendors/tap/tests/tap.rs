//! TAP instances in a network namespace of their own: needs root, /dev/net/tun and `ip`.
//!
//! The host's side is the kernel's: its UDP sockets send and receive what the guest receives and sends.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;
use tap::{Tap, TapOptions};
use uuid::Uuid;
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_EVENT_IDX};
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent, Refusal};
use virtio_net::features::{
    CONTROL, RECEPTION, USO, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_net::testing::{Guest, Station, TX};

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
const HOST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const GUEST_IP: [u8; 4] = [10, 9, 0, 2];
const HOST_IP: [u8; 4] = [10, 9, 0, 1];
const GUEST_IP6: [u8; 16] = [0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const HOST_IP6: [u8; 16] = [0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const PORT: u16 = 7000;

/// From now on this thread, and the processes it starts, have a network of their own.
fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn create(parent: &Tap, link: &DeviceLink, uuid: u128, parameters: &[(&str, &str)]) -> Result<Device, Refusal> {
    create_of("net", parent, link, uuid, parameters)
}

fn create_of(
    kind: &str,
    parent: &Tap,
    link: &DeviceLink,
    uuid: u128,
    parameters: &[(&str, &str)],
) -> Result<Device, Refusal> {
    parent.create(CreateRequest {
        uuid: Uuid::from_u128(uuid),
        type_name: kind.to_owned(),
        parameters: parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        doorbell_pages: false,
        owner: None,
        link: link.clone(),
    })
}

/// A guest on interface `vnet0` of a fresh network, the host's side configured.
fn guest(features: u64) -> (Guest, DeviceLink) {
    guest_of("net", features)
}

fn guest_of(kind: &str, features: u64) -> (Guest, DeviceLink) {
    own_network();
    let link = DeviceLink::new("tap-test");
    let parent = Tap::new("tap0", TapOptions::default());
    let device = create_of(kind, &parent, &link, 1, &[("ifname", "vnet0")]).unwrap();
    let Device::Virtio(device) = device else { panic!("not a virtio device") };
    ip("link set dev vnet0 address 52:54:00:00:00:01");
    ip("addr add 10.9.0.1/24 dev vnet0");
    ip("neigh add 10.9.0.2 lladdr 52:54:00:00:00:02 dev vnet0");
    let mut guest = Guest::new(device, REQUIRED | features, 64);
    guest.start();
    guest.post(64);
    (guest, link)
}

fn sum(bytes: &[u8], from: u32) -> u32 {
    bytes
        .chunks(2)
        .fold(from, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// An Ethernet frame with a UDP datagram from the guest to the host. With `partial`, the checksum is left to do.
fn datagram(payload: &[u8], partial: bool) -> Vec<u8> {
    datagram_from(PORT, payload, partial)
}

fn datagram_from(port: u16, payload: &[u8], partial: bool) -> Vec<u8> {
    let len = |extra: usize| u16::try_from(payload.len() + extra).unwrap().to_be_bytes();
    let mut udp = [port.to_be_bytes(), PORT.to_be_bytes(), len(8), [0, 0]].concat();
    let pseudo = [GUEST_IP, HOST_IP, [0, 17, len(8)[0], len(8)[1]]].concat();
    let checksum =
        if partial { fold(sum(&pseudo, 0)) } else { !fold(sum(&[&udp[..], payload].concat(), sum(&pseudo, 0))) };
    udp[6..].copy_from_slice(&checksum.to_be_bytes());
    let mut ip = vec![0x45, 0, len(28)[0], len(28)[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend([GUEST_IP, HOST_IP].concat());
    let checksum = !fold(sum(&ip, 0));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&HOST_MAC[..], &GUEST_MAC, &[8, 0], &ip, &udp, payload].concat()
}

fn host_socket() -> UdpSocket {
    let socket = UdpSocket::bind(("10.9.0.1", PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// The next UDP datagram the host sent to the guest: its header and its frame.
fn next_datagram(guest: &mut Guest) -> ([u8; 12], Vec<u8>) {
    loop {
        let (header, frame) = guest.wait();
        guest.post(64);
        if frame[..6] == GUEST_MAC && frame[12..14] == [8, 0] && frame[23] == 17 {
            return (header, frame);
        }
    }
}

#[test]
fn frames_cross_both_ways() {
    for features in [0, VIRTIO_F_EVENT_IDX | VIRTIO_NET_F_MRG_RXBUF] {
        let (mut guest, link) = guest(features);
        let host = host_socket();
        for n in 0..200u32 {
            let payload = n.to_be_bytes().repeat(1 + n as usize % 300);
            assert!(guest.send(&datagram(&payload, false)));
            let mut received = [0; 2000];
            let len = host.recv(&mut received).unwrap();
            assert_eq!(received[..len], payload);
            host.send_to(&payload, ("10.9.0.2", PORT)).unwrap();
            let (header, frame) = next_datagram(&mut guest);
            assert_eq!(frame[42..], payload);
            assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        }
        assert!(!link.needs_reset(), "{:?}", link.last_fault());
        let shown = |guest: &mut Guest, name| guest.device.show_attribute(name).unwrap();
        assert_eq!(shown(&mut guest, "statistics/tx_packets"), "200");
        assert_eq!(shown(&mut guest, "statistics/tx_dropped"), "0");
        assert_eq!(shown(&mut guest, "ifname"), "vnet0");
    }
}

#[test]
fn a_partial_checksum_is_the_others_to_finish() {
    let (mut guest, _) = guest(VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM);
    let host = host_socket();
    let needs_csum = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    assert!(guest.send_with(&needs_csum, &datagram(b"left to the host", true)));
    let mut received = [0; 100];
    let len = host.recv(&mut received).unwrap();
    assert_eq!(&received[..len], b"left to the host");
    host.send_to(b"left to the guest", ("10.9.0.2", PORT)).unwrap();
    let (header, frame) = next_datagram(&mut guest);
    assert_eq!(frame[42..], *b"left to the guest");
    assert_eq!((header[0], header[6], header[8]), (1, 34, 6), "VIRTIO_NET_HDR_F_NEEDS_CSUM at 34, offset 6");
}

#[test]
fn without_guest_csum_checksums_are_complete_and_nothing_is_said_of_them() {
    let (mut guest, _) = guest(0);
    let host = host_socket();
    host.send_to(b"complete", ("10.9.0.2", PORT)).unwrap();
    let (header, frame) = next_datagram(&mut guest);
    assert_eq!(header[..10], [0; 10]);
    let pseudo = [HOST_IP, GUEST_IP, [0, 17, frame[38], frame[39]]].concat();
    assert_eq!(fold(sum(&frame[34..], sum(&pseudo, 0))), 0xffff);
}

/// A TCP segment from the guest. With payload, its checksum is left to do.
fn segment(seq: u32, ack: u32, flags: u8, host_port: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let len = |extra: usize| u16::try_from(payload.len() + extra).unwrap().to_be_bytes();
    let mut tcp = [&PORT.to_be_bytes()[..], &host_port, &seq.to_be_bytes(), &ack.to_be_bytes()].concat();
    // 24 bytes of header, the last four say that segments may have 1400 bytes.
    tcp.extend([0x60, flags, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0x78]);
    let pseudo = sum(&[GUEST_IP, HOST_IP, [0, 6, len(24)[0], len(24)[1]]].concat(), 0);
    let checksum = if payload.is_empty() { !fold(sum(&tcp, pseudo)) } else { fold(pseudo) };
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut ip = vec![0x45, 0, len(44)[0], len(44)[1], 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend([GUEST_IP, HOST_IP].concat());
    let checksum = !fold(sum(&ip, 0));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&HOST_MAC[..], &GUEST_MAC, &[8, 0], &ip, &tcp, payload].concat()
}

/// The next TCP segment the host sent to the guest: its virtio-net header, its TCP header and payload.
fn next_segment(guest: &mut Guest) -> ([u8; 12], Vec<u8>) {
    loop {
        let (header, frame) = guest.wait();
        guest.post(64);
        if frame[..6] == GUEST_MAC && frame[12..14] == [8, 0] && frame[23] == 6 {
            return (header, frame[34..].to_vec());
        }
    }
}

#[test]
fn segments_larger_than_the_mtu_arrive_whole_where_negotiated() {
    let (mut guest, link) = guest(VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_MRG_RXBUF);
    // Connects while the guest answers; the writer's thread is in the guest's network too.
    let text: Vec<u8> = (0..8000u32).map(|n| n.to_le_bytes()[0]).collect();
    let sent = text.clone();
    let host = std::thread::spawn(move || {
        let mut host = std::net::TcpStream::connect(("10.9.0.2", PORT)).unwrap();
        std::io::Write::write_all(&mut host, &sent).unwrap();
        host
    });
    let (_, syn) = next_segment(&mut guest);
    let seq = u32::from_be_bytes(*syn[4..].first_chunk().unwrap());
    assert!(guest.send(&segment(1000, seq.wrapping_add(1), 0x12, [syn[0], syn[1]], &[])));
    loop {
        let (header, tcp) = next_segment(&mut guest);
        let payload = &tcp[usize::from(tcp[12] >> 4) * 4..];
        if payload.is_empty() {
            continue;
        }
        assert!(payload.len() > 1500, "{} bytes at once", payload.len());
        assert_eq!(payload, &text[..payload.len()]);
        assert_eq!((header[0], header[1]), (1, 1), "VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4");
        assert_eq!(u16::from_le_bytes([header[4], header[5]]), 1400, "gso_size");
        break;
    }
    drop(host.join().unwrap());
    assert!(!link.needs_reset());
}

/// Two frames with partial checksums wait when the driver that takes them goes: one was read already, one was not.
#[test]
fn what_waited_for_one_driver_does_not_reach_another_that_has_not_negotiated_it() {
    let (mut guest, link) = guest(VIRTIO_NET_F_GUEST_CSUM);
    let host = host_socket();
    while guest.receive().is_some() {}
    guest.reset();
    for payload in [b"read", b"left"] {
        host.send_to(payload, ("10.9.0.2", PORT)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    guest.features = REQUIRED;
    guest.reset();
    host.send_to(b"new", ("10.9.0.2", PORT)).unwrap();
    guest.post(64);
    let (header, frame) = next_datagram(&mut guest);
    assert_eq!(header[..10], [0; 10]);
    let pseudo = [HOST_IP, GUEST_IP, [0, 17, frame[38], frame[39]]].concat();
    assert_eq!(fold(sum(&frame[34..], sum(&pseudo, 0))), 0xffff, "{:?} has half a checksum", &frame[42..]);
    assert_eq!(frame[42..], *b"new");
    assert_eq!(guest.device.show_attribute("statistics/rx_errors").unwrap(), "2");
    assert!(!link.needs_reset());
}

#[test]
fn what_waited_for_a_driver_is_there_when_its_queues_go_on() {
    let (mut guest, _) = guest(VIRTIO_NET_F_GUEST_CSUM);
    let host = host_socket();
    guest.reset();
    for payload in [b"read", b"left"] {
        host.send_to(payload, ("10.9.0.2", PORT)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    guest.stop();
    guest.start();
    guest.post(64);
    for payload in [b"read", b"left"] {
        let (header, frame) = next_datagram(&mut guest);
        assert_eq!((header[0], &frame[42..]), (1, &payload[..]));
    }
}

/// A segment of `len` bytes of text arrives, from buffers of so many bytes.
fn a_segment_arrives(len: u32, buffers: usize) {
    let (mut guest, _) = guest(VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4);
    let text: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let expected = text.clone();
    let host = std::thread::spawn(move || {
        let mut host = std::net::TcpStream::connect(("10.9.0.2", PORT)).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut received = vec![0; expected.len()];
        std::io::Read::read_exact(&mut host, &mut received).unwrap();
        assert!(received == expected, "{} bytes are others", expected.len());
    });
    let (_, syn) = next_segment(&mut guest);
    let ack = u32::from_be_bytes(*syn[4..].first_chunk().unwrap()).wrapping_add(1);
    let port = [syn[0], syn[1]];
    assert!(guest.send(&segment(1000, ack, 0x12, port, &[])));
    // NEEDS_CSUM, TCPV4, headers of 58 bytes, segments of 1400, checksum at 34 + 16.
    let header = [1, 1, 58, 0, 0x78, 5, 34, 0, 16, 0, 0, 0];
    let frame = [&header[..], &segment(1001, ack, 0x18, port, &text)].concat();
    let at = 0x60_0000;
    guest.tx.ram.write(at, &frame);
    let buffer = |from: usize| (at + from as u64, u32::try_from(buffers.min(frame.len() - from)).unwrap(), false);
    guest.tx.add(&(0..frame.len()).step_by(buffers).map(buffer).collect::<Vec<_>>());
    guest.kick(TX);
    host.join().unwrap();
    assert_eq!(guest.device.show_attribute("statistics/tx_dropped").unwrap(), "0");
}

#[test]
fn segmentation_is_left_to_the_host_where_negotiated() {
    a_segment_arrives(5000, 65_536);
}

/// As a Linux guest sends it, by the kernel's copy alone.
#[test]
fn a_large_segment_arrives_from_the_pages_it_is_in() {
    a_segment_arrives(40_000, 4096);
}

/// More than one call takes.
#[test]
fn a_large_segment_arrives_from_very_many_buffers() {
    a_segment_arrives(40_000, 700);
}

/// What a packet of IPv6 carries, after its Ethernet header and with the checksum of a pseudo header in it.
fn frame6(next: u8, checksum_at: usize, mut payload: Vec<u8>) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let pseudo = sum(&[&GUEST_IP6[..], &HOST_IP6, &[0, 0, len[0], len[1], 0, 0, 0, next]].concat(), 0);
    payload[checksum_at..checksum_at + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
    let header = [&[0x60, 0, 0, 0, len[0], len[1], next, 64][..], &GUEST_IP6, &HOST_IP6].concat();
    [&HOST_MAC[..], &GUEST_MAC, &[0x86, 0xdd], &header, &payload].concat()
}

/// A host that answers to IPv6 as well.
fn with_ip6() {
    ip("-6 addr add fd09::1/64 dev vnet0 nodad");
    ip("-6 neigh add fd09::2 lladdr 52:54:00:00:00:02 dev vnet0");
    // The kernel makes the address its own some time later.
    let begun = std::time::Instant::now();
    while !ip("-6 route show table local").contains("local fd09::1 ") {
        assert!(begun.elapsed() < Duration::from_secs(5), "fd09::1 is not the host's");
    }
}

#[test]
fn segmentation_over_ipv6_with_congestion_is_left_to_the_host() {
    let features = VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN;
    let (mut guest, _) = guest(features);
    with_ip6();
    let text: Vec<u8> = (0..5000u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = text.clone();
    let host = std::thread::spawn(move || {
        let mut host = std::net::TcpStream::connect(("fd09::2", PORT)).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut received = vec![0; 5000];
        std::io::Read::read_exact(&mut host, &mut received).unwrap();
        assert_eq!(received, expected);
    });
    let syn = loop {
        let (_, frame) = guest.wait();
        guest.post(64);
        if frame[12..14] == [0x86, 0xdd] && frame[20] == 6 {
            break frame[54..].to_vec();
        }
    };
    let ack = u32::from_be_bytes(*syn[4..].first_chunk().unwrap()).wrapping_add(1);
    let tcp = |seq: u32, flags: u8, payload: &[u8]| {
        let head = [&PORT.to_be_bytes()[..], &syn[..2], &seq.to_be_bytes(), &ack.to_be_bytes()].concat();
        let rest = [0x60, flags, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0x78];
        frame6(6, 16, [&head[..], &rest, payload].concat())
    };
    // NEEDS_CSUM, checksum at 54 + 16.
    assert!(guest.send_with(&[1, 0, 0, 0, 0, 0, 54, 0, 16, 0, 0, 0], &tcp(1000, 0x12, &[])));
    // As TCPV6 with ECN, headers of 78 bytes, segments of 1400; the flags are ACK, PSH and CWR.
    let header = [1, 0x84, 78, 0, 0x78, 5, 54, 0, 16, 0, 0, 0];
    assert!(guest.send_with(&header, &tcp(1001, 0x98, &text)));
    host.join().unwrap();
    assert_eq!(guest.device.show_attribute("statistics/tx_dropped").unwrap(), "0");
    assert!(guest.send_with(&[1, 1, 78, 0, 0x78, 5, 54, 0, 16, 0, 0, 0], &tcp(1, 0x18, &text)));
    let begun = std::time::Instant::now();
    while guest.device.show_attribute("statistics/tx_bad_header").unwrap() != "1" {
        assert!(begun.elapsed() < Duration::from_secs(5), "segmentation over IPv4 was not negotiated");
    }
}

#[test]
fn datagrams_are_segmented_by_the_host_where_its_kernel_knows_how() {
    let (mut guest, _) = guest_of("net-fast", VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_USO);
    let offered = guest.device.info().features & USO;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = kernel.split(['.', '-']).take(2).map(|part| part.parse().unwrap()).collect();
    assert_eq!(offered, if version >= vec![6, 2] { USO } else { 0 }, "Linux {kernel}");
    if offered == 0 {
        return;
    }
    let host = host_socket();
    let text: Vec<u8> = (0..4000u32).map(|n| n.to_le_bytes()[0]).collect();
    // As UDP, headers of 42 bytes, datagrams of 1000, checksum at 34 + 6.
    assert!(guest.send_with(&[1, 5, 42, 0, 0xe8, 3, 34, 0, 6, 0, 0, 0], &datagram(&text, true)));
    for expected in text.chunks(1000) {
        let mut received = [0; 2000];
        let len = host.recv(&mut received).unwrap();
        assert_eq!(received[..len], *expected);
    }
    with_ip6();
    let host = UdpSocket::bind(("fd09::1", PORT)).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let len = u16::try_from(text.len() + 8).unwrap().to_be_bytes();
    let udp = [&PORT.to_be_bytes()[..], &PORT.to_be_bytes(), &len, &[0, 0], &text].concat();
    assert!(guest.send_with(&[1, 5, 62, 0, 0xe8, 3, 54, 0, 6, 0, 0, 0], &frame6(17, 6, udp)));
    for expected in text.chunks(1000) {
        let mut received = [0; 2000];
        let len = host.recv(&mut received).unwrap();
        assert_eq!(received[..len], *expected);
    }
}

/// The host's socket gives its kernel several datagrams at once (UDP_SEGMENT).
fn send_segmented(host: &UdpSocket, text: &[u8], to: &str) {
    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
    let to: std::net::SocketAddr = to.parse().unwrap();
    let segment = [ControlMessage::UdpGsoSegments(&1000)];
    let fd = std::os::fd::AsRawFd::as_raw_fd(host);
    let sent =
        sendmsg(fd, &[std::io::IoSlice::new(text)], &segment, MsgFlags::empty(), Some(&SockaddrStorage::from(to)));
    assert_eq!(sent, Ok(text.len()));
}

#[test]
fn datagrams_arrive_unsegmented_where_negotiated_and_segmented_elsewhere() {
    let text: Vec<u8> = (0..4000u32).map(|n| n.to_le_bytes()[0]).collect();
    for features in [VIRTIO_NET_F_GUEST_CSUM | USO & !VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_CSUM] {
        let (mut guest, link) = guest_of("net-fast", features | VIRTIO_NET_F_MRG_RXBUF);
        let whole = features & guest.device.info().features & USO != 0;
        let host = host_socket();
        send_segmented(&host, &text, "10.9.0.2:7000");
        let mut received: Vec<u8> = Vec::new();
        while received.len() < text.len() {
            let (header, frame) = next_datagram(&mut guest);
            assert_eq!((header[1], frame.len() - 42), if whole { (5, 4000) } else { (0, 1000) });
            received.extend(&frame[42..]);
        }
        assert_eq!(received, text);
        assert!(!link.needs_reset());
    }
}

#[test]
fn the_profile_that_migrates_has_no_segmentation_of_datagrams() {
    let (guest, _) = guest(0);
    let offered = guest.device.info().features;
    let tcp = VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN | VIRTIO_NET_F_HOST_ECN;
    assert_eq!((offered & USO, offered & tcp), (0, tcp));
}

#[test]
fn without_receive_buffers_frames_wait_in_the_interface() {
    let (mut guest, _) = guest(0);
    guest.stop();
    guest.rx.reset();
    guest.tx.reset();
    guest.device.reset();
    guest.reset();
    let host = host_socket();
    for n in 0..20u8 {
        host.send_to(&[n], ("10.9.0.2", PORT)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(guest.receive().is_none());
    guest.post(64);
    for n in 0..20u8 {
        assert_eq!(next_datagram(&mut guest).1[42..], [n]);
    }
}

#[test]
fn the_link_goes_down_on_both_sides_and_the_driver_is_told() {
    let (mut guest, link) = guest(0);
    let host = host_socket();
    let status = |guest: &mut Guest| {
        let mut status = [0; 2];
        guest.device.read_config(6, &mut status);
        status
    };
    assert_eq!(status(&mut guest), [1, 0]);
    let generation = link.generation();
    guest.device.store_attribute("link", "down").unwrap();
    assert_eq!((status(&mut guest), link.generation()), ([0, 0], generation + 1));
    assert_eq!(guest.device.show_attribute("link").unwrap(), "down");
    assert!(ip("link show dev vnet0").contains("NO-CARRIER"));
    assert!(guest.send(&datagram(b"into the void", false)));
    host.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(host.recv(&mut [0; 10]).is_err());
    guest.device.store_attribute("link", "up").unwrap();
    assert_eq!(status(&mut guest), [1, 0]);
    assert!(guest.send(&datagram(b"back", false)));
    host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(host.recv(&mut [0; 10]).unwrap(), 4);
    assert_eq!(guest.device.store_attribute("link", "maybe").unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(guest.device.show_attribute("statistics/tx_link_down").unwrap(), "1");
}

/// The next UDP datagram on a pair: where it goes, and what it says.
fn datagram_on(station: &mut Station, pair: usize) -> (u16, Vec<u8>) {
    loop {
        station.post(pair);
        let frame = station.wait(pair);
        if frame[..6] == GUEST_MAC && frame[12..14] == [8, 0] && frame[23] == 17 {
            return (u16::from_be_bytes([frame[36], frame[37]]), frame[42..].to_vec());
        }
    }
}

/// A guest with two pairs on interface `vnet0` of a fresh network, the host's side configured.
fn two_pairs(features: u64) -> (Station, DeviceLink) {
    own_network();
    let link = DeviceLink::new("tap-test");
    let parent = Tap::new("tap0", TapOptions::default());
    let device = create(&parent, &link, 1, &[("ifname", "vnet0"), ("pairs", "2")]).unwrap();
    let Device::Virtio(device) = device else { panic!("not a virtio device") };
    ip("link set dev vnet0 address 52:54:00:00:00:01");
    ip("addr add 10.9.0.1/24 dev vnet0");
    ip("neigh add 10.9.0.2 lladdr 52:54:00:00:00:02 dev vnet0");
    (Station::start(device, features), link)
}

#[test]
fn frames_for_others_reach_a_driver_that_asked_for_them_alone() {
    let (mut station, link) = two_pairs(REQUIRED | CONTROL | RECEPTION | VIRTIO_NET_F_MQ);
    let own = GUEST_MAC;
    assert_eq!(station.command(4, &[&[1, 1][..], &own].concat()), 0);
    ip("neigh add 10.9.0.3 lladdr 52:54:00:00:00:03 dev vnet0");
    let host = host_socket();
    // Who sends to another and then to the guest: what comes first tells whether the other's frame came.
    let first = |station: &mut Station, words: &[u8]| {
        let say = [b"to another: ", words].concat();
        host.send_to(&say, ("10.9.0.3", PORT)).unwrap();
        host.send_to(words, ("10.9.0.2", PORT)).unwrap();
        let came = loop {
            station.post(0);
            let frame = station.wait(0);
            if frame[12..14] == [8, 0] && frame[23] == 17 {
                break frame[42..].to_vec();
            }
        };
        if came == say {
            assert_eq!(datagram_on(station, 0).1, words);
        }
        came == say
    };
    assert!(first(&mut station, b"after a reset everything comes"));
    assert_eq!(station.command(4, &[0, 0, 0]), 0);
    assert!(!first(&mut station, b"not promiscuous"));
    let other = [&[1, 0, 1, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 3][..], &[0; 4]].concat();
    assert_eq!(station.command(4, &other), 0);
    assert!(first(&mut station, b"in the table"));
    assert_eq!(station.command(4, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0);
    assert!(!first(&mut station, b"no more in the table"));
    assert_eq!(station.command(4, &[0, 2, 1]), 0);
    assert!(first(&mut station, b"for any station"));
    assert_eq!(station.command(4, &[0, 2, 0]), 0);
    assert_eq!(station.command(4, &[0, 0, 1]), 0);
    assert!(first(&mut station, b"promiscuous"));
    let filtered = station.device.show_attribute("statistics/rx_filtered").unwrap();
    assert!(filtered.parse::<u32>().unwrap() >= 2, "{filtered}");
    assert!(!link.needs_reset());
}

/// A command that spreads UDP over IPv4 by a table of two.
fn spread(table: [u8; 2], unclassified: u8, types: u8) -> Vec<u8> {
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];
    let head = [4, 1, types, 0, 0, 0, 1, 0, unclassified, 0, table[0], 0, table[1], 0, 2, 0, 40];
    [&head[..], &KEY].concat()
}

#[test]
fn frames_go_to_the_pair_that_the_drivers_table_says() {
    let (mut station, link) = two_pairs(REQUIRED | CONTROL | RECEPTION | VIRTIO_NET_F_MQ);
    // Two flows of the published examples, whose hashes end in different bits: 0x51ccc178 and 0xafc7327f.
    let flows = [("66.9.149.187:2794", "161.142.100.80:1766"), ("38.27.205.30:48228", "209.142.163.6:2217")];
    let flows = flows.map(|(from, to)| {
        let (source, target) = (from.split(':').next().unwrap(), to.split(':').next().unwrap());
        ip(&format!("addr add {source}/32 dev vnet0"));
        ip(&format!("route add {target}/32 dev vnet0 src {source}"));
        ip(&format!("neigh add {target} lladdr 52:54:00:00:00:02 dev vnet0"));
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect(to).unwrap();
        socket
    });
    let udp = 1 << 2;
    // Both have buffers all the time: a frame that waits for one pair holds up those behind it.
    (0..6).for_each(|_| [0, 1].into_iter().for_each(|pair| station.post(pair)));
    for round in 0..20u8 {
        let table = [round % 2, 1 - round % 2];
        assert_eq!(station.command(4, &spread(table, 0, udp)), 0);
        // Several of each, one after the other: they wait in the interface together.
        for n in 0..3 {
            flows.iter().enumerate().for_each(|(flow, socket)| {
                socket.send(&[round, n, u8::try_from(flow).unwrap()]).unwrap();
            });
        }
        for (flow, pair) in table.into_iter().enumerate() {
            for n in 0..3 {
                let expected = vec![round, n, u8::try_from(flow).unwrap()];
                assert_eq!(datagram_on(&mut station, pair.into()).1[..3], expected, "{round}");
            }
        }
    }
    // What has no hash goes where such frames are to go.
    assert_eq!(station.command(4, &spread([0, 0], 1, 0)), 0);
    flows[0].send(b"unclassified").unwrap();
    assert_eq!(datagram_on(&mut station, 1).1, b"unclassified");
    // Enabling pairs takes the choice back.
    assert_eq!(station.command(4, &[4, 0, 1, 0]), 0);
    flows[0].send(b"one pair").unwrap();
    assert_eq!(datagram_on(&mut station, 0).1, b"one pair");
    assert!(!link.needs_reset());
}

#[test]
fn a_frame_that_waits_for_one_pair_goes_to_another_when_its_driver_says_so() {
    let (mut station, _) = two_pairs(REQUIRED | CONTROL | RECEPTION | VIRTIO_NET_F_MQ);
    let host = host_socket();
    assert_eq!(station.command(4, &spread([1, 1], 1, 0)), 0);
    host.send_to(b"waits", ("10.9.0.2", PORT)).unwrap();
    station.post(0);
    std::thread::sleep(Duration::from_millis(20));
    assert!(station.receive(0).is_none(), "it is for the second pair");
    assert_eq!(station.command(4, &spread([0, 0], 0, 0)), 0);
    assert_eq!(datagram_on(&mut station, 0).1, b"waits");
}

#[test]
fn flows_of_an_interface_stay_on_the_pair_that_began_them() {
    let (mut station, link) = two_pairs(REQUIRED | CONTROL | VIRTIO_NET_F_MQ);
    let host = host_socket();
    let answer = || {
        let mut said = [0; 100];
        let (len, from) = host.recv_from(&mut said).unwrap();
        host.send_to(&said[..len], from).unwrap();
    };
    // One pair is enabled: whatever queue of the interface a flow is on, the first pair has it.
    for port in 7001..7009 {
        host.send_to(b"unasked", ("10.9.0.2", port)).unwrap();
        assert_eq!(datagram_on(&mut station, 0), (port, b"unasked".to_vec()));
    }
    assert_eq!(station.command(4, &[4, 0, 2, 0]), 0);
    for round in 0..50 {
        for pair in [0, 1] {
            let port = 8000 + u16::try_from(pair).unwrap();
            station.send(pair, &datagram_from(port, &[round; 60], false));
            answer();
            assert_eq!(datagram_on(&mut station, pair), (port, vec![round; 60]), "pair {pair}");
        }
    }
    assert_eq!(station.command(4, &[4, 0, 1, 0]), 0);
    station.send(1, &datagram_from(8001, b"from a pair no longer enabled", false));
    answer();
    assert_eq!(datagram_on(&mut station, 0), (8001, b"from a pair no longer enabled".to_vec()));
    assert!(!link.needs_reset());
}

#[test]
fn an_interface_taken_down_by_the_host_comes_back() {
    let (mut guest, link) = guest(0);
    let host = host_socket();
    ip("link set dev vnet0 down");
    assert!(guest.send(&datagram(b"nobody hears", false)));
    std::thread::sleep(Duration::from_millis(50));
    ip("link set dev vnet0 up");
    ip("neigh replace 10.9.0.2 lladdr 52:54:00:00:00:02 dev vnet0");
    host.send_to(b"hello again", ("10.9.0.2", PORT)).unwrap();
    assert_eq!(next_datagram(&mut guest).1[42..], *b"hello again");
    assert!(guest.send(&datagram(b"heard", false)));
    let mut received = [0; 100];
    let len = host.recv(&mut received).unwrap();
    assert_eq!(&received[..len], b"heard");
    assert!(!link.needs_reset());
}

#[test]
fn the_interface_comes_and_goes_with_its_instance() {
    own_network();
    let (parent, link) =
        (Tap::new("tap0", TapOptions { capacity: 1, ..TapOptions::default() }), DeviceLink::new("test"));
    let uuid = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
    let device = create(&parent, &link, uuid, &[("mtu", "1400")]).unwrap();
    let shown = ip("link show dev umdev01234567");
    assert!(shown.contains("mtu 1400") && shown.contains("UP"), "{shown}");
    let full = create(&parent, &link, 2, &[]).err().unwrap();
    assert_eq!((full.errno(), parent.available("net")), (Errno::ENOSPC, 0));
    drop(device);
    assert!(!ip("link show").contains("umdev"));
    assert_eq!(parent.available("net"), 1);
}

#[test]
fn a_name_in_use_and_a_name_that_is_none_are_refused_in_words() {
    own_network();
    let (parent, link) = (Tap::new("tap0", TapOptions::default()), DeviceLink::new("test"));
    let first = create(&parent, &link, 1, &[("ifname", "mine")]).unwrap();
    for name in ["lo", "mine"] {
        let refusal = create(&parent, &link, 2, &[("ifname", name)]).err().unwrap();
        assert_eq!(refusal.errno(), Errno::EEXIST);
        assert_eq!(refusal.reason(), format!("there is an interface {name} already"));
    }
    let refusal = create(&parent, &link, 2, &[("ifname", "a/b")]).err().unwrap();
    assert_eq!(refusal.errno(), Errno::EINVAL);
    assert_eq!(parent.available("net"), 1023);
    drop(first);
}

#[test]
fn whether_interfaces_can_be_made_is_known_before() {
    own_network();
    assert_eq!(Tap::permitted(), Ok(()));
    assert!(!ip("link show").contains("umdevprobe"));
}
