//! What can be wrong with a ring, and why work on a queue stops.

use nix::errno::Errno;
use thiserror::Error;
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dma::AccessError;

/// A part of a virtqueue, for the words of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The descriptor table, or the descriptor ring of a packed queue.
    Descriptors,
    /// The available ring (driver area).
    Available,
    /// The used ring (device area).
    Used,
    /// The driver event suppression structure of a packed queue.
    DriverEvents,
    /// The device event suppression structure of a packed queue.
    DeviceEvents,
    /// An indirect descriptor table.
    IndirectTable,
    /// A buffer.
    Buffer,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "descriptor table",
            Self::Available => "available ring",
            Self::Used => "used ring",
            Self::DriverEvents => "driver event suppression",
            Self::DeviceEvents => "device event suppression",
            Self::IndirectTable => "indirect table",
            Self::Buffer => "buffer",
        })
    }
}

/// What the driver did wrong. Every one of these stops the device until it is reset.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RingError {
    /// No size a ring can have: one that is split needs a power of two (virtio 1.3 §2.7, §2.8.10.1).
    #[error("ring size {size} is not a power of two in 1..={max}, nor for a packed ring any number in it")]
    Size {
        /// What was asked for.
        size: u16,
        /// The largest the device takes.
        max: u16,
    },
    /// An area is not aligned (virtio 1.3 §2.7).
    #[error("{part} at {iova:#x} is not aligned to {align}")]
    Misaligned {
        /// Which one.
        part: Part,
        /// Its address.
        iova: u64,
        /// What it has to be a multiple of.
        align: u64,
    },
    /// An area, table or buffer reaches beyond the end of the address space.
    #[error("{part} of {len:#x} bytes at {iova:#x} wraps around the end of the address space")]
    Wraps {
        /// Which one.
        part: Part,
        /// Its address.
        iova: u64,
        /// Its length.
        len: u64,
    },
    /// The queue was to start in a state of the other ring format, or of a larger ring.
    #[error("the state to start in is not one of this ring")]
    State,
    /// More was used than was made available.
    #[error("used index {used} does not fit the available index {avail} on a ring of {size}")]
    UsedIndex {
        /// In the ring.
        used: u16,
        /// Where the queue starts.
        avail: u16,
        /// Of the ring.
        size: u16,
    },
    /// The available index went back, or forward by more than the ring holds.
    #[error("available index {found} follows {next} on a ring of {size}")]
    AvailIndex {
        /// The next chain the device would fetch.
        next: u16,
        /// The driver's index.
        found: u16,
        /// Of the ring.
        size: u16,
    },
    /// The head of a chain is no descriptor; on a packed ring, its buffer id is none.
    #[error("head {head} in a table of {size} descriptors")]
    Head {
        /// What the available ring or the descriptor says.
        head: u16,
        /// Of the ring.
        size: u16,
    },
    /// A chain goes on at what is no descriptor.
    #[error("next {next} in a table of {entries} descriptors")]
    Next {
        /// What the descriptor says.
        next: u16,
        /// Of the table.
        entries: u16,
    },
    /// A chain has a loop, or is longer than a chain may be (virtio 1.3 §2.7.5.3.1).
    #[error("chain at head {head} has more than {size} descriptors, or a loop")]
    ChainTooLong {
        /// Its head.
        head: u16,
        /// Of the ring.
        size: u16,
    },
    /// VIRTQ_DESC_F_INDIRECT without VIRTIO_F_INDIRECT_DESC.
    #[error("indirect descriptor in chain {head}, but VIRTIO_F_INDIRECT_DESC was not negotiated")]
    IndirectNotNegotiated {
        /// Head of the chain.
        head: u16,
    },
    /// VIRTQ_DESC_F_INDIRECT inside an indirect table.
    #[error("indirect descriptor inside the indirect table of chain {head}")]
    IndirectNested {
        /// Head of the chain.
        head: u16,
    },
    /// VIRTQ_DESC_F_INDIRECT with VIRTQ_DESC_F_NEXT.
    #[error("descriptor of chain {head} is indirect and has a next one")]
    IndirectWithNext {
        /// Head of the chain.
        head: u16,
    },
    /// No length of a table.
    #[error("indirect table of {len} bytes in chain {head} is not 1 to 65535 descriptors of 16 bytes")]
    IndirectLength {
        /// Head of the chain.
        head: u16,
        /// Its length in bytes.
        len: u32,
    },
    /// A descriptor of no bytes.
    #[error("empty buffer in chain {head}")]
    EmptyBuffer {
        /// Head of the chain.
        head: u16,
    },
    /// More than 2^32 bytes (virtio 1.3 §2.7.4.2).
    #[error("chain {head} has more than 4 GiB")]
    ChainTooLarge {
        /// Its head.
        head: u16,
    },
    /// A device-readable buffer after a device-writable one (virtio 1.3 §2.7.4.2).
    #[error("readable buffer after a writable one in chain {head}")]
    ReadableAfterWritable {
        /// Head of the chain.
        head: u16,
    },
    /// The device would have to write over the ring.
    #[error("writable buffer at {iova:#x} in chain {head} overlaps the {part} of its own queue")]
    OverlapsRing {
        /// Head of the chain.
        head: u16,
        /// Address of the buffer.
        iova: u64,
        /// What it overlaps.
        part: Part,
    },
    /// Memory could not be reached.
    #[error("{part}: {error}")]
    Access {
        /// What was wanted there.
        part: Part,
        /// Why not.
        error: AccessError,
    },
    /// The buffers of a chain are not what this kind of request has.
    #[error("chain {head}: {reason}")]
    Request {
        /// Its head.
        head: u16,
        /// What is wrong.
        reason: &'static str,
    },
    /// The notifier the client gave makes its writer block.
    #[error("notifier of used buffers: {0}")]
    Call(Errno),
}

impl HasErrno for RingError {
    fn errno(&self) -> Errno {
        match self {
            Self::Access { error, .. } => error.errno(),
            Self::Call(errno) => *errno,
            _ => Errno::EINVAL,
        }
    }
}

/// Why a burst on a queue ended early. The queue it belongs to has taken note already; whoever gets one only has to
/// leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// The queue.
    pub queue: u16,
    /// The reason.
    pub cause: Cause,
}

/// Why work on a queue stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Memory is not mapped yet; the queue waits, without having consumed the chain, for a newer version of the table.
    Pending,
    /// The driver broke the rules; the device stops.
    Fault(RingError),
    /// The queue waits already, or its device stopped.
    Idle,
}

impl Cause {
    pub(crate) fn access(part: Part, error: AccessError) -> Self {
        match error {
            AccessError::Pending { .. } => Self::Pending,
            error => Self::Fault(RingError::Access { part, error }),
        }
    }
}

impl From<RingError> for Cause {
    fn from(error: RingError) -> Self {
        Self::Fault(error)
    }
}
