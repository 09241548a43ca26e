//! Receive-side scaling (virtio 1.3 §5.1.6.5.7): which queue pair gets a frame, by a hash of its flow.

/// Bytes of the longest key: enough for two IPv6 addresses and two ports.
pub const MAX_KEY: usize = 40;
/// Entries of the longest indirection table.
pub const MAX_TABLE: usize = 128;

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

/// How a driver wants its frames spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rss {
    hash_types: u32,
    /// For frames without a hash.
    unclassified: u16,
    /// Queue pairs by the low bits of the hash; a power of two of them.
    table: Vec<u16>,
    /// Zeros behind its end.
    key: [u8; MAX_KEY],
}

impl Rss {
    /// What a command says (`struct virtio_net_rss_config`), with the number of transmit queues, for a card with so many
    /// pairs. `None`: it does not hold together, or asks for what there is not.
    pub fn parse(bytes: &[u8], pairs: u16) -> Option<(Self, u16)> {
        let mut bytes = Bytes(bytes);
        let hash_types = u32::from_le_bytes(bytes.take()?);
        let len = usize::from(bytes.number()?) + 1;
        let unclassified = bytes.number()?;
        if hash_types & !HASH_TYPES != 0 || !len.is_power_of_two() || len > MAX_TABLE || unclassified >= pairs {
            return None;
        }
        let table: Vec<u16> = (0..len).map(|_| bytes.number().filter(|pair| *pair < pairs)).collect::<Option<_>>()?;
        let transmit = bytes.number().filter(|transmit| (1..=pairs).contains(transmit))?;
        let [key_len] = bytes.take()?;
        let written = bytes.0;
        if written.len() != usize::from(key_len) || written.len() > MAX_KEY {
            return None;
        }
        let mut key = [0; MAX_KEY];
        key[..written.len()].copy_from_slice(written);
        Some((Self { hash_types, unclassified, table, key }, transmit))
    }

    /// As bytes that [`parse`](Self::parse) takes.
    pub fn encode(&self, transmit: u16) -> Vec<u8> {
        let mask = u16::try_from(self.table.len() - 1).unwrap_or(u16::MAX);
        let words = [mask, self.unclassified].into_iter().chain(self.table.iter().copied()).chain([transmit]);
        let mut bytes = self.hash_types.to_le_bytes().to_vec();
        words.for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.push(u8::try_from(MAX_KEY).unwrap_or(u8::MAX));
        bytes.extend(self.key);
        bytes
    }

    /// The queue pair that gets a frame, which is without virtio-net header.
    pub fn pair(&self, frame: &[u8]) -> u16 {
        match flow(frame, self.hash_types) {
            // The mask is within the table, so the low bits are all that count.
            Some(flow) => self.table[toeplitz(&self.key, flow.bytes()) as usize & (self.table.len() - 1)],
            None => self.unclassified,
        }
    }
}

/// Bytes to be taken from the front.
struct Bytes<'b>(&'b [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u16> {
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
}

impl Flow {
    fn of(addresses: &[u8], ports: &[u8]) -> Self {
        let (mut bytes, len) = ([0; 36], addresses.len() + ports.len());
        bytes[..addresses.len()].copy_from_slice(addresses);
        bytes[addresses.len()..len].copy_from_slice(ports);
        Self { bytes, len }
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
    transport(packet.get(len..), addresses, types & kind != 0, types & HASH_IPV4 != 0)
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
    transport(packet.get(at..), addresses, types & kind != 0, types & HASH_IPV6 != 0)
}

/// With ports if they are asked for and there, else without if that is asked for.
fn transport(payload: Option<&[u8]>, addresses: &[u8], with_ports: bool, without: bool) -> Option<Flow> {
    let ports = payload.and_then(<[u8]>::first_chunk::<4>).filter(|_| with_ports);
    match ports {
        Some(ports) => Some(Flow::of(addresses, ports)),
        None => without.then(|| Flow::of(addresses, &[])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// The key of Microsoft's "Verifying the RSS Hash Calculation".
    const KEY: [u8; MAX_KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    /// From, to, hash of the addresses, hash with TCP's ports.
    const PUBLISHED: [(&str, u16, &str, u16, u32, u32); 8] = [
        ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323e_8fc2, 0x51cc_c178),
        ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xd718_262a, 0xc626_b0ea),
        ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xd2d0_a5de, 0x5c2b_394a),
        ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x8298_9176, 0xafc7_327f),
        ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5d18_09c5, 0x10e8_28a2),
        ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc1_8cd5, 0x4020_7d3d),
        ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c_461c, 0xdde5_1bbf),
        ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x4b61_e985, 0x02d1_feef),
    ];

    fn v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 20];
        (header[0], header[9]) = (0x45, protocol);
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[12..16].copy_from_slice(&from.octets());
        header[16..].copy_from_slice(&to.octets());
        [&[0; 12][..], &[8, 0], &header, payload].concat()
    }

    fn v6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 40];
        (header[0], header[6]) = (0x60, next);
        header[8..24].copy_from_slice(&from.octets());
        header[24..].copy_from_slice(&to.octets());
        [&[0; 12][..], &[0x86, 0xdd], &header, payload].concat()
    }

    fn ports(from: u16, to: u16) -> [u8; 4] {
        let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
        [a, b, c, d]
    }

    fn packet(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (from.parse().unwrap(), to.parse().unwrap()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => v4(from, to, protocol, 0x4000, payload),
            (IpAddr::V6(from), IpAddr::V6(to)) => v6(from, to, protocol, payload),
            _ => panic!("of two kinds"),
        }
    }

    fn hash(frame: &[u8], types: u32) -> Option<u32> {
        flow(frame, types).map(|flow| toeplitz(&KEY, flow.bytes()))
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

    fn command(types: u32, mask: u16, unclassified: u16, table: &[u16], transmit: u16, key: &[u8]) -> Vec<u8> {
        let words = [mask, unclassified].into_iter().chain(table.iter().copied()).chain([transmit]);
        let words = words.flat_map(u16::to_le_bytes);
        types
            .to_le_bytes()
            .into_iter()
            .chain(words)
            .chain([u8::try_from(key.len()).unwrap()])
            .chain(key.iter().copied())
            .collect()
    }

    #[test]
    fn a_frame_goes_where_the_table_says_and_others_to_the_pair_for_them() {
        let (rss, transmit) = Rss::parse(&command(HASH_TYPES, 3, 3, &[0, 1, 2, 1], 2, &KEY), 4).unwrap();
        assert_eq!(transmit, 2);
        for (from, from_port, to, to_port, _, hash) in PUBLISHED {
            let frame = packet(from, to, TCP, &ports(from_port, to_port));
            assert_eq!(rss.pair(&frame), [0, 1, 2, 1][hash as usize % 4], "{from}");
        }
        assert_eq!(rss.pair(&[0; 60]), 3);
        assert_eq!(Rss::parse(&rss.encode(2), 4), Some((rss, 2)));
    }

    #[test]
    fn f22_a_command_that_does_not_hold_together_is_refused() {
        let good = command(HASH_TYPES, 1, 0, &[0, 1], 2, &KEY);
        assert!(Rss::parse(&good, 2).is_some());
        for len in 0..good.len() {
            assert_eq!(Rss::parse(&good[..len], 2), None, "{len} bytes");
        }
        assert_eq!(Rss::parse(&[&good[..], &[0]].concat(), 2), None, "more than it says");
        for (wrong, what) in [
            (command(1 << 6, 1, 0, &[0, 1], 2, &KEY), "a hash type that is not offered"),
            (command(HASH_TYPES, 2, 0, &[0, 1, 1], 2, &KEY), "a mask with a hole"),
            (command(HASH_TYPES, 255, 0, &[0; 256], 2, &KEY), "a table too long"),
            (command(HASH_TYPES, u16::MAX, 0, &[0; 2], 2, &KEY), "a table that is not there"),
            (command(HASH_TYPES, 1, 2, &[0, 1], 2, &KEY), "no such pair"),
            (command(HASH_TYPES, 1, 0, &[0, 2], 2, &KEY), "no such pair in the table"),
            (command(HASH_TYPES, 1, 0, &[0, 1], 0, &KEY), "no transmit queue"),
            (command(HASH_TYPES, 1, 0, &[0, 1], 3, &KEY), "too many transmit queues"),
            (command(HASH_TYPES, 1, 0, &[0, 1], 2, &[0; MAX_KEY + 1]), "a key too long"),
        ] {
            assert_eq!(Rss::parse(&wrong, 2), None, "{what}");
        }
        let (short, _) = Rss::parse(&command(0, 0, 1, &[0], 1, &[]), 2).unwrap();
        assert_eq!(short.pair(&packet("10.0.0.1", "10.0.0.2", TCP, &[0; 4])), 1, "nothing is hashed");
    }
}
