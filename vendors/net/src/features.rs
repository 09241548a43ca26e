//! Feature bits of virtio-net (virtio 1.3 §5.1.3), and the profiles parents offer.

use virtio_mdev_api::features::{
    REQUIRED, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
};

/// The device handles packets with partial checksum.
pub const VIRTIO_NET_F_CSUM: u64 = 1 << 0;
/// The driver handles packets with partial checksum.
pub const VIRTIO_NET_F_GUEST_CSUM: u64 = 1 << 1;
/// The configuration space has an MTU.
pub const VIRTIO_NET_F_MTU: u64 = 1 << 3;
/// The configuration space has a MAC address.
pub const VIRTIO_NET_F_MAC: u64 = 1 << 5;
/// The driver can receive TSOv4.
pub const VIRTIO_NET_F_GUEST_TSO4: u64 = 1 << 7;
/// The driver can receive TSOv6.
pub const VIRTIO_NET_F_GUEST_TSO6: u64 = 1 << 8;
/// The driver can receive TSO with ECN.
pub const VIRTIO_NET_F_GUEST_ECN: u64 = 1 << 9;
/// The device can receive TSOv4.
pub const VIRTIO_NET_F_HOST_TSO4: u64 = 1 << 11;
/// The device can receive TSOv6.
pub const VIRTIO_NET_F_HOST_TSO6: u64 = 1 << 12;
/// The device can receive TSO with ECN.
pub const VIRTIO_NET_F_HOST_ECN: u64 = 1 << 13;
/// The driver can merge receive buffers.
pub const VIRTIO_NET_F_MRG_RXBUF: u64 = 1 << 15;
/// The configuration space has a status.
pub const VIRTIO_NET_F_STATUS: u64 = 1 << 16;

/// There is a control queue.
pub const VIRTIO_NET_F_CTRL_VQ: u64 = 1 << 17;
/// The control queue takes receive modes.
pub const VIRTIO_NET_F_CTRL_RX: u64 = 1 << 18;
/// The control queue takes VLANs.
pub const VIRTIO_NET_F_CTRL_VLAN: u64 = 1 << 19;
/// The control queue takes more receive modes.
pub const VIRTIO_NET_F_CTRL_RX_EXTRA: u64 = 1 << 20;
/// The driver can announce where it is.
pub const VIRTIO_NET_F_GUEST_ANNOUNCE: u64 = 1 << 21;
/// There are several queue pairs.
pub const VIRTIO_NET_F_MQ: u64 = 1 << 22;
/// The control queue takes a MAC address.
pub const VIRTIO_NET_F_CTRL_MAC_ADDR: u64 = 1 << 23;
/// The control queue takes how long the interrupts of one queue wait for each other.
pub const VIRTIO_NET_F_VQ_NOTF_COAL: u64 = 1 << 52;
/// The control queue takes how long interrupts wait for each other.
pub const VIRTIO_NET_F_NOTF_COAL: u64 = 1 << 53;
/// The driver can receive USOv4.
pub const VIRTIO_NET_F_GUEST_USO4: u64 = 1 << 54;
/// The driver can receive USOv6.
pub const VIRTIO_NET_F_GUEST_USO6: u64 = 1 << 55;
/// The device can receive USO of both kinds.
pub const VIRTIO_NET_F_HOST_USO: u64 = 1 << 56;
/// The header of a received frame tells the hash of its flow.
pub const VIRTIO_NET_F_HASH_REPORT: u64 = 1 << 57;
/// Frames are spread over receive queues as the driver says.
pub const VIRTIO_NET_F_RSS: u64 = 1 << 60;
/// The configuration space has speed and duplex.
pub const VIRTIO_NET_F_SPEED_DUPLEX: u64 = 1 << 63;

/// Partial checksums and TCP segmentation, both ways.
pub const OFFLOADS: u64 = VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6;

/// TCP segmentation of what met congestion, both ways.
pub const ECN: u64 = VIRTIO_NET_F_GUEST_ECN | VIRTIO_NET_F_HOST_ECN;

/// UDP segmentation, both ways.
pub const USO: u64 = VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6 | VIRTIO_NET_F_HOST_USO;

/// What its configuration space has the limits of hashes for.
pub const HASHES: u64 = VIRTIO_NET_F_RSS | VIRTIO_NET_F_HASH_REPORT;

/// Interrupts that wait for each other.
pub const COALESCING: u64 = VIRTIO_NET_F_NOTF_COAL | VIRTIO_NET_F_VQ_NOTF_COAL;

/// What makes a card with several queue pairs.
pub const SEVERAL_PAIRS: u64 = VIRTIO_NET_F_MQ | VIRTIO_NET_F_RSS;

/// What the control queue can do, whatever is behind the card.
pub const CONTROL: u64 = VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_MAC_ADDR;

/// What it can do where frames from outside are filtered, and spread over several pairs.
pub const RECEPTION: u64 = VIRTIO_NET_F_CTRL_VLAN | VIRTIO_NET_F_CTRL_RX_EXTRA | VIRTIO_NET_F_RSS;

/// The features these parents know, by the names QEMU has for them; it has none for coalescing.
pub const NAMES: [(&str, u64); 34] = [
    ("csum", VIRTIO_NET_F_CSUM),
    ("guest_csum", VIRTIO_NET_F_GUEST_CSUM),
    ("host_mtu", VIRTIO_NET_F_MTU),
    ("mac", VIRTIO_NET_F_MAC),
    ("guest_tso4", VIRTIO_NET_F_GUEST_TSO4),
    ("guest_tso6", VIRTIO_NET_F_GUEST_TSO6),
    ("guest_ecn", VIRTIO_NET_F_GUEST_ECN),
    ("host_tso4", VIRTIO_NET_F_HOST_TSO4),
    ("host_tso6", VIRTIO_NET_F_HOST_TSO6),
    ("host_ecn", VIRTIO_NET_F_HOST_ECN),
    ("mrg_rxbuf", VIRTIO_NET_F_MRG_RXBUF),
    ("status", VIRTIO_NET_F_STATUS),
    ("ctrl_vq", VIRTIO_NET_F_CTRL_VQ),
    ("ctrl_rx", VIRTIO_NET_F_CTRL_RX),
    ("ctrl_vlan", VIRTIO_NET_F_CTRL_VLAN),
    ("ctrl_rx_extra", VIRTIO_NET_F_CTRL_RX_EXTRA),
    ("guest_announce", VIRTIO_NET_F_GUEST_ANNOUNCE),
    ("mq", VIRTIO_NET_F_MQ),
    ("ctrl_mac_addr", VIRTIO_NET_F_CTRL_MAC_ADDR),
    ("vq_notf_coal", VIRTIO_NET_F_VQ_NOTF_COAL),
    ("notf_coal", VIRTIO_NET_F_NOTF_COAL),
    ("guest_uso4", VIRTIO_NET_F_GUEST_USO4),
    ("guest_uso6", VIRTIO_NET_F_GUEST_USO6),
    ("host_uso", VIRTIO_NET_F_HOST_USO),
    ("hash", VIRTIO_NET_F_HASH_REPORT),
    ("rss", VIRTIO_NET_F_RSS),
    ("speed_duplex", VIRTIO_NET_F_SPEED_DUPLEX),
    ("indirect_desc", VIRTIO_F_INDIRECT_DESC),
    ("event_idx", VIRTIO_F_EVENT_IDX),
    ("version_1", VIRTIO_F_VERSION_1),
    ("iommu_platform", VIRTIO_F_ACCESS_PLATFORM),
    ("packed", VIRTIO_F_RING_PACKED),
    ("in_order", VIRTIO_F_IN_ORDER),
    ("notification_data", VIRTIO_F_NOTIFICATION_DATA),
];

/// Features, each with those of which it depends on one (virtio 1.3 §5.1.3.1). What depends on others comes behind them.
const CONDITIONS: [(u64, u64); 19] = [
    (VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6),
    (VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_VQ_NOTF_COAL, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_RSS, VIRTIO_NET_F_CTRL_VQ),
];

/// Features by what its users can do with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// `net`: QEMU can migrate it, so none of the bits 21, 28, 34, 35, 38 and 40 is offered.
    Migratable,
    /// `net-fast`: everything the ring engine can do.
    Fast,
}

impl Profile {
    /// What is offered, back end's offloads aside.
    pub const fn features(self) -> u64 {
        let migratable = VIRTIO_F_VERSION_1
            | VIRTIO_F_ACCESS_PLATFORM
            | VIRTIO_F_EVENT_IDX
            | VIRTIO_NET_F_MAC
            | VIRTIO_NET_F_STATUS
            | VIRTIO_NET_F_MTU
            | VIRTIO_NET_F_MRG_RXBUF;
        match self {
            Self::Migratable => migratable,
            Self::Fast => migratable | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER,
        }
    }

    /// Whether a card with one queue pair has a control queue, which makes demands on whoever migrates it. One with more
    /// always has.
    pub const fn has_control_queue(self) -> bool {
        matches!(self, Self::Fast)
    }

    /// What is offered besides [`CONTROL`] where there is a control queue, back end's abilities aside.
    pub const fn with_control(self) -> u64 {
        match self {
            Self::Migratable => 0,
            Self::Fast => VIRTIO_NET_F_GUEST_ANNOUNCE | COALESCING,
        }
    }

    /// What is offered besides where there are doorbells that can carry it: a kick by an eventfd says nothing.
    pub const fn with_doorbells(self) -> u64 {
        match self {
            Self::Migratable => 0,
            Self::Fast => VIRTIO_F_NOTIFICATION_DATA,
        }
    }

    /// What is offered besides where there is a control queue and frames come from outside.
    pub const fn reception(self) -> u64 {
        match self {
            Self::Migratable => RECEPTION,
            Self::Fast => RECEPTION | VIRTIO_NET_F_HASH_REPORT,
        }
    }
}

/// What a driver accepted, without the bits whose condition it did not accept (virtio 1.3 §5.1.3.1): a driver that
/// breaks that rule does without them.
pub fn effective(features: u64) -> u64 {
    let without = |left, (feature, condition): (u64, u64)| if left & condition == 0 { left & !feature } else { left };
    CONDITIONS.into_iter().fold(features, without)
}

/// Features of `features` whose condition is not among them, with it.
fn unmet(features: u64) -> impl Iterator<Item = (u64, u64)> {
    CONDITIONS.into_iter().filter(move |(feature, condition)| features & feature != 0 && features & condition == 0)
}

/// What is left of `supported` as the text of a parameter says: a mask, or names to do without (`-mrg_rxbuf,-csum`).
pub fn trim(supported: u64, text: &str) -> Result<u64, String> {
    let left = if text.starts_with('-') { without(supported, text)? } else { masked(supported, text)? };
    let missing = REQUIRED & !left;
    if missing != 0 {
        return Err(format!("no device works without {}", in_words(missing)));
    }
    match unmet(left).next() {
        Some((feature, condition)) => Err(format!("{} needs {}", in_words(feature), in_words(condition))),
        None => Ok(left),
    }
}

fn without(supported: u64, text: &str) -> Result<u64, String> {
    text.split(',').try_fold(supported, |left, word| {
        let known = word.strip_prefix('-').and_then(|name| NAMES.iter().find(|(known, _)| *known == name));
        match known {
            Some((_, feature)) if supported & feature != 0 => Ok(left & !feature),
            _ => Err(format!("{word} is not - and one of {}", in_words(supported))),
        }
    })
}

fn masked(supported: u64, text: &str) -> Result<u64, String> {
    let mask = text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
    let mask = mask.ok_or_else(|| format!("not a mask within {supported:#x}, nor names to leave out (-mrg_rxbuf)"))?;
    match mask & !supported {
        0 => Ok(mask),
        unknown => Err(format!("{} is not within {supported:#x}", in_words(unknown))),
    }
}

/// The names of features; bits without one as a mask.
pub fn in_words(features: u64) -> String {
    let named = NAMES.iter().filter(|(_, feature)| features & feature != 0);
    let rest = NAMES.iter().fold(features, |rest, (_, feature)| rest & !feature);
    let rest = (rest != 0).then(|| format!("{rest:#x}"));
    named.map(|(name, _)| (*name).to_owned()).chain(rest).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migratable_profile_has_none_of_the_bits_that_stop_qemu_from_migrating() {
        let profile = Profile::Migratable;
        let with_control = CONTROL | profile.reception() | profile.with_control() | profile.with_doorbells();
        let offered = profile.features() | OFFLOADS | ECN | with_control | VIRTIO_NET_F_MQ | VIRTIO_NET_F_SPEED_DUPLEX;
        assert_eq!([21, 28, 34, 35, 38, 40].iter().fold(0, |bits, bit| bits | offered & 1 << bit), 0);
        // Coalescing, UDP segmentation, reports of hashes: not all of its shadow queues know them.
        assert_eq!([52, 53, 54, 55, 56, 57].iter().fold(0, |bits, bit| bits | offered & 1 << bit), 0);
    }

    #[test]
    fn segmentation_without_checksums_is_not_in_effect() {
        let accepted = VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_CSUM;
        assert_eq!(effective(accepted), VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_CSUM);
        assert_eq!(effective(OFFLOADS & !VIRTIO_NET_F_CSUM & !VIRTIO_NET_F_GUEST_CSUM | ECN | USO), 0);
        assert_eq!(effective(RECEPTION | VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_MQ), 0);
        assert_eq!(effective(OFFLOADS | ECN | USO), OFFLOADS | ECN | USO);
    }

    #[test]
    fn what_depends_on_others_comes_behind_them() {
        for (at, (_, condition)) in CONDITIONS.iter().enumerate() {
            assert!(CONDITIONS[at..].iter().all(|(feature, _)| feature & condition == 0), "{}", in_words(*condition));
        }
    }

    #[test]
    fn every_feature_has_one_name() {
        let all = NAMES.iter().fold(0, |all, (_, feature)| all | feature);
        assert_eq!(all.count_ones() as usize, NAMES.len());
    }

    const ALL: u64 = REQUIRED | OFFLOADS | CONTROL | VIRTIO_NET_F_MRG_RXBUF;

    #[test]
    fn what_is_offered_can_be_trimmed_by_mask_and_by_name() {
        assert_eq!(trim(ALL, "0x300000001"), Ok(REQUIRED | VIRTIO_NET_F_CSUM));
        assert_eq!(trim(ALL, &ALL.to_string()), Ok(ALL));
        let words = "-mrg_rxbuf,-ctrl_mac_addr";
        assert_eq!(trim(ALL, words), Ok(ALL & !(VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_CTRL_MAC_ADDR)));
    }

    #[test]
    fn a_set_that_contradicts_itself_is_refused_in_words() {
        let refused = |text| trim(ALL, text).unwrap_err();
        assert_eq!(refused("0x1"), "no device works without version_1, iommu_platform");
        assert_eq!(refused("-csum"), "host_tso4 needs csum");
        assert_eq!(refused("-ctrl_vq"), "ctrl_rx needs ctrl_vq");
        assert_eq!(refused("0x300400000"), format!("mq is not within {ALL:#x}"));
        assert_eq!(refused("0x4000000300000000"), format!("0x4000000000000000 is not within {ALL:#x}"));
        for text in ["", "0x", "all", "-mq", "-mrg_rxbuf,csum", "-", "0xfffffffffffffffff"] {
            assert!(trim(ALL, text).is_err(), "{text}");
        }
    }
}
