//! The virtio-net header (virtio 1.3 §5.1.6).

use crate::features::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO,
};

/// Bytes of the header with VIRTIO_F_VERSION_1, and of that before any frame outside of a driver's memory.
pub const HEADER: usize = 12;
/// Bytes it has in a driver's memory with VIRTIO_NET_F_HASH_REPORT, both ways.
pub const HASH_HEADER: usize = 20;
/// Offset of `num_buffers`, which the device sets.
pub const NUM_BUFFERS: usize = 10;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// The checksum is left to do.
pub const NEEDS_CSUM: u8 = 1;
/// How a frame is to be segmented: not at all.
pub const GSO_NONE: u8 = 0;
/// As TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// As TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// As UDP.
pub const GSO_UDP_L4: u8 = 5;
/// Besides, of TCP: the first segment says that it met congestion.
pub const GSO_ECN: u8 = 0x80;

fn u16_at(header: &[u8; HEADER], at: usize) -> usize {
    usize::from(u16::from_le_bytes([header[at], header[at + 1]]))
}

/// Bytes of the header in the memory of a driver that accepted `features`.
pub const fn len(features: u64) -> usize {
    if features & VIRTIO_NET_F_HASH_REPORT == 0 { HEADER } else { HASH_HEADER }
}

/// Whether the header of a frame of `len` bytes that the driver sends asks only for what it negotiated, and of fields
/// that lie in the frame. `num_buffers` is ignored.
pub fn is_valid(header: &[u8; HEADER], len: usize, features: u64) -> bool {
    let [flags, gso, ..] = *header;
    let (csum_start, csum_offset) = (u16_at(header, 6), u16_at(header, 8));
    let (hdr_len, gso_size) = (u16_at(header, 2), u16_at(header, 4));
    let checksum = flags & NEEDS_CSUM != 0;
    if flags & !NEEDS_CSUM != 0 || (checksum && features & VIRTIO_NET_F_CSUM == 0) {
        return false;
    }
    if checksum && csum_start + csum_offset + 2 > len {
        return false;
    }
    let feature = match gso & !GSO_ECN {
        _ if gso == GSO_NONE => return true,
        _ if gso_size == 0 || !checksum || hdr_len > len => return false,
        GSO_TCPV4 => VIRTIO_NET_F_HOST_TSO4,
        GSO_TCPV6 => VIRTIO_NET_F_HOST_TSO6,
        GSO_UDP_L4 if gso == GSO_UDP_L4 => VIRTIO_NET_F_HOST_USO,
        _ => return false,
    };
    features & feature != 0 && (gso & GSO_ECN == 0 || features & VIRTIO_NET_F_HOST_ECN != 0)
}

/// Whether the headers of what a driver sends say nothing, by the features in effect: one that hands over no unfinished
/// checksums hands over nothing unfinished, and what its headers say all the same is ignored (virtio 1.3 §5.1.6.2.2).
pub fn is_plain(features: u64) -> bool {
    features & VIRTIO_NET_F_CSUM == 0
}

/// Whether the header asks for segmentation, so that its frame may be longer than the MTU.
pub fn is_segmented(header: &[u8; HEADER]) -> bool {
    header[1] != GSO_NONE
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6;
    const ECN: u64 = ALL | VIRTIO_NET_F_HOST_ECN | VIRTIO_NET_F_HOST_USO;

    fn header(flags: u8, gso: u8, hdr_len: u16, gso_size: u16, csum: (u16, u16)) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        (header[0], header[1]) = (flags, gso);
        for (at, value) in [(2, hdr_len), (4, gso_size), (6, csum.0), (8, csum.1)] {
            header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        header
    }

    #[test]
    fn f22_a_plain_header_is_fine_whatever_num_buffers_says() {
        let mut plain = [0; HEADER];
        plain[NUM_BUFFERS..].fill(0xff);
        assert!(is_valid(&plain, 60, 0));
    }

    #[test]
    fn f22_a_checksum_field_beyond_the_frame_is_refused() {
        assert!(is_valid(&header(1, 0, 0, 0, (34, 16)), 52, ALL));
        assert!(!is_valid(&header(1, 0, 0, 0, (34, 16)), 51, ALL));
        assert!(!is_valid(&header(1, 0, 0, 0, (0xffff, 0xffff)), 1500, ALL));
    }

    #[test]
    fn f22_segmentation_into_pieces_of_nothing_is_refused() {
        assert!(is_valid(&header(1, 1, 54, 1448, (34, 16)), 9000, ALL));
        assert!(!is_valid(&header(1, 1, 54, 0, (34, 16)), 9000, ALL));
        assert!(!is_valid(&header(0, 1, 54, 1448, (34, 16)), 9000, ALL));
        assert!(!is_valid(&header(1, 1, 9001, 1448, (34, 16)), 9000, ALL));
        assert!(!is_valid(&header(1, 3, 54, 1448, (34, 16)), 9000, ALL));
    }

    #[test]
    fn f22_congestion_is_of_tcp_alone() {
        let with = |gso| is_valid(&header(1, gso, 54, 1448, (34, 16)), 9000, ECN);
        assert_eq!([1, 4, 5, 0x81, 0x84].map(with), [true; 5]);
        assert_eq!([2, 3, 6, 0x80, 0x82, 0x85, 0xff].map(with), [false; 7]);
    }

    #[test]
    fn f22_what_was_not_negotiated_is_refused() {
        assert!(!is_valid(&header(1, 0, 0, 0, (34, 16)), 60, 0));
        assert!(!is_valid(&header(1, 4, 54, 1448, (34, 16)), 9000, ALL & !VIRTIO_NET_F_HOST_TSO6));
        assert!(!is_valid(&header(1, 0x81, 54, 1448, (34, 16)), 9000, ALL));
        assert!(!is_valid(&header(1, 5, 42, 1448, (34, 6)), 9000, ALL));
        assert!(!is_valid(&header(2, 0, 0, 0, (0, 0)), 60, ALL));
    }
}
