//! Why a vhost call is refused.

use nix::errno::Errno;
use thiserror::Error;
use vhost_abi::MessageError;
use virtio_mdev_api::dma::MapError;
use virtio_mdev_api::{HasErrno, SessionError};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum VhostError {
    #[error("the instance is gone")]
    Gone,
    #[error("the file has its owner")]
    Owned,
    #[error("only the owner may do this")]
    NotOwner,
    #[error("backend features {unknown:#x} are not offered")]
    BackendFeatures { unknown: u64 },
    #[error("vring flags {0:#x} are not offered")]
    VringFlags(u32),
    #[error("the address of the log, {0:#x}, must be aligned to 4 bytes")]
    LogAlignment(u64),
    #[error("ring {index} cannot be logged there")]
    LogRange { index: usize },
    #[error("there is no log: VHOST_SET_LOG_BASE comes first")]
    NoLog,
    #[error("{len} bytes at {offset} are not within configuration space")]
    ConfigRange { offset: u32, len: u32 },
    #[error("groups of rings mean address spaces, which were not acknowledged")]
    DescAsidAlone,
    #[error("there is no address space {0}")]
    AddressSpace(u32),
    #[error("a batch is open in address space {open}, not in {asid}")]
    BatchElsewhere { asid: u32, open: usize },
    #[error("memory comes from the container or from IOTLB messages, not from both")]
    TwoSources,
    #[error("{0} is not offered")]
    NotOffered(&'static str),
    #[error("there is no command {0:#x} here")]
    Unknown(u32),
    #[error("no memory for doorbells: {0}")]
    Doorbells(Errno),
    #[error("the caller: {0}")]
    Caller(#[from] Errno),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl HasErrno for VhostError {
    fn errno(&self) -> Errno {
        match self {
            Self::Gone => Errno::ENODEV,
            Self::Owned | Self::TwoSources => Errno::EBUSY,
            Self::NotOwner => Errno::EPERM,
            Self::BackendFeatures { .. } | Self::VringFlags(_) | Self::NotOffered(_) => Errno::EOPNOTSUPP,
            Self::LogAlignment(_)
            | Self::LogRange { .. }
            | Self::ConfigRange { .. }
            | Self::DescAsidAlone
            | Self::AddressSpace(_)
            | Self::BatchElsewhere { .. }
            | Self::Message(_) => Errno::EINVAL,
            Self::Unknown(_) => Errno::ENOTTY,
            Self::NoLog => Errno::EFAULT,
            Self::Caller(errno) | Self::Doorbells(errno) => *errno,
            Self::Map(error) => error.errno(),
            Self::Session(error) => error.errno(),
        }
    }
}
