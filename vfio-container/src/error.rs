//! Why a VFIO call is refused.

use crate::migration::{State, StreamError};
use nix::errno::Errno;
use thiserror::Error;
use virtio_mdev_api::dma::MapError;
use virtio_mdev_api::{HasErrno, Refusal};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum VfioError {
    #[error("argsz is {argsz}, this call needs {need}")]
    Argsz { argsz: u32, need: u32 },
    #[error("flags {flags:#x} are not within {allowed:#x}, or exclude each other")]
    Flags { flags: u32, allowed: u32 },
    #[error("{size:#x} bytes at {iova:#x}, of memory at {vaddr:#x}: empty, wrapping or not whole pages")]
    Range { iova: u64, size: u64, vaddr: u64 },
    #[error("no mapping of {size:#x} bytes at {iova:#x} waits for a new address")]
    NoSuchMapping { iova: u64, size: u64 },
    #[error("the mapping at {iova:#x} has its address")]
    AddressKept { iova: u64 },
    #[error("memory of emulated groups cannot change its address")]
    Emulated,
    #[error("the container has no IOMMU: VFIO_SET_IOMMU comes first")]
    NoIommu,
    #[error("the container has its IOMMU, or no group")]
    IommuFixed,
    #[error("IOMMU type {0} is not offered")]
    NoSuchType(u64),
    #[error("VFIO_UNMAP_ALL is an extension and no type")]
    NotAType,
    #[error("only the address space that set this up may change it")]
    Foreign,
    #[error("the group is attached to a container")]
    Attached,
    #[error("the group is not attached to a container")]
    NotAttached,
    #[error("there is no such IOAS")]
    NoIoas,
    #[error("descriptor {0} is no iommufd")]
    NotAnIommufd(i32),
    #[error("the device is bound to an iommufd by another file")]
    BoundElsewhere,
    #[error("the device has no PASIDs")]
    NoPasid,
    #[error("the group's device is in use")]
    InUse,
    #[error("descriptor {0} is no container")]
    NotAContainer(i32),
    #[error("{0} is no descriptor")]
    Negative(i32),
    #[error("the group has no device {0:?}")]
    NoSuchDevice(String),
    #[error("a device name is shorter than {0} bytes")]
    LongName(usize),
    #[error("a device descriptor cannot be put into the caller by this call: dev/vfio/handle becomes one")]
    NoDeviceFd,
    #[error("the descriptor is no group")]
    NotAGroup,
    #[error("the handle is another file by now")]
    HandleTaken,
    #[error("the device is not bound to an iommufd")]
    Unbound,
    #[error("only a file of the device's own node can be bound to an iommufd, and once")]
    NotACdev,
    #[error("the device cannot be reset")]
    NoReset,
    #[error("the device has no feature {0}")]
    NoSuchFeature(u32),
    #[error("the device has no index {0}")]
    NoSuchIndex(u32),
    #[error("region {index} does not allow that")]
    RegionAccess { index: u32 },
    #[error("{from:#x} is beyond region {index}, which has {size:#x} bytes")]
    BeyondRegion { index: u32, from: u64, size: u64 },
    #[error("{count} interrupts from {start} are not among {of}")]
    IrqRange { start: u32, count: u32, of: u32 },
    #[error("interrupts of index {index} cannot be masked")]
    NotMaskable { index: u32 },
    #[error("index {index} was set up with {enabled} interrupts")]
    NoResize { index: u32, enabled: u32 },
    #[error("{0}")]
    Refused(Refusal),
    #[error("this is no file of a device")]
    NotADevice,
    #[error("the state of the device cannot be moved")]
    NoMigration,
    #[error("there is no migration state {0} that one can ask for")]
    NoSuchState(u32),
    #[error("no way leads from {from:?} to {to:?}")]
    NoArc { from: State, to: State },
    #[error("a data descriptor cannot be put into the caller by this call: dev/vfio/handle gives one")]
    NoDataFd,
    #[error("the device has left the state that the data stream is for")]
    StreamEnded,
    #[error("the device runs no more, or does not migrate")]
    NotPreCopy,
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("what the device writes is logged already")]
    Logging,
    #[error("what the device writes is not logged")]
    NotLogging,
    #[error("no pages of {page_size:#x} bytes can be logged, nor any of no range")]
    LogPages { page_size: u64 },
    #[error("{0} ranges are too many to be logged")]
    TooManyRanges(u32),
    #[error("{length:#x} bytes at {iova:#x} wrap around")]
    LogWraps { iova: u64, length: u64 },
    #[error("two ranges to be logged have {iova:#x}")]
    LogOverlap { iova: u64 },
    #[error("dirty tracking needs a type 1 v2 IOMMU")]
    NotV2,
    #[error("dirty pages are not tracked")]
    NotTracked,
    #[error("the mapping {first:#x}..={last:#x} has too many pages to track")]
    Untrackable { first: u64, last: u64 },
    #[error("a bitmap of {size:#x} bytes at {data:#x}, pages of {page_size:#x} bytes, is none for {range:#x} bytes")]
    Bitmap { page_size: u64, size: u64, data: u64, range: u64 },
    #[error("{0} is not offered")]
    NotOffered(&'static str),
    #[error("there is no command {0:#x} here")]
    Unknown(u32),
    #[error("the device of the group is gone")]
    Gone,
    #[error("the file is closed")]
    Closed,
    #[error("the caller: {0}")]
    Caller(#[from] Errno),
    #[error(transparent)]
    Map(#[from] MapError),
}

impl From<Refusal> for VfioError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl HasErrno for VfioError {
    fn errno(&self) -> Errno {
        match self {
            Self::Argsz { .. }
            | Self::Flags { .. }
            | Self::Range { .. }
            | Self::AddressKept { .. }
            | Self::NoIommu
            | Self::IommuFixed
            | Self::Attached
            | Self::NotAttached
            | Self::NotTracked
            | Self::Untrackable { .. }
            | Self::Bitmap { .. }
            | Self::NotAType
            | Self::NotAGroup
            | Self::Unbound
            | Self::NotACdev
            | Self::BoundElsewhere
            | Self::NoSuchIndex(_)
            | Self::RegionAccess { .. }
            | Self::BeyondRegion { .. }
            | Self::IrqRange { .. }
            | Self::NoResize { .. }
            | Self::NotADevice
            | Self::NoSuchState(_)
            | Self::NoArc { .. }
            | Self::NotPreCopy
            | Self::Logging
            | Self::NotLogging
            | Self::LogPages { .. }
            | Self::LogOverlap { .. }
            | Self::Negative(_)
            | Self::LongName(_) => Errno::EINVAL,
            Self::NoSuchMapping { .. } | Self::NoIoas => Errno::ENOENT,
            Self::Emulated | Self::InUse | Self::HandleTaken => Errno::EBUSY,
            Self::NoSuchType(_) | Self::NoSuchDevice(_) | Self::Gone | Self::StreamEnded => Errno::ENODEV,
            Self::Foreign => Errno::EPERM,
            Self::NotAContainer(_) | Self::NotAnIommufd(_) => Errno::EBADFD,
            Self::NoDeviceFd | Self::NoDataFd | Self::NotOffered(_) | Self::NoPasid => Errno::EOPNOTSUPP,
            Self::NotV2 => Errno::EACCES,
            Self::Unknown(_)
            | Self::NoReset
            | Self::NoSuchFeature(_)
            | Self::NotMaskable { .. }
            | Self::NoMigration => Errno::ENOTTY,
            Self::Closed => Errno::EBADF,
            Self::Caller(errno) => *errno,
            Self::TooManyRanges(_) => Errno::E2BIG,
            Self::LogWraps { .. } => Errno::EOVERFLOW,
            Self::Refused(refusal) => refusal.errno(),
            Self::Stream(error) => error.errno(),
            Self::Map(error) => error.errno(),
        }
    }
}
