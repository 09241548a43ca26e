//! Which VLANs a port is in, and how frames of them look there (IEEE 802.1Q).

use std::fmt;
use std::str::FromStr;

/// The largest VLAN there is; 0 marks a frame that has a priority and no VLAN, and 4095 is reserved.
pub const MAX_VID: u16 = 4094;

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// No VLAN.
    pub fn none() -> Self {
        Self(Box::new([0; 64]))
    }

    /// One VLAN.
    pub fn one(vid: u16) -> Self {
        let mut set = Self::none();
        set.insert(vid);
        set
    }

    /// Every VLAN.
    pub fn all() -> Self {
        let mut set = Self::none();
        (1..=MAX_VID).for_each(|vid| set.insert(vid));
        set
    }

    /// Whether `vid` is one of them.
    #[inline]
    pub fn contains(&self, vid: u16) -> bool {
        self.0.get(usize::from(vid / 64)).is_some_and(|word| word >> (vid % 64) & 1 != 0)
    }

    /// Adds one, if there is such a VLAN.
    pub fn insert(&mut self, vid: u16) {
        if (1..=MAX_VID).contains(&vid) {
            self.0[usize::from(vid / 64)] |= 1 << (vid % 64);
        }
    }

    fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for vid in (1..=MAX_VID).filter(|vid| self.contains(*vid)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == vid => *last = vid,
                _ => ranges.push((vid, vid)),
            }
        }
        ranges
    }
}

/// As it is written: numbers and ranges, `10,20-30`.
impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.ranges().into_iter().enumerate() {
            f.write_str(if number == 0 { "" } else { "," })?;
            if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }?;
        }
        Ok(())
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VlanSet({self})")
    }
}

impl FromStr for VlanSet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "not numbers and ranges of 1 to 4094, as in 10,20-30";
        let mut set = Self::none();
        for word in text.split(',') {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let parse = |word: &str| parse_vid(word).ok_or(SHAPE);
            let (first, last) = (parse(first)?, parse(last)?);
            if first > last {
                return Err(SHAPE);
            }
            (first..=last).for_each(|vid| set.insert(vid));
        }
        Ok(set)
    }
}

/// A VLAN as it is written.
pub fn parse_vid(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|vid| digits && (1..=MAX_VID).contains(vid))
}

/// What kind of port it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The way out: where unknown stations are looked for first.
    Uplink,
    /// One VLAN, of which the port knows nothing.
    Access,
    /// Several VLANs, told apart by tags.
    Trunk,
}

/// Kind and VLANs of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The kind.
    pub kind: Kind,
    /// The VLANs, the native one among them.
    pub vlans: VlanSet,
    /// The VLAN whose frames have no tag at this port.
    pub native: Option<u16>,
}

/// The VLAN of a frame, with the priority of its tag, which is in the bits above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tci(pub u16);

impl Tci {
    /// The VLAN; 0 for none.
    pub fn vid(self) -> u16 {
        self.0 & 0xfff
    }

    fn with_vid(self, vid: u16) -> Self {
        Self(self.0 & !0xfff | vid)
    }
}

impl Membership {
    /// A port in one VLAN.
    pub fn access(vlan: u16) -> Self {
        Self { kind: Kind::Access, vlans: VlanSet::one(vlan), native: Some(vlan) }
    }

    /// A port in several VLANs.
    pub fn trunk(mut vlans: VlanSet, native: Option<u16>) -> Self {
        native.into_iter().for_each(|vid| vlans.insert(vid));
        Self { kind: Kind::Trunk, vlans, native }
    }

    /// A port in all VLANs.
    pub fn uplink(native: Option<u16>) -> Self {
        Self { kind: Kind::Uplink, vlans: VlanSet::all(), native }
    }

    /// The VLAN of a frame that came in here with this tag; `None`: of none that the port is in.
    #[inline]
    pub fn ingress(&self, tag: Option<Tci>) -> Option<Tci> {
        let tag = tag.unwrap_or(Tci(0));
        let vid = if tag.vid() == 0 { self.native? } else { tag.vid() };
        self.vlans.contains(vid).then_some(tag.with_vid(vid))
    }

    /// Whether a frame of `vid` leaves with a tag here; `None`: not at all. A frame that has another tag below its own
    /// (`inner`) keeps its own where tags are read, or it would be of the VLAN of the other one there.
    #[inline]
    pub fn egress(&self, vid: u16, inner: bool) -> Option<bool> {
        let bare = self.native == Some(vid) && !(inner && self.kind != Kind::Access);
        self.vlans.contains(vid).then_some(!bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_shown_as_it_is_written() {
        for text in ["1", "10,20-30,4094", "1-4094"] {
            assert_eq!(text.parse::<VlanSet>().unwrap().to_string(), text);
        }
        assert_eq!("30,20-25,26,7".parse::<VlanSet>().unwrap().to_string(), "7,20-26,30");
        assert_eq!(VlanSet::all().to_string(), "1-4094");
    }

    #[test]
    fn what_is_no_vlan_is_refused() {
        for text in ["", "0", "4095", "1,", "5-3", "1-", "-1", "+1", "a", "1-2-3", "65537"] {
            assert!(text.parse::<VlanSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_access_port_has_one_vlan_and_no_tags() {
        let port = Membership::access(7);
        let come = |tag: Option<u16>| port.ingress(tag.map(Tci)).map(|tci| tci.0);
        assert_eq!([None, Some(0), Some(7), Some(0xa000)].map(come), [Some(7), Some(7), Some(7), Some(0xa007)]);
        assert_eq!([Some(8), Some(0xfff)].map(come), [None, None]);
        assert_eq!([7, 8].map(|vid| port.egress(vid, false)), [Some(false), None]);
        assert_eq!(port.egress(7, true), Some(false));
    }

    #[test]
    fn a_trunk_has_tags_but_in_its_native_vlan() {
        let port = Membership::trunk("10-12".parse().unwrap(), None);
        let come = |port: &Membership, tag: Option<u16>| port.ingress(tag.map(Tci)).map(|tci| tci.0);
        assert_eq!(
            [None, Some(0), Some(0x600b), Some(13)].map(|tag| come(&port, tag)),
            [None, None, Some(0x600b), None]
        );
        assert_eq!([10, 13].map(|vid| port.egress(vid, false)), [Some(true), None]);
        let port = Membership::trunk("10-12".parse().unwrap(), Some(5));
        assert_eq!([None, Some(0x2000), Some(5)].map(|tag| come(&port, tag)), [Some(5), Some(0x2005), Some(5)]);
        assert_eq!([5, 10].map(|vid| port.egress(vid, false)), [Some(false), Some(true)]);
    }

    #[test]
    fn a_tag_below_the_native_one_does_not_come_to_the_top() {
        for port in [Membership::trunk(VlanSet::one(10), Some(5)), Membership::uplink(Some(5))] {
            assert_eq!(port.egress(5, true), Some(true));
        }
    }

    #[test]
    fn an_uplink_is_in_every_vlan() {
        let port = Membership::uplink(Some(1));
        assert_eq!(
            [None, Some(4094), Some(0xfff)].map(|tag| port.ingress(tag.map(Tci))),
            [Some(Tci(1)), Some(Tci(4094)), None]
        );
        assert_eq!([1, 2].map(|vid| port.egress(vid, false)), [Some(false), Some(true)]);
    }
}
