//! The beginning of a frame: virtio-net header, addresses, and the tag of its VLAN, which comes and goes between ports.

use crate::table::Key;
use crate::vlan::Tci;
use virtio_net::HEADER;

/// Bytes of both addresses.
const ADDRESSES: usize = 12;
/// Bytes of an IEEE 802.1Q tag.
pub const TAG: usize = 4;
/// Where the type of an untagged frame is.
pub const TYPE: usize = HEADER + ADDRESSES;
/// The type of a tag. Tags of providers (0x88a8) are payload here, as they are for a bridge of this protocol.
const VLAN: [u8; 2] = [0x81, 0x00];

/// Fields of the virtio-net header (virtio 1.3 §5.1.6).
pub const HDR_LEN: usize = 2;
pub const GSO_SIZE: usize = 4;
pub const CSUM_START: usize = 6;
pub const CSUM_OFFSET: usize = 8;
pub const NEEDS_CSUM: u8 = 1;
pub const GSO_NONE: u8 = 0;

/// What of a frame is copied to say where it goes: the header of the link, with the types of two tags.
pub const LINK: usize = TYPE + TAG + 2;
/// The same of a large frame: headers of the network and the transport too, each as long as can be.
pub const HEADERS: usize = LINK + 60 + 60;

/// A 16-bit field of the header.
pub fn field(frame: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([frame[at], frame[at + 1]]))
}

/// Sets one; what does not fit is as large as can be, which no driver accepts.
pub fn set_field(frame: &mut [u8], at: usize, value: usize) {
    frame[at..at + 2].copy_from_slice(&u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes());
}

/// A MAC address as a number.
pub type Address = u64;

fn address(bytes: &[u8; 6]) -> Address {
    let [a, b, c, d, e, f] = *bytes;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// The number of an address.
pub fn address_of(mac: virtio_net::Mac) -> Address {
    address(&mac.bytes())
}

/// The bytes of one.
pub fn bytes_of(address: Address) -> [u8; 6] {
    let [_, _, bytes @ ..] = address.to_be_bytes();
    bytes
}

/// Whether it is that of a group of stations, or of all.
pub fn is_group(address: Address) -> bool {
    address >> 40 & 1 != 0
}

/// Whether it is one that frames are not forwarded to: 01:80:c2:00:00:00 to 0f (IEEE 802.1Q, table 8-1).
pub fn is_reserved(address: Address) -> bool {
    address & !0xf == 0x0180_c200_0000
}

/// The key of a station in the forwarding table.
pub fn key(vid: u16, address: Address) -> Key {
    u64::from(vid) << 48 | address
}

/// VLAN and address of a key.
pub fn split(key: Key) -> (u16, Address) {
    (u16::try_from(key >> 48).unwrap_or(0), key & 0xffff_ffff_ffff)
}

/// What the switch has to know of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// Where it goes.
    pub destination: Address,
    /// Where it comes from.
    pub source: Address,
    /// Its outer tag.
    pub tag: Option<Tci>,
    /// Whether there is another tag below.
    pub inner: bool,
}

impl Parsed {
    /// Reads a frame that begins with its virtio-net header; `None`: it is too short for what it begins as.
    #[inline]
    pub fn new(frame: &[u8]) -> Option<Self> {
        let (destination, rest) = frame.get(HEADER..)?.split_first_chunk::<6>()?;
        let (source, rest) = rest.split_first_chunk::<6>()?;
        let (outer, rest) = rest.split_first_chunk::<2>()?;
        let (mut tag, mut kind) = (None, *outer);
        if kind == VLAN {
            let (tci, rest) = rest.split_first_chunk::<2>()?;
            (tag, kind) = (Some(Tci(u16::from_be_bytes(*tci))), *rest.first_chunk::<2>()?);
        }
        Some(Self {
            destination: address(destination),
            source: address(source),
            tag,
            inner: tag.is_some() && kind == VLAN,
        })
    }

    /// Bytes before the frame's network header, the virtio-net header aside.
    pub fn link_len(&self) -> usize {
        ADDRESSES + 2 + if self.tag.is_some() { TAG } else { 0 }
    }
}

/// Writes the beginning of a frame as it is at another port, with `tag` as its only one or without, and says how long it is.
/// It stands for all of `frame`, which is the beginning of the frame as it came; `out` is longer than that by a tag at least.
#[inline]
pub fn write_head(frame: &[u8], parsed: &Parsed, tag: Option<Tci>, out: &mut [u8]) -> Option<usize> {
    out.get_mut(..TYPE)?.copy_from_slice(frame.get(..TYPE)?);
    let was = TYPE + if parsed.tag.is_some() { TAG } else { 0 };
    let is = TYPE + if tag.is_some() { TAG } else { 0 };
    if let Some(Tci(tci)) = tag {
        out.get_mut(TYPE..TYPE + 2)?.copy_from_slice(&VLAN);
        out.get_mut(TYPE + 2..TYPE + TAG)?.copy_from_slice(&tci.to_be_bytes());
    }
    let rest = frame.get(was..)?;
    out.get_mut(is..is + rest.len())?.copy_from_slice(rest);
    if is != was {
        move_fields(out, is, was);
    }
    Some(is + rest.len())
}

/// What the virtio-net header points at is `new - old` bytes further on.
fn move_fields(header: &mut [u8], new: usize, old: usize) {
    let moved = |value: usize| (value + new).saturating_sub(old);
    if header[0] & NEEDS_CSUM != 0 {
        let start = moved(field(header, CSUM_START));
        set_field(header, CSUM_START, start);
    }
    if header[1] != GSO_NONE {
        let len = moved(field(header, HDR_LEN));
        set_field(header, HDR_LEN, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TO: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const FROM: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn frame(header: [u8; HEADER], tags: &[u16], payload: &[u8]) -> Vec<u8> {
        let tags: Vec<u8> = tags.iter().flat_map(|tci| [VLAN, tci.to_be_bytes()].concat()).collect();
        [&header[..], &TO, &FROM, &tags, payload].concat()
    }

    fn rewritten(frame: &[u8], tag: Option<u16>) -> Vec<u8> {
        let parsed = Parsed::new(frame).unwrap();
        let (begin, rest) = frame.split_at(LINK);
        let mut head = [0xee; LINK + TAG];
        let len = write_head(begin, &parsed, tag.map(Tci), &mut head).unwrap();
        [&head[..len], rest].concat()
    }

    #[test]
    fn addresses_and_tags_are_read_and_a_providers_tag_is_payload() {
        let plain = Parsed::new(&frame([0; HEADER], &[], &[8, 0, 1, 2])).unwrap();
        let expected = Parsed { destination: 0x0200_0000_0001, source: 0x0200_0000_0002, tag: None, inner: false };
        assert_eq!(plain, expected);
        let tagged = Parsed::new(&frame([0; HEADER], &[0xa007], &[8, 0])).unwrap();
        assert_eq!(tagged, Parsed { tag: Some(Tci(0xa007)), ..expected });
        let twice = Parsed::new(&frame([0; HEADER], &[7, 8], &[8, 0])).unwrap();
        assert_eq!(twice, Parsed { tag: Some(Tci(7)), inner: true, ..expected });
        assert_eq!(Parsed::new(&frame([0; HEADER], &[], &[0x88, 0xa8, 0, 7, 8, 0])).unwrap(), expected);
    }

    #[test]
    fn f22_a_frame_that_ends_in_its_tag_is_too_short() {
        let whole = frame([0; HEADER], &[7], &[8, 0]);
        assert!(Parsed::new(&whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(Parsed::new(&whole[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn reserved_groups_are_sixteen() {
        let group = |last: u64| 0x0180_c200_0000 | last;
        assert!(is_reserved(group(0)) && is_reserved(group(15)) && !is_reserved(group(16)));
        assert!(is_group(group(0)) && is_group(0xffff_ffff_ffff) && !is_group(0x0200_0000_0001));
        assert_eq!(split(key(7, 0x0200_0000_0001)), (7, 0x0200_0000_0001));
    }

    proptest! {
        /// Any tag on, changed or off: addresses, priority and payload are what they were, and the header points at the
        /// same byte.
        #[test]
        fn a_tag_that_comes_or_goes_changes_nothing_else(
            tags in prop::collection::vec(any::<u16>(), 0..3), tag in prop::option::of(any::<u16>()),
            payload in prop::collection::vec(any::<u8>(), 40..200), gso in 0u8..2, at in 14usize..30,
        ) {
            let mut payload = payload;
            payload[..2].copy_from_slice(&[8, 0]);
            let link = ADDRESSES + TAG * tags.len();
            let mut header = [0; HEADER];
            (header[0], header[1]) = (NEEDS_CSUM, gso);
            set_field(&mut header, CSUM_START, link + at);
            set_field(&mut header, CSUM_OFFSET, 6);
            set_field(&mut header, HDR_LEN, link + at + 8);
            let before = frame(header, &tags, &payload);
            let after = rewritten(&before, tag);
            let expected: Vec<u16> = tag.into_iter().chain(tags.iter().copied().skip(1)).collect();
            prop_assert_eq!(&after[HEADER..], &frame([0; HEADER], &expected, &payload)[HEADER..]);
            let points = |frame: &[u8], at| frame[HEADER + field(frame, at)..].to_vec();
            prop_assert_eq!(points(&after, CSUM_START), points(&before, CSUM_START));
            if gso != GSO_NONE {
                prop_assert_eq!(points(&after, HDR_LEN), points(&before, HDR_LEN));
            }
            prop_assert_eq!(field(&after, CSUM_OFFSET), 6);
            // And back, but where the tag below came to the top.
            if tag.is_some() || tags.len() < 2 {
                prop_assert_eq!(rewritten(&after, tags.first().copied()), before);
            }
        }
    }
}
