//! What can go wrong between a front end and an instance.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::memory;

/// A refused request. Those caused by the peer end its connection; those of the instance too, and the caller then asks whether it is still there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The instance's file, container or group refused a call.
    #[error("{call}: {errno}")]
    Call {
        /// The ioctl, as the headers spell it.
        call: &'static str,
        /// What it answered.
        errno: Errno,
    },
    /// A file of the tree could not be opened or read.
    #[error("{path}: {errno}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// What the tree holds is no virtio-net instance that this program can serve.
    #[error("{0}")]
    Unsuitable(String),
    /// A memory table that cannot be taken.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// A file descriptor that cannot back guest memory.
    #[error("memory fd: {0}")]
    MemoryFile(String),
    /// A ring the device does not have.
    #[error("no ring {0}")]
    NoRing(u32),
    /// A ring size beyond the specification's 1..=32768.
    #[error("ring {ring}: size {size} is not in 1..=32768")]
    RingSize {
        /// Ring index.
        ring: u32,
        /// What was asked for.
        size: u32,
    },
    /// A request that needs a stopped ring.
    #[error("ring {ring}: {request} while it runs")]
    RingRuns {
        /// Ring index.
        ring: u32,
        /// The vhost-user request.
        request: &'static str,
    },
    /// Ring memory outside the memory table.
    #[error("ring {ring}: {part} at {uaddr:#x}, {len} bytes, is not in the memory table")]
    RingAddress {
        /// Ring index.
        ring: u32,
        /// Which area.
        part: &'static str,
        /// The front end's address.
        uaddr: u64,
        /// Bytes it needs.
        len: u64,
    },
    /// SET_VRING_ADDR with flags: dirty logging, which is not offered.
    #[error("ring {ring}: address flags {flags:#x} are not supported")]
    RingFlags {
        /// Ring index.
        ring: u32,
        /// As sent.
        flags: u32,
    },
    /// Feature bits that were not offered.
    #[error("features {0:#x} were not offered")]
    Features(u64),
    /// Other features for a running device.
    #[error("features changed while the rings run")]
    FeaturesWhileRunning,
    /// The holder of the instance was asked to let go of it.
    #[error("it is about to be removed, and its holder was asked to let go")]
    RemovalRequested,
    /// A call of the shim's own sockets and threads.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A request to the instance takes longer than any should.
    #[error("the instance does not answer")]
    NoAnswer,
    /// The instance took the features back: FEATURES_OK did not stay.
    #[error("the instance refuses the features {0:#x}")]
    FeaturesRefused(u64),
}

impl Error {
    /// Whether this is how an instance answers that is no longer there, or whose daemon is not; or that must be let go.
    pub fn is_gone(&self) -> bool {
        let errno = match self {
            Self::Call { errno, .. } => *errno,
            Self::File { errno, .. } => return *errno == Errno::ENOENT || gone(*errno),
            Self::RemovalRequested => return true,
            _ => return false,
        };
        gone(errno)
    }
}

/// ENODEV: the instance was removed. The others: the file system that served it is gone.
fn gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENODEV | Errno::EIO | Errno::ENOTCONN | Errno::ECONNABORTED)
}
