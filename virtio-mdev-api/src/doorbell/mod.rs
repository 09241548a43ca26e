//! Doorbells in memory: a driver rings by a store to a page it has mapped.
//!
//! A store wakes nobody, so who has such a doorbell looks at it. What it says is only "look at the ring": how much there is
//! to do, the ring says.

mod word;

mod sync {
    pub use std::sync::atomic::{AtomicU32, Ordering};
}

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// Bytes of a doorbell: each has a page of its own, as virtio transports lay them out for whoever maps them.
pub const DOORBELL_SIZE: u32 = 4096;

/// The doorbells of a client, one for each queue, in the order of the queues.
///
/// The memory is sealed: who maps it can write to it, and do nothing else to it. A client that kept a mapping of doorbells
/// which are no longer its own rings nobody; the next client has others.
pub struct Doorbells {
    file: Arc<File>,
    memory: MmapRegion,
    queues: usize,
}

impl Doorbells {
    /// For so many queues; none is rung.
    pub fn new(queues: usize) -> Result<Arc<Self>, Errno> {
        let size = queues.checked_mul(usize::try_from(DOORBELL_SIZE).unwrap_or(usize::MAX)).ok_or(Errno::ENOMEM)?;
        let file = File::from(memfd_create(c"umdev-doorbells", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        file.set_len(u64::try_from(size).map_err(|_| Errno::ENOMEM)?).map_err(|error| errno(&error))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let file = Arc::new(file);
        let memory =
            MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), 0), size).map_err(|_| Errno::ENOMEM)?;
        let doorbells = Arc::new(Self { file, memory, queues });
        for doorbell in (0..queues).filter_map(|queue| doorbells.of_queue(queue)) {
            // New memory is zeros.
            doorbell.take();
        }
        Ok(doorbells)
    }

    /// What a client maps: the doorbell of queue n at n times [`DOORBELL_SIZE`].
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The doorbell of a queue.
    pub fn of_queue(self: &Arc<Self>, queue: usize) -> Option<Doorbell> {
        (queue < self.queues).then(|| Doorbell { doorbells: Arc::clone(self), queue })
    }
}

impl fmt::Debug for Doorbells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbells").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// The doorbell of one queue. It is rung by a store of any width to its first bytes, of anything but ones alone; a driver
/// stores the number of its queue.
#[derive(Debug, Clone)]
pub struct Doorbell {
    doorbells: Arc<Doorbells>,
    queue: usize,
}

impl Doorbell {
    /// Whether it was rung since it was last taken. One load.
    #[inline]
    pub fn is_rung(&self) -> bool {
        word::is_rung(self.word())
    }

    /// Whether it was rung; it is not rung any more. Look at the ring after this: all that was made available before the
    /// driver rang is there.
    pub fn take(&self) -> bool {
        word::take(self.word())
    }

    fn word(&self) -> &AtomicU32 {
        let offset = self.queue * usize::try_from(DOORBELL_SIZE).unwrap_or(0);
        self.doorbells.memory.get_atomic_ref(offset).expect("a page of the memory")
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn ring(doorbells: &Doorbells, at: u64, bytes: &[u8]) {
        doorbells.file().write_all_at(bytes, at).unwrap();
    }

    #[test]
    fn a_store_of_any_width_rings_its_queue_alone() {
        let doorbells = Doorbells::new(3).unwrap();
        let [first, second, third] = [0, 1, 2].map(|queue| doorbells.of_queue(queue).unwrap());
        for width in [1, 2, 4, 8] {
            for number in [0u64, 1] {
                ring(&doorbells, 4096, &number.to_le_bytes()[..width]);
                assert!(second.is_rung(), "{width} bytes of {number}");
                assert!(second.take() && !second.take());
                assert!(!first.take() && !third.take());
            }
        }
        assert!(doorbells.of_queue(3).is_none());
    }

    #[test]
    fn m4_nobody_changes_the_size_of_doorbells() {
        let doorbells = Doorbells::new(2).unwrap();
        for len in [0, 4096, 1 << 20] {
            assert!(doorbells.file().set_len(len).is_err(), "{len}");
        }
        let more = fcntl(&**doorbells.file(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE));
        assert_eq!(more, Err(Errno::EPERM));
    }
}
