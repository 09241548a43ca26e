//! Why a session refuses a call.

use crate::dma::MapError;
use crate::executor::VendorFault;
use crate::features::FeatureError;
use crate::{HasErrno, Refusal, StatusError};
use nix::errno::Errno;
use thiserror::Error;

/// Why a session refused a call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SessionError {
    /// A queue index beyond the device's queues.
    #[error("there is no queue {index}")]
    NoSuchQueue {
        /// The index.
        index: u32,
    },
    /// An illegal status write.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// An illegal set of features.
    #[error(transparent)]
    Features(#[from] FeatureError),
    /// Features stand still after FEATURES_OK.
    #[error("features are fixed once FEATURES_OK is set")]
    FeaturesFixed,
    /// Something that needs the ring to stand still.
    #[error("the ring is live")]
    RingLive,
    /// Ring addresses and state may be set before DRIVER_OK or while suspended.
    #[error("ring addresses and state stand still while the driver runs")]
    DriverRuns,
    /// A ring size that is zero, no power of two, or too large.
    #[error("a ring size is a power of two up to {max}")]
    QueueSize {
        /// Largest size.
        max: u16,
    },
    /// Misaligned ring addresses (virtio 1.3 §2.7).
    #[error("ring addresses {desc:#x}, {driver:#x}, {device:#x} must be aligned to 16, 2 and 4 bytes")]
    QueueAlignment {
        /// Descriptor table.
        desc: u64,
        /// Available ring.
        driver: u64,
        /// Used ring.
        device: u64,
    },
    /// A ring area beyond the end of the address space.
    #[error("a ring area of {len} bytes at {start:#x} wraps around")]
    QueueWraps {
        /// First byte.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// A ring state out of range.
    #[error("ring state {base:#x} is out of range")]
    QueueBase {
        /// The number given.
        base: u32,
    },
    /// A range outside configuration space.
    #[error("{len} bytes at {offset} are not within configuration space")]
    ConfigRange {
        /// First byte.
        offset: u32,
        /// Bytes.
        len: u32,
    },
    /// Every read of configuration space found a change under way.
    #[error("configuration space changes faster than it can be read")]
    ConfigUnsettled,
    /// A group beyond the device's groups.
    #[error("there is no group {group}")]
    NoSuchGroup {
        /// The group.
        group: u32,
    },
    /// An address space beyond those of the device.
    #[error("there is no address space {asid}")]
    NoSuchSpace {
        /// The address space id.
        asid: u32,
    },
    /// Groups stand still from DRIVER_OK until the next reset.
    #[error("groups stay in their address spaces once DRIVER_OK is set")]
    GroupsFixed,
    /// A queue was to start in an address space that has no memory attached.
    #[error("address space {asid} of the device has no memory")]
    NoMemory {
        /// The address space id.
        asid: u32,
    },
    /// The device's IOMMU refused the mappings.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Something that needs the session to be frozen.
    #[error("the device is to be stopped first")]
    NotFrozen,
    /// Saved state that cannot be of this device.
    #[error("saved state does not fit the device: {0}")]
    Saved(&'static str),
    /// The vendor refused.
    #[error("{0}")]
    Refused(Refusal),
    /// Vendor code hung or panicked.
    #[error(transparent)]
    Vendor(#[from] VendorFault),
    /// Another call on the session does not end.
    #[error("the instance is occupied by another call")]
    Occupied,
}

impl From<Refusal> for SessionError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl HasErrno for SessionError {
    fn errno(&self) -> Errno {
        match self {
            Self::NoSuchQueue { .. } => Errno::ENOBUFS,
            Self::FeaturesFixed | Self::RingLive | Self::GroupsFixed | Self::NotFrozen => Errno::EBUSY,
            Self::Status(error) => error.errno(),
            Self::Features(error) => error.errno(),
            Self::Map(error) => error.errno(),
            Self::Vendor(fault) => fault.errno(),
            Self::Refused(refusal) => refusal.errno(),
            Self::Occupied => Errno::ETIMEDOUT,
            Self::ConfigUnsettled => Errno::EAGAIN,
            Self::NoMemory { .. } => Errno::EFAULT,
            Self::DriverRuns
            | Self::QueueSize { .. }
            | Self::QueueAlignment { .. }
            | Self::QueueWraps { .. }
            | Self::QueueBase { .. }
            | Self::ConfigRange { .. }
            | Self::NoSuchGroup { .. }
            | Self::NoSuchSpace { .. }
            | Self::Saved(_) => Errno::EINVAL,
        }
    }
}
