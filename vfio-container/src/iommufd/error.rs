//! Why an iommufd call is refused.

use nix::errno::Errno;
use thiserror::Error;
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dma::{MapError, Permissions};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum IommufdError {
    #[error("a structure of {size} bytes, this call needs {need}")]
    Size { size: u32, need: usize },
    #[error("byte {at} of the structure is not zero, and nothing known is there")]
    Beyond { at: usize },
    #[error("{field} is {value:#x}, which is not offered")]
    NotOffered { field: &'static str, value: u64 },
    #[error("{field} is {value:#x}")]
    Invalid { field: &'static str, value: u64 },
    #[error("there is no object {0} of the kind that is meant")]
    NoSuchObject(u32),
    #[error("object {0} is in use")]
    InUse(u32),
    #[error("objects were made already")]
    NotEmpty,
    #[error("only the superuser may choose how memory is accounted")]
    NotPrivileged,
    #[error("no IOAS stands for the container")]
    NoCompatIoas,
    #[error("{length:#x} bytes from {first:#x} are beyond the end of the space")]
    Overflow { first: u64, length: u64 },
    #[error("{length:#x} bytes at {iova:#x}, of memory at {of:#x}: not whole pages")]
    Unaligned { iova: u64, length: u64, of: u64 },
    #[error("not all of {first:#x}..={last:#x} is mapped")]
    NotMapped { first: u64, last: u64 },
    #[error("{first:#x}..={last:#x} cuts through the mapping at {iova:#x}")]
    Bisected { first: u64, last: u64, iova: u64 },
    #[error("what is mapped for {had:?} cannot be copied for {wanted:?}")]
    Permission { had: Permissions, wanted: Permissions },
    #[error("there is no room for {length:#x} bytes in the allowed addresses")]
    NoIova { length: u64 },
    #[error("{given} ranges do not fit into {room}")]
    Room { given: usize, room: u32 },
    #[error("{0} allowed ranges are too many")]
    TooManyRanges(u32),
    #[error("{first:#x}..={last:#x} cannot be used by the devices that are attached")]
    OutOfReach { first: u64, last: u64 },
    #[error("user {uid} has {max} {what} already")]
    Quota { uid: u32, max: usize, what: &'static str },
    #[error("user {uid} has {max} contexts open already")]
    TooManyOpen { uid: u32, max: usize },
    #[error("only the address space that used the context first may change it")]
    Foreign,
    #[error("{0} is no call of an iommufd without hardware")]
    NoHardware(&'static str),
    #[error("there is no command {0:#x} here")]
    Unknown(u32),
    #[error("the file is closed")]
    Closed,
    #[error("the caller: {0}")]
    Caller(#[from] Errno),
    #[error(transparent)]
    Map(#[from] MapError),
}

impl HasErrno for IommufdError {
    fn errno(&self) -> Errno {
        match self {
            Self::Size { .. } | Self::Invalid { .. } | Self::Unaligned { .. } => Errno::EINVAL,
            Self::Beyond { .. } => Errno::E2BIG,
            Self::NotOffered { .. } | Self::NoHardware(_) => Errno::EOPNOTSUPP,
            Self::NoSuchObject(_) | Self::NotMapped { .. } | Self::Bisected { .. } => Errno::ENOENT,
            Self::InUse(_) | Self::NotEmpty => Errno::EBUSY,
            Self::NotPrivileged | Self::Permission { .. } | Self::Foreign => Errno::EPERM,
            Self::NoCompatIoas => Errno::ENODEV,
            Self::Overflow { .. } => Errno::EOVERFLOW,
            Self::NoIova { .. } | Self::Quota { .. } => Errno::ENOSPC,
            Self::Room { .. } => Errno::EMSGSIZE,
            Self::TooManyRanges(_) => Errno::ENOMEM,
            Self::OutOfReach { .. } => Errno::EADDRINUSE,
            Self::TooManyOpen { .. } => Errno::EMFILE,
            Self::Unknown(_) => Errno::ENOTTY,
            Self::Closed => Errno::EBADF,
            Self::Caller(errno) => *errno,
            Self::Map(error) => error.errno(),
        }
    }
}
