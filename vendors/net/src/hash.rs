//! Hashes of flows (virtio 1.3 §5.1.6.4.3): which packets belong together.

/// Bytes of the longest key: enough for two IPv6 addresses and two ports.
pub const MAX_KEY: usize = 40;

/// Hash types (virtio 1.3 §5.1.6.4.3.1).
pub const HASH_IPV4: u32 = 1 << 0;
/// TCP over IPv4.
pub const HASH_TCPV4: u32 = 1 << 1;
/// UDP over IPv4.
pub const HASH_UDPV4: u32 = 1 << 2;
/// IPv6.
pub const HASH_IPV6: u32 = 1 << 3;
/// TCP over IPv6.
pub const HASH_TCPV6: u32 = 1 << 4;
/// UDP over IPv6.
pub const HASH_UDPV6: u32 = 1 << 5;
/// Those we know. Home addresses of IPv6 are not looked for.
pub const HASH_TYPES: u32 = HASH_IPV4 | HASH_TCPV4 | HASH_UDPV4 | HASH_IPV6 | HASH_TCPV6 | HASH_UDPV6;

const ETHERTYPE: usize = 12;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// EtherTypes of tags (IEEE 802.1Q), of which a frame may have this many.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const MAX_TAGS: usize = 2;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
/// Extension headers that are looked past: as many kinds as there are, and one may come twice (RFC 8200 §4.1).
const MAX_EXTENSIONS: usize = 5;

/// What of frames is hashed, and with which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashing {
    types: u32,
    /// Zeros behind its end.
    key: [u8; MAX_KEY],
}

/// The hash of a frame, with what was hashed as the header before the frame tells it (virtio 1.3 §5.1.6.4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash {
    /// What the table of a driver is looked up with.
    pub value: u32,
    /// Of which kind.
    pub report: u16,
}

impl Hash {
    /// As a header has it behind its first twelve bytes; zeros say that there is none.
    pub fn encode(hash: Option<Self>) -> [u8; 8] {
        let Some(Self { value, report }) = hash else { return [0; 8] };
        let ([a, b, c, d], [low, high]) = (value.to_le_bytes(), report.to_le_bytes());
        [a, b, c, d, low, high, 0, 0]
    }
}

impl Hashing {
    /// Nothing is hashed.
    pub const NONE: Self = Self { types: 0, key: [0; MAX_KEY] };

    /// Of types among those we know, and a key, with its length before it. `None`: they are not.
    pub fn new(types: u32, mut bytes: Bytes<'_>) -> Option<Self> {
        let [len] = bytes.take()?;
        // Linux from 6.15 on sends a byte of padding behind it.
        let written = bytes.0.get(..usize::from(len))?;
        if types & !HASH_TYPES != 0 || written.len() > MAX_KEY {
            return None;
        }
        let mut key = [0; MAX_KEY];
        key[..written.len()].copy_from_slice(written);
        Some(Self { types, key })
    }

    /// What a command says (`struct virtio_net_hash_config`). `None`: it does not hold together.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        let types = u32::from_le_bytes(bytes.take()?);
        // Reserved. A driver has what another command takes there.
        let [_, _, _, _, _, _, _, _] = bytes.take()?;
        Self::new(types, bytes)
    }

    /// As bytes that [`parse`](Self::parse) takes.
    pub fn encode(&self) -> Vec<u8> {
        [&self.types.to_le_bytes()[..], &[0; 8], &self.encode_key()].concat()
    }

    /// What is hashed.
    pub fn types(&self) -> u32 {
        self.types
    }

    /// The key, with its length before it.
    pub fn encode_key(&self) -> Vec<u8> {
        [&[u8::try_from(MAX_KEY).unwrap_or(u8::MAX)], &self.key[..]].concat()
    }

    /// The hash of a frame, which is without virtio-net header; `None` where nothing of it is to be hashed.
    pub fn of(&self, frame: &[u8]) -> Option<Hash> {
        let flow = flow(frame, self.types)?;
        Some(Hash { value: toeplitz(&self.key, flow.bytes()), report: flow.report })
    }
}

/// Bytes to be taken from the front.
pub struct Bytes<'b>(pub &'b [u8]);

impl Bytes<'_> {
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub fn number(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
}

/// The Toeplitz hash of `input`, which is at most [`MAX_KEY`] - 4 bytes.
fn toeplitz(key: &[u8; MAX_KEY], input: &[u8]) -> u32 {
    // Each bit of the input that is set adds the 32 bits of the key that begin at its place.
    let mut window = u64::from_be_bytes(*key.first_chunk().unwrap_or(&[0; 8]));
    let mut hash = 0;
    for (byte, next) in input.iter().zip(key[8..].iter().chain(std::iter::repeat(&0))) {
        for bit in (0..8).filter(|bit| byte & 0x80 >> bit != 0) {
            hash ^= window << bit >> 32;
        }
        window = window << 8 | u64::from(*next);
    }
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(0)
}

/// What of a frame is hashed.
#[derive(Debug, Clone, Copy)]
struct Flow {
    bytes: [u8; 36],
    len: usize,
    report: u16,
}

impl Flow {
    fn of(addresses: &[u8], ports: &[u8], kind: u32) -> Self {
        let (mut bytes, len) = ([0; 36], addresses.len() + ports.len());
        bytes[..addresses.len()].copy_from_slice(addresses);
        bytes[addresses.len()..len].copy_from_slice(ports);
        // They are numbered from one on, in the order of the bits of their types.
        let report = u16::try_from(kind.trailing_zeros() + 1).unwrap_or(0);
        Self { bytes, len, report }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Addresses, and ports where their hash type is among `types`.
fn flow(frame: &[u8], types: u32) -> Option<Flow> {
    let mut at = ETHERTYPE;
    let mut kind = word(frame, at)?;
    for _ in 0..MAX_TAGS {
        if TAGS.contains(&kind) {
            at += 4;
            kind = word(frame, at)?;
        }
    }
    let packet = frame.get(at + 2..)?;
    match kind {
        IPV4 => ipv4(packet, types),
        IPV6 => ipv6(packet, types),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn ipv4(packet: &[u8], types: u32) -> Option<Flow> {
    let header = packet.first_chunk::<20>()?;
    let (addresses, len) = (&header[12..], usize::from(header[0] & 0xf) * 4);
    // More fragments, or a place that is not the first: ports are in the first alone, so none of them counts.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let kind = match header[9] {
        _ if fragment => 0,
        TCP => HASH_TCPV4,
        UDP => HASH_UDPV4,
        _ => 0,
    };
    transport(packet.get(len..), addresses, types & kind, types & HASH_IPV4)
}

fn ipv6(packet: &[u8], types: u32) -> Option<Flow> {
    let header = packet.first_chunk::<40>()?;
    let addresses = &header[8..];
    let (mut next, mut at) = (header[6], header.len());
    for _ in 0..MAX_EXTENSIONS {
        // Ports of a packet in fragments are in the first alone, so a fragment header ends the way as any other does.
        let (HOP_BY_HOP | ROUTING | DESTINATION) = next else { break };
        let Some(&[after, len]) = packet.get(at..).and_then(<[u8]>::first_chunk) else { break };
        (next, at) = (after, at + 8 + 8 * usize::from(len));
    }
    let kind = match next {
        TCP => HASH_TCPV6,
        UDP => HASH_UDPV6,
        _ => 0,
    };
    transport(packet.get(at..), addresses, types & kind, types & HASH_IPV6)
}

/// With ports if they are asked for and there, else without if that is asked for; each by its type, or none.
fn transport(payload: Option<&[u8]>, addresses: &[u8], with_ports: u32, without: u32) -> Option<Flow> {
    let ports = payload.and_then(<[u8]>::first_chunk::<4>).filter(|_| with_ports != 0);
    match ports {
        Some(ports) => Some(Flow::of(addresses, ports, with_ports)),
        None => (without != 0).then(|| Flow::of(addresses, &[], without)),
    }
}

#[cfg(test)]
pub mod published {
    //! Packets whose hashes were published.

    use super::MAX_KEY;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// The key of Microsoft's "Verifying the RSS Hash Calculation".
    pub const KEY: [u8; MAX_KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    /// From, to, hash of the addresses, hash with TCP's ports.
    pub const PUBLISHED: [(&str, u16, &str, u16, u32, u32); 8] = [
        ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323e_8fc2, 0x51cc_c178),
        ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xd718_262a, 0xc626_b0ea),
        ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xd2d0_a5de, 0x5c2b_394a),
        ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x8298_9176, 0xafc7_327f),
        ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5d18_09c5, 0x10e8_28a2),
        ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc1_8cd5, 0x4020_7d3d),
        ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c_461c, 0xdde5_1bbf),
        ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x4b61_e985, 0x02d1_feef),
    ];

    pub fn v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 20];
        (header[0], header[9]) = (0x45, protocol);
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[12..16].copy_from_slice(&from.octets());
        header[16..].copy_from_slice(&to.octets());
        [&[0; 12][..], &[8, 0], &header, payload].concat()
    }

    pub fn v6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 40];
        (header[0], header[6]) = (0x60, next);
        header[8..24].copy_from_slice(&from.octets());
        header[24..].copy_from_slice(&to.octets());
        [&[0; 12][..], &[0x86, 0xdd], &header, payload].concat()
    }

    pub fn ports(from: u16, to: u16) -> [u8; 4] {
        let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
        [a, b, c, d]
    }

    pub fn packet(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (from.parse().unwrap(), to.parse().unwrap()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => v4(from, to, protocol, 0x4000, payload),
            (IpAddr::V6(from), IpAddr::V6(to)) => v6(from, to, protocol, payload),
            _ => panic!("of two kinds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::published::*;
    use super::*;

    fn hash(frame: &[u8], types: u32) -> Option<u32> {
        Hashing { types, key: KEY }.of(frame).map(|hash| hash.value)
    }

    #[test]
    fn hashes_are_those_that_were_published() {
        for (from, from_port, to, to_port, addresses, with_ports) in PUBLISHED {
            let frame = packet(from, to, TCP, &ports(from_port, to_port));
            assert_eq!(hash(&frame, HASH_IPV4 | HASH_IPV6), Some(addresses), "{from}");
            assert_eq!(hash(&frame, HASH_TYPES), Some(with_ports), "{from}");
            let tagged = [&frame[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2], &frame[12..]].concat();
            assert_eq!(hash(&tagged, HASH_TYPES), Some(with_ports), "{from} in two VLANs");
        }
    }

    #[test]
    fn ports_count_where_they_are_asked_for_and_in_every_packet_of_the_flow() {
        let (from, _, to, _, addresses, with_ports) = PUBLISHED[0];
        let udp = packet(from, to, UDP, &ports(2794, 1766));
        assert_eq!(hash(&udp, HASH_IPV4 | HASH_TCPV4), Some(addresses));
        assert_eq!(hash(&udp, HASH_UDPV4), Some(with_ports));
        assert_eq!(hash(&udp, HASH_TCPV4 | HASH_IPV6), None);
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        for fragment in [0x2000, 0x0001, 0x3fff] {
            let part = v4(from, to, UDP, fragment, &ports(2794, 1766));
            assert_eq!(hash(&part, HASH_TYPES), Some(addresses), "{fragment:#x}");
        }
    }

    #[test]
    fn extension_headers_are_looked_past_up_to_a_fragment() {
        let (from, _, to, _, addresses, with_ports) = PUBLISHED[5];
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let options = [&[DESTINATION, 1][..], &[0; 14], &[TCP, 0], &[0; 6], &ports(2794, 1766)].concat();
        assert_eq!(hash(&v6(from, to, HOP_BY_HOP, &options), HASH_TYPES), Some(with_ports));
        let fragment = [&[TCP, 0][..], &[0; 6], &ports(2794, 1766)].concat();
        assert_eq!(hash(&v6(from, to, 44, &fragment), HASH_TYPES), Some(addresses));
        let endless = [HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0].repeat(100);
        assert_eq!(hash(&v6(from, to, HOP_BY_HOP, &endless), HASH_TYPES), Some(addresses));
    }

    #[test]
    fn f22_frames_cut_off_anywhere_are_hashed_by_what_is_there() {
        for (from, from_port, to, to_port, addresses, with_ports) in PUBLISHED {
            let frame = packet(from, to, TCP, &ports(from_port, to_port));
            let header = frame.len() - 4;
            for len in 0..=frame.len() {
                let expected = match len {
                    _ if len < header => None,
                    _ if len < frame.len() => Some(addresses),
                    _ => Some(with_ports),
                };
                assert_eq!(hash(&frame[..len], HASH_TYPES), expected, "{from}: {len} bytes");
            }
        }
        assert_eq!(hash(&[0xff; 64], HASH_TYPES), None);
    }

    #[test]
    fn what_was_hashed_is_told_by_its_number() {
        let [v4, v6] = [PUBLISHED[0], PUBLISHED[5]];
        let report = |(from, from_port, to, to_port, _, _): (&str, u16, &str, u16, u32, u32), protocol, types| {
            let frame = packet(from, to, protocol, &ports(from_port, to_port));
            Hashing { types, key: KEY }.of(&frame).map(|hash| hash.report)
        };
        assert_eq!([TCP, UDP, 1].map(|protocol| report(v4, protocol, HASH_TYPES)), [Some(2), Some(3), Some(1)]);
        assert_eq!([TCP, UDP, 1].map(|protocol| report(v6, protocol, HASH_TYPES)), [Some(5), Some(6), Some(4)]);
        assert_eq!(report(v4, TCP, HASH_IPV4 | HASH_UDPV4), Some(1));
        assert_eq!(report(v4, TCP, 0), None);
        assert_eq!(Hash::encode(Some(Hash { value: 0x0403_0201, report: 5 })), [1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(Hash::encode(None), [0; 8]);
    }

    #[test]
    fn f22_a_configuration_of_hashes_that_does_not_hold_together_is_refused() {
        let good = Hashing { types: HASH_TYPES, key: KEY }.encode();
        assert_eq!(Hashing::parse(&good), Some(Hashing { types: HASH_TYPES, key: KEY }));
        for len in 0..good.len() {
            assert_eq!(Hashing::parse(&good[..len]), None, "{len} bytes");
        }
        assert!(Hashing::parse(&[&good[..], &[0]].concat()).is_some(), "what is behind it is ignored");
        assert_eq!(Hashing::parse(&[&[0x40][..], &good[1..]].concat()), None, "a type that is not offered");
        let long = [&good[..12], &[41], &[0; 41]].concat();
        assert_eq!(Hashing::parse(&long), None, "a key too long");
        let reserved = [&good[..4], &[0xff; 8], &good[12..]].concat();
        assert!(Hashing::parse(&reserved).is_some(), "what is reserved is ignored");
        assert_eq!(Hashing::parse(&[0; 13]), Some(Hashing::NONE));
    }
}
