//! Feature bits of virtio-net (virtio 1.3 §5.1.3), and the profiles parents offer.

use virtio_mdev_api::features::{
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1,
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

/// Partial checksums and segmentation, both ways.
pub const OFFLOADS: u64 = VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6;

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
    pub fn features(self) -> u64 {
        let migratable = VIRTIO_F_VERSION_1
            | VIRTIO_F_ACCESS_PLATFORM
            | VIRTIO_F_EVENT_IDX
            | VIRTIO_NET_F_MAC
            | VIRTIO_NET_F_STATUS
            | VIRTIO_NET_F_MTU
            | VIRTIO_NET_F_MRG_RXBUF;
        match self {
            Self::Migratable => migratable,
            Self::Fast => migratable | VIRTIO_F_INDIRECT_DESC,
        }
    }
}

/// What a driver accepted, without the bits whose condition it did not accept (virtio 1.3 §5.1.3.1): a driver that
/// breaks that rule does without them.
pub fn effective(features: u64) -> u64 {
    let mut effective = features;
    if features & VIRTIO_NET_F_CSUM == 0 {
        effective &= !(VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6);
    }
    if features & VIRTIO_NET_F_GUEST_CSUM == 0 {
        effective &= !(VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6);
    }
    effective
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
}
