//! Feature bits of virtio-net (virtio 1.3 §5.1.3), and the profiles parents offer.

use virtio_mdev_api::features::{
    REQUIRED, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
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
/// The device can receive TSOv4.
pub const VIRTIO_NET_F_HOST_TSO4: u64 = 1 << 11;
/// The device can receive TSOv6.
pub const VIRTIO_NET_F_HOST_TSO6: u64 = 1 << 12;
/// The driver can merge receive buffers.
pub const VIRTIO_NET_F_MRG_RXBUF: u64 = 1 << 15;
/// The configuration space has a status.
pub const VIRTIO_NET_F_STATUS: u64 = 1 << 16;

/// There is a control queue.
pub const VIRTIO_NET_F_CTRL_VQ: u64 = 1 << 17;
/// The control queue takes receive modes.
pub const VIRTIO_NET_F_CTRL_RX: u64 = 1 << 18;
/// There are several queue pairs.
pub const VIRTIO_NET_F_MQ: u64 = 1 << 22;
/// The control queue takes a MAC address.
pub const VIRTIO_NET_F_CTRL_MAC_ADDR: u64 = 1 << 23;

/// Partial checksums and segmentation, both ways.
pub const OFFLOADS: u64 = VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6;

/// What the control queue can do.
pub const CONTROL: u64 = VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_MAC_ADDR;

/// The features these parents know, by the names QEMU has for them.
pub const NAMES: [(&str, u64); 20] = [
    ("csum", VIRTIO_NET_F_CSUM),
    ("guest_csum", VIRTIO_NET_F_GUEST_CSUM),
    ("host_mtu", VIRTIO_NET_F_MTU),
    ("mac", VIRTIO_NET_F_MAC),
    ("guest_tso4", VIRTIO_NET_F_GUEST_TSO4),
    ("guest_tso6", VIRTIO_NET_F_GUEST_TSO6),
    ("host_tso4", VIRTIO_NET_F_HOST_TSO4),
    ("host_tso6", VIRTIO_NET_F_HOST_TSO6),
    ("mrg_rxbuf", VIRTIO_NET_F_MRG_RXBUF),
    ("status", VIRTIO_NET_F_STATUS),
    ("ctrl_vq", VIRTIO_NET_F_CTRL_VQ),
    ("ctrl_rx", VIRTIO_NET_F_CTRL_RX),
    ("mq", VIRTIO_NET_F_MQ),
    ("ctrl_mac_addr", VIRTIO_NET_F_CTRL_MAC_ADDR),
    ("indirect_desc", VIRTIO_F_INDIRECT_DESC),
    ("event_idx", VIRTIO_F_EVENT_IDX),
    ("version_1", VIRTIO_F_VERSION_1),
    ("iommu_platform", VIRTIO_F_ACCESS_PLATFORM),
    ("packed", VIRTIO_F_RING_PACKED),
    ("in_order", VIRTIO_F_IN_ORDER),
];

/// Features, each with the one it depends on (virtio 1.3 §5.1.3.1).
const CONDITIONS: [(u64, u64); 7] = [
    (VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ),
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
}

/// What a driver accepted, without the bits whose condition it did not accept (virtio 1.3 §5.1.3.1): a driver that
/// breaks that rule does without them.
pub fn effective(features: u64) -> u64 {
    unmet(features).fold(features, |effective, (feature, _)| effective & !feature)
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
        let offered = Profile::Migratable.features() | OFFLOADS;
        assert_eq!([21, 28, 34, 35, 38, 40].iter().fold(0, |bits, bit| bits | offered & 1 << bit), 0);
    }

    #[test]
    fn segmentation_without_checksums_is_not_in_effect() {
        let accepted = VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_CSUM;
        assert_eq!(effective(accepted), VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_CSUM);
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
        assert_eq!(refused("0x8000000300000000"), format!("0x8000000000000000 is not within {ALL:#x}"));
        for text in ["", "0x", "all", "-mq", "-mrg_rxbuf,csum", "-", "0xfffffffffffffffff"] {
            assert!(trim(ALL, text).is_err(), "{text}");
        }
    }
}
