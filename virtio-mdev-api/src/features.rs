//! Feature bits that concern every virtio device (virtio 1.3 §6), and the rules of their negotiation.

use crate::HasErrno;
use nix::errno::Errno;
use thiserror::Error;

/// The driver can use descriptors with VIRTQ_DESC_F_INDIRECT.
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
/// `used_event` and `avail_event` are in use.
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
/// Compliance with the standard rather than the legacy interface.
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// Addresses are IOVAs, translated by what the platform (here: the DMA address space) says.
pub const VIRTIO_F_ACCESS_PLATFORM: u64 = 1 << 33;
/// The packed ring layout.
pub const VIRTIO_F_RING_PACKED: u64 = 1 << 34;
/// The device uses buffers in the order in which they were made available.
pub const VIRTIO_F_IN_ORDER: u64 = 1 << 35;
/// A doorbell says where the driver is besides which queue to look at.
pub const VIRTIO_F_NOTIFICATION_DATA: u64 = 1 << 38;
/// A queue can be reset and set up anew while others run.
pub const VIRTIO_F_RING_RESET: u64 = 1 << 40;

/// What every device of this stack needs from its driver: ring addresses are IOVAs and the interface is the modern one.
pub const REQUIRED: u64 = VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM;

/// Why a set of features was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FeatureError {
    /// Bits that were not offered.
    #[error("features {unknown:#x} are not offered")]
    NotOffered {
        /// The bits in question.
        unknown: u64,
    },
    /// Bits the device cannot work without.
    #[error("features {missing:#x} are required (VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM)")]
    Missing {
        /// The bits in question.
        missing: u64,
    },
}

impl HasErrno for FeatureError {
    fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Checks what a driver accepted against what the device `offered`.
pub fn check(offered: u64, accepted: u64) -> Result<(), FeatureError> {
    let unknown = accepted & !offered;
    if unknown != 0 {
        return Err(FeatureError::NotOffered { unknown });
    }
    let missing = REQUIRED & offered & !accepted;
    if missing != 0 {
        return Err(FeatureError::Missing { missing });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f25_bits_outside_the_offer_are_refused() {
        let refused = check(REQUIRED, REQUIRED | 1);
        assert_eq!(refused, Err(FeatureError::NotOffered { unknown: 1 }));
    }

    #[test]
    fn a_driver_without_iova_addressing_is_refused() {
        let refused = check(REQUIRED, VIRTIO_F_VERSION_1);
        assert_eq!(refused, Err(FeatureError::Missing { missing: VIRTIO_F_ACCESS_PLATFORM }));
    }

    #[test]
    fn a_subset_of_the_offer_is_accepted() {
        assert_eq!(check(REQUIRED | VIRTIO_F_EVENT_IDX, REQUIRED), Ok(()));
    }
}
