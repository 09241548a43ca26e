//! What can go wrong with a mapping and with an access.

use super::Permissions;
use crate::HasErrno;
use nix::errno::Errno;
use thiserror::Error;

/// Why the table of mappings was not changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MapError {
    /// A region of no bytes.
    #[error("mapping at {iova:#x} is empty")]
    Empty {
        /// Its address.
        iova: u64,
    },
    /// The end lies beyond the 64-bit space.
    #[error("mapping of {len:#x} bytes at {iova:#x} wraps around the end of the address space")]
    Wraps {
        /// Its address.
        iova: u64,
        /// Its length.
        len: u64,
    },
    /// The device would be allowed nothing.
    #[error("mapping at {iova:#x} allows the device neither to read nor to write")]
    NoPermission {
        /// Its address.
        iova: u64,
    },
    /// Not a multiple of the smallest page.
    #[error("mapping of {len:#x} bytes at {iova:#x} is not a multiple of {align:#x}")]
    Unaligned {
        /// Its address.
        iova: u64,
        /// Its length.
        len: u64,
        /// The smallest page; 0 when the devices of the space have no page size in common.
        align: u64,
    },
    /// Outside the addresses that the space and its subscribers can use.
    #[error("mapping of {len:#x} bytes at {iova:#x} is outside the usable addresses {first:#x}..={last:#x}")]
    OutsideRange {
        /// Its address.
        iova: u64,
        /// Its length.
        len: u64,
        /// First usable address.
        first: u64,
        /// Last usable address.
        last: u64,
    },
    /// The window is shorter than the region says.
    #[error("mapping of {len:#x} bytes at {iova:#x} reaches beyond the memory behind it")]
    BeyondBacking {
        /// Its address.
        iova: u64,
        /// Its length.
        len: u64,
    },
    /// Something is mapped there.
    #[error("mapping at {iova:#x} overlaps the one at {other:#x}")]
    Overlap {
        /// The refused address.
        iova: u64,
        /// First address of a region that is in the way.
        other: u64,
    },
    /// No entry is left.
    #[error("all {max} mappings are in use")]
    Full {
        /// How many there may be.
        max: usize,
    },
    /// The range of an unmap cuts through a region.
    #[error("unmap of {first:#x}..={last:#x} would split the mapping at {iova:#x}")]
    Bisected {
        /// First address to unmap.
        first: u64,
        /// Last address to unmap.
        last: u64,
        /// First address of the region that would be split.
        iova: u64,
    },
    /// A subscriber said no.
    #[error("{by} refused the mapping at {iova:#x}: {errno}")]
    Refused {
        /// The subscriber.
        by: String,
        /// The refused address.
        iova: u64,
        /// Its reason.
        errno: Errno,
    },
    /// A subscriber said no to mappings in place of others.
    #[error("{by} refused to replace mappings: {errno}")]
    ReplaceRefused {
        /// The subscriber.
        by: String,
        /// Its reason.
        errno: Errno,
    },
}

impl HasErrno for MapError {
    fn errno(&self) -> Errno {
        match self {
            Self::Empty { .. }
            | Self::Wraps { .. }
            | Self::NoPermission { .. }
            | Self::Unaligned { .. }
            | Self::OutsideRange { .. }
            | Self::BeyondBacking { .. }
            | Self::Bisected { .. } => Errno::EINVAL,
            Self::Overlap { .. } => Errno::EEXIST,
            Self::Full { .. } => Errno::ENOSPC,
            Self::Refused { errno, .. } | Self::ReplaceRefused { errno, .. } => *errno,
        }
    }
}

/// Why memory could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AccessError {
    /// Not mapped, or not mapped for this access.
    #[error("no mapping at {iova:#x} for {access:?}")]
    Fault {
        /// The first address that cannot be reached.
        iova: u64,
        /// What was wanted.
        access: Permissions,
    },
    /// Not mapped yet: whoever fills the space was asked. Leave the burst and try again when
    /// [`AddressSpace::generation`](super::AddressSpace::generation) is no longer that of the burst.
    #[error("mapping at {iova:#x} was asked for")]
    Pending {
        /// The first address that cannot be reached.
        iova: u64,
    },
    /// An object that has to be accessed at once is not aligned, or lies in two regions.
    #[error("{size} bytes at {iova:#x} cannot be accessed at once")]
    Misaligned {
        /// Its address.
        iova: u64,
        /// Its size.
        size: usize,
    },
    /// The client took the memory away.
    #[error("the memory at {iova:#x} is gone")]
    Lost {
        /// The address of the access.
        iova: u64,
    },
    /// The client's private memory could not be reached.
    #[error("the memory at {iova:#x} cannot be reached through the client: {errno}")]
    Remote {
        /// The address of the access.
        iova: u64,
        /// The client's answer.
        errno: Errno,
    },
}

impl HasErrno for AccessError {
    fn errno(&self) -> Errno {
        match self {
            Self::Fault { .. } | Self::Lost { .. } => Errno::EFAULT,
            Self::Pending { .. } => Errno::EAGAIN,
            Self::Misaligned { .. } => Errno::EINVAL,
            Self::Remote { errno, .. } => *errno,
        }
    }
}
