//! What `mmap` of an open file shows: a sealed memfd that its owner declares.
//!
//! An mmap is no request, so nobody could be asked then. The kernel is told of the memfd before, and maps it alone:
//! offsets within it are its pages, anything beyond is a bus error in the client.

use crate::sys::{backing_close, backing_open};
use crate::tree::Node;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// What a client could change about the memfd, and must not: whoever maps it would fault.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A memfd that the kernel knows by a number, as long as files are open that it backs.
#[derive(Debug)]
pub(crate) struct Backing {
    fuse: Arc<OwnedFd>,
    memory: Arc<File>,
    pub number: i32,
}

impl Backing {
    fn register(fuse: &Arc<OwnedFd>, memory: &Arc<File>) -> Result<Self, Errno> {
        let seals = SealFlag::from_bits_retain(fcntl(&**memory, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SEALS) {
            return Err(Errno::EINVAL);
        }
        let number = backing_open(fuse.as_fd(), memory.as_fd())?;
        Ok(Self { fuse: Arc::clone(fuse), memory: Arc::clone(memory), number })
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Err(error) = backing_close(self.fuse.as_fd(), self.number) {
            // The mount is gone, and its numbers with it.
            tracing::debug!(%error, number = self.number, "a backing was not closed");
        }
    }
}

/// Whether the files of a server can have backings.
#[derive(Debug, Default)]
pub(crate) struct Backings {
    negotiated: AtomicBool,
    told: AtomicBool,
}

impl Backings {
    pub fn negotiated(&self) {
        self.negotiated.store(true, Ordering::Relaxed);
    }

    /// The backing of a file of `node` that is being opened. All files of a node that are open at a time have one, or the
    /// kernel refuses the open. None where the kernel has no such thing, or does not let us: then a map is ENODEV.
    pub fn find(&self, fuse: &Arc<OwnedFd>, node: &Node, memory: &Arc<File>) -> Option<Arc<Backing>> {
        if !self.negotiated.load(Ordering::Relaxed) {
            return None;
        }
        let mut last = node.backing.lock();
        if let Some(backing) = last.upgrade().filter(|backing| Arc::ptr_eq(&backing.memory, memory)) {
            return Some(backing);
        }
        match Backing::register(fuse, memory) {
            Ok(backing) => {
                let backing = Arc::new(backing);
                *last = Arc::downgrade(&backing);
                Some(backing)
            }
            Err(error) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "files cannot be mapped (CAP_SYS_ADMIN is needed)");
                }
                None
            }
        }
    }
}

/// The backing of the files of a node that are open, if they have one.
pub(crate) type LastBacking = Weak<Backing>;
