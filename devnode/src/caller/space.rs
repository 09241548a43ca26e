//! An address space as an identity.
//!
//! A process number, or even a pidfd, is none: after an exec it means another program. An address space is pinned by
//! the `mem` file opened while its owner waited for us; that file reads nothing once the address space is dead. Whether
//! a caller lives in it is KCMP_VM with its process, and proof that this process has not executed another program
//! since: the auxiliary vector and the sixteen random bytes the kernel gives every new program image.

use super::{Caller, open_mem};
use crate::memory::{Window, read_exact_at};
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

/// An address space, pinned while any clone lives. See [`Caller::same_address_space`].
#[derive(Clone)]
pub struct AddressSpaceId(pub(crate) Arc<Space>);

impl AddressSpaceId {
    /// Whether both mean one address space.
    pub fn same(&self, other: &AddressSpaceId) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.is_alive()
                && other.0.is_alive()
                && sys::kcmp(self.0.pid, other.0.pid, sys::KCMP_VM) == Ok(true)
                && self.0.is_current()
                && other.0.is_current())
    }

    /// The process (thread group) that called when it was pinned: for log lines, not for decisions.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Whether the process still runs in this address space.
    pub fn is_alive(&self) -> bool {
        self.0.is_alive() && self.0.is_current()
    }
}

impl fmt::Debug for AddressSpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressSpaceId(process {})", self.0.pid)
    }
}

pub(crate) struct Space {
    pid: i32,
    process: OwnedFd,
    mem: File,
    image: Image,
    /// Windows onto this address space's shared files, shared among everything mapped from it.
    pub windows: Mutex<Vec<Weak<Window>>>,
    /// Held by a device that reads a byte and writes it back. A client that makes it wait holds up its own devices.
    pub bits: Mutex<()>,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// What the kernel made anew when the program image was loaded.
#[derive(PartialEq, Eq)]
struct Image {
    auxv: Vec<u8>,
    random: Option<[u8; 16]>,
}

impl Image {
    fn of(tid: i32) -> Option<Self> {
        /// `AT_RANDOM`: address of sixteen random bytes.
        const AT_RANDOM: u64 = 25;
        let auxv = std::fs::read(format!("/proc/{tid}/auxv")).ok()?;
        let address = auxv.as_chunks::<16>().0.iter().find_map(|pair| {
            let (words, _) = pair.as_chunks::<8>();
            (u64::from_ne_bytes(words[0]) == AT_RANDOM).then(|| u64::from_ne_bytes(words[1]))
        });
        let random = address.and_then(|address| {
            let mut bytes = [0; 16];
            read_exact_at(&open_mem(tid).ok()?, address, &mut bytes).ok()?;
            Some(bytes)
        });
        Some(Self { auxv, random })
    }
}

impl Space {
    fn pin(caller: &Caller, pid: i32) -> Result<Self, Errno> {
        let tid = caller.tid();
        let process = sys::pidfd_process(pid)?;
        let mem = open_mem(tid)?;
        let image = Image::of(tid).ok_or(Errno::EFAULT)?;
        // All of it was the caller's if the caller still waits now.
        caller.still_there()?;
        Ok(Self { pid, process, mem, image, windows: Mutex::default(), bits: Mutex::default() })
    }

    pub fn mem(&self) -> &File {
        &self.mem
    }

    /// Whether `caller` runs in this address space.
    pub fn is_of(&self, caller: &Caller) -> bool {
        self.is_alive()
            && shares_memory(caller.tid(), self.pid)
            && Image::of(caller.tid()).is_some_and(|image| image == self.image)
            // The number meant this process all the time, and the caller was waiting all the time.
            && !self.has_exited()
            && caller.still_there().is_ok()
    }

    /// Whether the process still runs the program image of then.
    fn is_current(&self) -> bool {
        Image::of(self.pid).is_some_and(|image| image == self.image) && !self.has_exited()
    }

    /// Whether the process lives and its address space of then has users.
    fn is_alive(&self) -> bool {
        let mut byte = [0];
        // A dead address space reads as empty; a live one gives bytes, or an error where nothing is mapped.
        let dead = std::os::unix::fs::FileExt::read_at(&self.mem, &mut byte, 0x1000).is_ok_and(|n| n == 0);
        !dead && !self.has_exited()
    }

    fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }
}

/// KCMP_VM, or where the kernel was built without kcmp: the same process.
fn shares_memory(tid: i32, pid: i32) -> bool {
    match sys::kcmp(tid, pid, sys::KCMP_VM) {
        Err(Errno::ENOSYS) => process_of(tid) == Some(pid),
        result => result == Ok(true),
    }
}

/// The thread group of a thread.
pub(super) fn process_of(tid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// The address spaces that are in use.
#[derive(Default)]
pub(crate) struct Spaces(Mutex<Vec<Weak<Space>>>);

impl Spaces {
    /// The caller's address space: the one already pinned, or pinned now.
    pub fn of(&self, caller: &Caller) -> Result<Arc<Space>, Errno> {
        let pid = process_of(caller.tid()).ok_or(Errno::EFAULT)?;
        caller.still_there()?;
        let known: Vec<Arc<Space>> = {
            let mut spaces = self.0.lock();
            spaces.retain(|space| space.strong_count() != 0);
            spaces.iter().filter_map(Weak::upgrade).filter(|space| space.pid == pid).collect()
        };
        // Not under the lock: looking at a caller may block.
        if let Some(space) = known.into_iter().find(|space| space.is_of(caller)) {
            return Ok(space);
        }
        let space = Arc::new(Space::pin(caller, pid)?);
        self.0.lock().push(Arc::downgrade(&space));
        Ok(space)
    }

    /// How many are pinned.
    pub fn len(&self) -> usize {
        self.0.lock().iter().filter(|space| space.strong_count() != 0).count()
    }
}
