//! Why a vhost-net call is refused.

use nix::errno::Errno;
use tap::GivenError;
use thiserror::Error;
use virtio_mdev_api::dma::MapError;
use virtio_mdev_api::{HasErrno, Refusal};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum NetError {
    #[error("the file is closed")]
    Gone,
    #[error("user {uid} has {max} devices open already")]
    TooMany { uid: u32, max: usize },
    #[error("the file has its owner")]
    Owned,
    #[error("only the owner may do this")]
    NotOwner,
    #[error("features {unknown:#x} are not offered")]
    Features { unknown: u64 },
    #[error("{0} words of features are too many")]
    FeatureWords(u64),
    #[error("without VIRTIO_F_VERSION_1 and VIRTIO_NET_F_MRG_RXBUF the header has 10 bytes, which is not offered")]
    ShortHeader,
    #[error("there is no ring {0}")]
    NoSuchRing(u32),
    #[error("the ring has a back end")]
    Running,
    #[error("a thread of the device waits for memory of its client and has not ended")]
    Stuck,
    #[error("a ring size is a power of two up to {max}, not {size}")]
    Size { size: u32, max: u16 },
    #[error("ring state {0:#x} is out of range")]
    Base(u32),
    #[error("vring flags {0:#x} are not offered")]
    VringFlags(u32),
    #[error("the addresses of a ring must be aligned to 16, 2 and 4 bytes, and that of its log to 4")]
    Alignment,
    #[error("the ring is not in the memory table")]
    Outside,
    #[error("the ring would no longer be in the memory table")]
    Moved,
    #[error("the padding of the memory table is {0:#x}")]
    Padding(u32),
    #[error("{count} regions are more than the {max} there may be")]
    Regions { count: u32, max: u32 },
    #[error("the memory table is wrong: {0}")]
    Table(MapError),
    #[error("memory at {uaddr:#x} of {len:#x} bytes is not the client's")]
    NotMapped { uaddr: u64, len: u64 },
    #[error("there is no log to write to")]
    NoLog,
    #[error("the log has no room for the ring")]
    LogRange,
    #[error("{0} is not offered")]
    NotOffered(&'static str),
    #[error("there is no command {0:#x} here")]
    Unknown(u32),
    #[error("the caller: {0}")]
    Caller(#[from] Errno),
    #[error(transparent)]
    BackEnd(#[from] GivenError),
    #[error("{0}")]
    Device(Refusal),
}

impl From<Refusal> for NetError {
    fn from(refusal: Refusal) -> Self {
        Self::Device(refusal)
    }
}

impl HasErrno for NetError {
    fn errno(&self) -> Errno {
        match self {
            Self::Gone => Errno::ENODEV,
            Self::TooMany { .. } => Errno::EMFILE,
            Self::Owned | Self::Running | Self::Stuck => Errno::EBUSY,
            Self::NotOwner => Errno::EPERM,
            Self::Features { .. } | Self::ShortHeader | Self::VringFlags(_) | Self::Padding(_) => Errno::EOPNOTSUPP,
            Self::NoSuchRing(_) => Errno::ENOBUFS,
            Self::Size { .. } | Self::Base(_) | Self::Alignment | Self::Moved | Self::LogRange => Errno::EINVAL,
            Self::Outside | Self::NoLog | Self::Table(_) | Self::NotMapped { .. } => Errno::EFAULT,
            Self::Regions { .. } | Self::FeatureWords(_) => Errno::E2BIG,
            // The kernel's answer is no "not supported" here.
            Self::NotOffered(_) | Self::Unknown(_) => Errno::ENOTTY,
            Self::Caller(errno) => *errno,
            Self::BackEnd(error) => error.errno(),
            Self::Device(refusal) => refusal.errno(),
        }
    }
}
