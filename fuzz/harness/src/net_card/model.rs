//! What a driver commanded, as plainly as can be (virtio 1.3 §5.1.6.5).

use std::collections::BTreeSet;
use virtio_net::features::*;

type Address = [u8; 6];

/// Receive modes: promiscuous, allmulti, alluni, nomulti, nouni, nobcast.
pub const MODES: u8 = 6;
/// Addresses that a table has room for; with more, everything of its kind is wanted.
const TABLE: usize = 64;
const BROADCAST: Address = [0xff; 6];

/// What is in a frame behind its addresses and tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Other,
    Tcp4,
    Udp4,
    Tcp6,
    Udp6,
}

pub const PROTOCOLS: [Protocol; 5] = [Protocol::Other, Protocol::Tcp4, Protocol::Udp4, Protocol::Tcp6, Protocol::Udp6];

/// A frame from outside.
#[derive(Debug)]
pub struct Frame {
    pub to: Address,
    /// The tag, with priority.
    pub vlan: Option<u16>,
    pub protocol: Protocol,
    /// Tells flows from each other.
    pub flow: u8,
}

impl Frame {
    /// Addresses and ports of its packet.
    fn flow(&self) -> (Vec<u8>, [u8; 4]) {
        let len = if matches!(self.protocol, Protocol::Tcp4 | Protocol::Udp4) { 8 } else { 32 };
        ((0..len).map(|n| self.flow.wrapping_mul(7).wrapping_add(n)).collect(), [0x12, self.flow, 0x34, !self.flow])
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (addresses, ports) = self.flow();
        let packet = match self.protocol {
            Protocol::Other => vec![0x88, 0xb5, self.flow],
            Protocol::Tcp4 | Protocol::Udp4 => {
                let protocol = if self.protocol == Protocol::Tcp4 { 6 } else { 17 };
                let header = [0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
                [&header[..], &addresses, &ports].concat()
            }
            Protocol::Tcp6 | Protocol::Udp6 => {
                let next = if self.protocol == Protocol::Tcp6 { 6 } else { 17 };
                [&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, next, 64][..], &addresses, &ports].concat()
            }
        };
        let tag = self.vlan.map_or(Vec::new(), |tag| [[0x81, 0], tag.to_be_bytes()].concat());
        [&self.to[..], &[2, 0, 0, 0, 0, 99], &tag, &packet, &[0; 20]].concat()
    }
}

struct Rss {
    types: u32,
    unclassified: u16,
    table: Vec<u16>,
    key: Vec<u8>,
}

/// A card.
pub struct Model {
    /// Negotiated.
    pub features: u64,
    pub own: Address,
    pub enabled: u16,
    /// The driver is asked to announce where it is.
    pub announce: bool,
    pairs: u16,
    modes: BTreeSet<u8>,
    /// `None`: every address.
    single: Option<BTreeSet<Address>>,
    group: Option<BTreeSet<Address>>,
    vlans: BTreeSet<u16>,
    rss: Option<Rss>,
}

impl Model {
    /// After a reset.
    pub fn new(features: u64, pairs: u16, own: Address) -> Self {
        Self {
            features,
            own,
            enabled: 1,
            announce: false,
            pairs,
            modes: [0].into(),
            single: Some(BTreeSet::new()),
            group: Some(BTreeSet::new()),
            vlans: BTreeSet::new(),
            rss: None,
        }
    }

    /// A state was given to the card.
    pub fn restored(&mut self) {
        self.announce = self.has(VIRTIO_NET_F_GUEST_ANNOUNCE);
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Whether the card takes a command, which it then does.
    pub fn obey(&mut self, command: &[u8]) -> bool {
        self.try_to_obey(command).is_some()
    }

    fn try_to_obey(&mut self, command: &[u8]) -> Option<()> {
        let (&class, rest) = command.split_first()?;
        let (&command, data) = rest.split_first()?;
        let number = || data.try_into().ok().map(u16::from_le_bytes);
        let feature = match (class, command) {
            (0, 0 | 1) => VIRTIO_NET_F_CTRL_RX,
            (0, 2..MODES) => VIRTIO_NET_F_CTRL_RX_EXTRA,
            (1, 0) => VIRTIO_NET_F_CTRL_RX,
            (1, 1) => VIRTIO_NET_F_CTRL_MAC_ADDR,
            (2, 0 | 1) => VIRTIO_NET_F_CTRL_VLAN,
            (3, 0) => VIRTIO_NET_F_GUEST_ANNOUNCE,
            (4, 0) => VIRTIO_NET_F_MQ,
            (4, 1) => VIRTIO_NET_F_RSS,
            _ => return None,
        };
        self.has(feature).then_some(())?;
        match (class, command, data) {
            (0, mode, [0]) => drop(self.modes.remove(&mode)),
            (0, mode, [1]) => drop(self.modes.insert(mode)),
            (1, 0, tables) => {
                let (single, rest) = table(tables)?;
                let (group, rest) = table(rest)?;
                rest.is_empty().then_some(())?;
                (self.single, self.group) = (single, group);
            }
            (1, 1, _) => {
                let own: Address = data.try_into().ok()?;
                (own[0] & 1 == 0 && own != [0; 6]).then_some(())?;
                self.own = own;
            }
            (2, wanted, _) => {
                let vlan = number().filter(|vlan| *vlan < 4096)?;
                if wanted == 0 {
                    self.vlans.insert(vlan)
                } else {
                    self.vlans.remove(&vlan)
                };
            }
            (3, _, []) => self.announce = false,
            (4, 0, _) => {
                self.enabled = number().filter(|pairs| (1..=self.pairs).contains(pairs))?;
                self.rss = None;
            }
            (4, 1, _) => {
                let (rss, enabled) = parse(data, self.pairs)?;
                (self.rss, self.enabled) = (Some(rss), enabled);
            }
            _ => return None,
        }
        Some(())
    }

    /// The pair on which the driver gets a frame that comes in at a port.
    pub fn receiver(&self, frame: &Frame, port: u16) -> Option<u16> {
        let on = |mode: u8| self.modes.contains(&mode);
        let in_table = |table: &Option<BTreeSet<_>>| table.as_ref().is_none_or(|table| table.contains(&frame.to));
        let in_vlan =
            !self.has(VIRTIO_NET_F_CTRL_VLAN) || frame.vlan.is_none_or(|tag| self.vlans.contains(&(tag % 4096)));
        let to_me = match frame.to {
            BROADCAST => !on(5),
            [first, ..] if first & 1 == 1 => !on(3) && (on(1) || in_table(&self.group)),
            to => !on(4) && (on(2) || to == self.own || in_table(&self.single)),
        };
        (on(0) || (in_vlan && to_me)).then(|| match &self.rss {
            Some(rss) => rss.pair(frame),
            None => port % self.enabled,
        })
    }
}

/// A table of addresses, and what is behind it.
fn table(bytes: &[u8]) -> Option<(Option<BTreeSet<Address>>, &[u8])> {
    let (count, mut rest) = bytes.split_first_chunk()?;
    let count = u32::from_le_bytes(*count);
    let mut addresses = BTreeSet::new();
    for _ in 0..count {
        let (address, after) = rest.split_first_chunk()?;
        addresses.insert(*address);
        rest = after;
    }
    Some(((count as usize <= TABLE).then_some(addresses), rest))
}

/// `struct virtio_net_rss_config`.
fn parse(bytes: &[u8], pairs: u16) -> Option<(Rss, u16)> {
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let types = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let entries = usize::from(half(4)?) + 1;
    let unclassified = half(6)?;
    let table: Vec<u16> = (0..entries).map(|n| half(8 + 2 * n)).collect::<Option<_>>()?;
    let behind = 8 + 2 * entries;
    let enabled = half(behind)?;
    // What is behind the key is padding.
    let key = bytes.get(behind + 3..)?.get(..usize::from(bytes[behind + 2]))?;
    let sound = types < 1 << 6
        && [1, 2, 4, 8, 16, 32, 64, 128].contains(&entries)
        && unclassified < pairs
        && table.iter().all(|pair| *pair < pairs)
        && (1..=pairs).contains(&enabled)
        && key.len() <= 40;
    sound.then(|| (Rss { types, unclassified, table, key: key.to_vec() }, enabled))
}

impl Rss {
    fn pair(&self, frame: &Frame) -> u16 {
        let (plain, with_ports) = match frame.protocol {
            Protocol::Other => (0, 0),
            Protocol::Tcp4 => (1, 2),
            Protocol::Udp4 => (1, 4),
            Protocol::Tcp6 => (8, 16),
            Protocol::Udp6 => (8, 32),
        };
        let (mut bytes, ports) = frame.flow();
        if self.types & with_ports != 0 {
            bytes.extend(ports);
        } else if self.types & plain == 0 {
            return self.unclassified;
        }
        self.table[self.hash(&bytes) as usize % self.table.len()]
    }

    /// Toeplitz, bit by bit.
    fn hash(&self, bytes: &[u8]) -> u32 {
        let bit = |bytes: &[u8], n: usize| bytes.get(n / 8).is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1);
        let window = |from: usize| (from..from + 32).fold(0, |word, n| word << 1 | u32::from(bit(&self.key, n)));
        (0..8 * bytes.len()).filter(|n| bit(bytes, *n)).fold(0, |hash, n| hash ^ window(n))
    }
}
