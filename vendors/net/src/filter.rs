//! Which frames from outside a driver wants (virtio 1.3 §5.1.6.5.1 to 5.1.6.5.3).
//!
//! The rules where the specification is silent are QEMU's: promiscuous after a reset, promiscuous before anything else,
//! and VLAN tags of the inner kind alone.

use crate::mac::Mac;

/// Addresses of a table. A driver that wants more of a kind gets all of that kind.
pub const MAX_ADDRESSES: usize = 64;
/// VLANs there can be.
pub const VLANS: u16 = 1 << 12;

const ADDRESS: usize = 6;
const BROADCAST: [u8; ADDRESS] = [0xff; ADDRESS];
/// EtherType of a tagged frame (IEEE 802.1Q).
const TAGGED: [u8; 2] = [0x81, 0];

/// A receive mode, by the number of its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Everything.
    Promiscuous = 0,
    /// Frames for any group of stations.
    AllMulti = 1,
    /// Frames for any station.
    AllUni = 2,
    /// No frames for groups, broadcasts aside.
    NoMulti = 3,
    /// No frames for single stations.
    NoUni = 4,
    /// No broadcasts.
    NoBroadcast = 5,
}

impl Mode {
    const ALL: [Self; 6] =
        [Self::Promiscuous, Self::AllMulti, Self::AllUni, Self::NoMulti, Self::NoUni, Self::NoBroadcast];

    /// The mode of a command.
    pub fn of_command(command: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| *mode as u8 == command)
    }

    /// Whether it came with VIRTIO_NET_F_CTRL_RX_EXTRA.
    pub fn is_extra(self) -> bool {
        !matches!(self, Self::Promiscuous | Self::AllMulti)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The addresses of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Addresses {
    /// These, in order.
    Of(Vec<Mac>),
    /// More than there is room for.
    All,
}

impl Addresses {
    fn new(table: &[[u8; ADDRESS]]) -> Self {
        if table.len() > MAX_ADDRESSES {
            return Self::All;
        }
        let mut addresses: Vec<_> = table.iter().map(|address| Mac::from(*address)).collect();
        addresses.sort_unstable();
        Self::Of(addresses)
    }

    fn has(&self, address: Mac) -> bool {
        match self {
            Self::Of(addresses) => addresses.binary_search(&address).is_ok(),
            Self::All => true,
        }
    }
}

/// What a driver wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// A bit a [`Mode`].
    modes: u8,
    single: Addresses,
    group: Addresses,
    /// A bit a VLAN.
    vlans: Box<[u64; VLANS as usize / 64]>,
}

impl Filter {
    /// As after a reset: everything. With `vlans` a driver tells which VLANs it wants once it is not promiscuous.
    pub fn new(vlans: bool) -> Self {
        Self {
            modes: Mode::Promiscuous.bit(),
            single: Addresses::new(&[]),
            group: Addresses::new(&[]),
            vlans: Box::new([if vlans { 0 } else { u64::MAX }; _]),
        }
    }

    /// Whether every frame passes.
    pub fn is_promiscuous(&self) -> bool {
        self.has(Mode::Promiscuous)
    }

    fn has(&self, mode: Mode) -> bool {
        self.modes & mode.bit() != 0
    }

    /// Turns a mode on or off.
    pub fn set_mode(&mut self, mode: Mode, on: bool) {
        self.modes = if on { self.modes | mode.bit() } else { self.modes & !mode.bit() };
    }

    /// Replaces the tables: addresses of single stations, and those of groups.
    pub fn set_addresses(&mut self, single: &[[u8; ADDRESS]], group: &[[u8; ADDRESS]]) {
        (self.single, self.group) = (Addresses::new(single), Addresses::new(group));
    }

    /// Wants a VLAN, or no more. `false`: there is no such one.
    pub fn set_vlan(&mut self, vlan: u16, wanted: bool) -> bool {
        let Some(word) = self.vlans.get_mut(usize::from(vlan / 64)) else { return false };
        let bit = 1 << (vlan % 64);
        *word = if wanted { *word | bit } else { *word & !bit };
        true
    }

    /// Whether the driver of the card with address `own` wants a frame, which is without virtio-net header.
    pub fn wants(&self, frame: &[u8], own: Mac) -> bool {
        if self.is_promiscuous() {
            return true;
        }
        let Some((to, rest)) = frame.split_first_chunk::<ADDRESS>() else { return false };
        if let Some((&[a, b, high, low], _)) = rest.get(ADDRESS..).and_then(<[u8]>::split_first_chunk)
            && [a, b] == TAGGED
        {
            let vlan = u16::from_be_bytes([high, low]) % VLANS;
            if self.vlans[usize::from(vlan / 64)] & 1 << (vlan % 64) == 0 {
                return false;
            }
        }
        let address = Mac::from(*to);
        if *to == BROADCAST {
            !self.has(Mode::NoBroadcast)
        } else if to[0] & 1 != 0 {
            !self.has(Mode::NoMulti) && (self.has(Mode::AllMulti) || self.group.has(address))
        } else {
            !self.has(Mode::NoUni) && (self.has(Mode::AllUni) || address == own || self.single.has(address))
        }
    }

    /// As bytes, for another card.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.modes];
        for table in [&self.single, &self.group] {
            match table {
                Addresses::Of(addresses) => {
                    // No more than MAX_ADDRESSES, which is less than what stands for all.
                    bytes.push(u8::try_from(addresses.len()).unwrap_or(ALL));
                    addresses.iter().for_each(|address| bytes.extend(address.bytes()));
                }
                Addresses::All => bytes.push(ALL),
            }
        }
        self.vlans.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes
    }

    /// What [`encode`](Self::encode) made, and the bytes behind it.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&modes, bytes) = bytes.split_first()?;
        let (single, bytes) = decode_table(bytes)?;
        let (group, bytes) = decode_table(bytes)?;
        let (words, bytes) = bytes.split_at_checked(usize::from(VLANS) / 8)?;
        let mut vlans = Box::new([0; _]);
        for (place, word) in vlans.iter_mut().zip(words.as_chunks().0) {
            *place = u64::from_le_bytes(*word);
        }
        let known = Mode::ALL.iter().fold(0, |known, mode| known | mode.bit());
        (modes & !known == 0).then_some((Self { modes, single, group, vlans }, bytes))
    }
}

/// Stands for the length of a table that has more than there is room for.
const ALL: u8 = u8::MAX;

fn decode_table(bytes: &[u8]) -> Option<(Addresses, &[u8])> {
    let (&count, bytes) = bytes.split_first()?;
    if count == ALL {
        return Some((Addresses::All, bytes));
    }
    let count = usize::from(count);
    let (table, bytes) = bytes.split_at_checked(count * ADDRESS)?;
    (count <= MAX_ADDRESSES).then(|| (Addresses::new(table.as_chunks().0), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

    fn to(address: [u8; 6]) -> Vec<u8> {
        [&address[..], &[2; 6], &[8, 0], &[0; 46]].concat()
    }

    fn tagged(vlan: u16) -> Vec<u8> {
        let [high, low] = (vlan | 0xe000).to_be_bytes();
        [&OWN[..], &[2; 6], &[0x81, 0, high, low, 8, 0], &[0; 46]].concat()
    }

    fn wants(filter: &Filter, frame: &[u8]) -> bool {
        filter.wants(frame, Mac::from(OWN))
    }

    /// Which of its own, another's, a group's and everybody's frames pass.
    fn passing(filter: &Filter) -> [bool; 4] {
        [OWN, OTHER, GROUP, BROADCAST].map(|address| wants(filter, &to(address)))
    }

    fn with(modes: &[Mode]) -> Filter {
        let mut filter = Filter::new(true);
        filter.set_mode(Mode::Promiscuous, false);
        modes.iter().for_each(|mode| filter.set_mode(*mode, true));
        filter
    }

    #[test]
    fn a_card_takes_everything_until_it_is_told_otherwise() {
        let filter = Filter::new(true);
        assert_eq!(passing(&filter), [true; 4]);
        assert!(wants(&filter, &tagged(5)));
    }

    #[test]
    fn modes_choose_by_kinds_of_addresses() {
        for (modes, expected) in [
            (&[][..], [true, false, false, true]),
            (&[Mode::AllMulti], [true, false, true, true]),
            (&[Mode::AllUni], [true, true, false, true]),
            (&[Mode::AllMulti, Mode::NoMulti], [true, false, false, true]),
            (&[Mode::AllUni, Mode::NoUni], [false, false, false, true]),
            (&[Mode::NoBroadcast], [true, false, false, false]),
            (&[Mode::Promiscuous, Mode::NoUni, Mode::NoMulti, Mode::NoBroadcast], [true; 4]),
        ] {
            assert_eq!(passing(&with(modes)), expected, "{modes:?}");
        }
    }

    #[test]
    fn what_is_in_a_table_passes_and_more_than_fits_is_everything_of_its_kind() {
        let mut filter = with(&[]);
        filter.set_addresses(&[[2; 6], OTHER], &[GROUP]);
        assert_eq!(passing(&filter), [true; 4]);
        filter.set_addresses(&[[2; 6]; MAX_ADDRESSES], &[[3; 6]; MAX_ADDRESSES + 1]);
        assert_eq!(passing(&filter), [true, false, true, true]);
        filter.set_addresses(&[[2; 6]; MAX_ADDRESSES + 1], &[]);
        assert_eq!(passing(&filter), [true, true, false, true]);
    }

    #[test]
    fn vlans_pass_that_are_wanted() {
        let mut filter = with(&[]);
        assert!(!wants(&filter, &tagged(5)));
        assert!(filter.set_vlan(5, true) && filter.set_vlan(4095, true));
        assert_eq!([5, 6, 4095, 0].map(|vlan| wants(&filter, &tagged(vlan))), [true, false, true, false]);
        assert!(filter.set_vlan(5, false));
        assert!(!wants(&filter, &tagged(5)));
        assert!(!filter.set_vlan(VLANS, true) && !filter.set_vlan(u16::MAX, true));
        let mut without = Filter::new(false);
        without.set_mode(Mode::Promiscuous, false);
        assert!(wants(&without, &tagged(7)));
    }

    #[test]
    fn f22_frames_shorter_than_their_header_are_no_trouble() {
        for len in 0..18 {
            assert_eq!(wants(&with(&[]), &tagged(5)[..len]), (6..16).contains(&len), "{len}");
        }
    }

    #[test]
    fn f41_a_filter_comes_back_as_it_was_or_not_at_all() {
        let mut filter = with(&[Mode::AllMulti, Mode::NoUni]);
        filter.set_addresses(&[OTHER, OWN], &[GROUP; MAX_ADDRESSES + 1]);
        filter.set_vlan(77, true);
        let bytes = filter.encode();
        assert_eq!(Filter::decode(&bytes), Some((filter, &[][..])));
        for len in 0..bytes.len() {
            assert_eq!(Filter::decode(&bytes[..len]), None, "{len} bytes");
        }
        assert_eq!(Filter::decode(&[&[0x40], &bytes[1..]].concat()), None, "an unknown mode");
        let long = [&[0, 65][..], &[0; 65 * 6], &[0; 1000]].concat();
        assert_eq!(Filter::decode(&long), None, "a table longer than there is room for");
    }
}
