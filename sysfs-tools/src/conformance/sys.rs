//! ioctl, and memory that a device shares.

#![allow(unsafe_code)]
// UNSAFETY: an ioctl takes an address, and memory that a device writes to cannot be a Rust slice.

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// An ioctl whose argument is `argument`. Panics when that is shorter than the number of the call says.
pub fn ioctl(fd: impl AsFd, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
    let size = usize::try_from(cmd >> 16 & 0x3fff).unwrap_or(usize::MAX);
    assert!(argument.len() >= size, "the argument of {cmd:#x} has {size} bytes");
    let address = argument.as_mut_ptr();
    // SAFETY: the argument is as long as the call may take it to be; flexible ones say their length themselves.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(cmd), address) }).map(drop)
}

/// An ioctl whose argument is at an address where nothing is.
pub fn ioctl_nowhere(fd: impl AsFd, cmd: u32) -> nix::Result<()> {
    // SAFETY: the first page is mapped in no program; the call can only find that out.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(cmd), 16usize) }).map(drop)
}

/// Does `work` in a child, which is a process of its own with a copy of this one's memory and the same open files.
///
/// `work` must be system calls alone: a lock that another thread holds is never let go in the child.
pub fn in_child(work: impl FnOnce() -> nix::Result<()>) -> nix::Result<()> {
    // SAFETY: the child makes the calls of `work` and leaves, and neither allocates nor unwinds.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let code = work().err().map_or(0, |errno| errno as i32);
            // SAFETY: leaving is always allowed.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, code) => Err(Errno::from_raw(code)),
            _ => Err(Errno::ECHILD),
        },
    }
}

/// A copy of this process, killed when dropped.
pub struct Child {
    pid: Pid,
}

impl Child {
    /// Does `work` in a copy of this process, which must have one thread: a lock that another thread holds is never let
    /// go in the child.
    pub fn new(work: impl FnOnce()) -> nix::Result<Self> {
        // SAFETY: this process has one thread, so the child can do all that it can.
        match unsafe { fork() }? {
            ForkResult::Child => {
                // Nobody listens any more when the parent is gone.
                let _ = set_pdeathsig(Signal::SIGKILL);
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                // SAFETY: leaving is always allowed; what the parent has to flush or to remove stays the parent's.
                unsafe { libc::_exit(i32::from(done.is_err())) }
            }
            ForkResult::Parent { child } => Ok(Self { pid: child }),
        }
    }
}

impl Drop for Child {
    /// Waits for its end, though not for ever: a call that a device keeps is ended by no signal.
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        for _ in 0..100 {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
    }
}

/// Memory that costs nothing before it is written to, however much it is.
pub struct Room {
    base: NonNull<c_void>,
    len: NonZeroUsize,
}

impl Room {
    /// `len` zeros.
    pub fn new(len: NonZeroUsize) -> nix::Result<Self> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        Ok(Self { base, len })
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long, and nobody else has it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.len.get()) }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this long, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.len.get()) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: slices of it have ended.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}

/// Shared memory of a file without a name, mapped until dropped.
pub struct Shared {
    base: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping is the value's own, and its bytes are only ever copied or accessed atomically.
unsafe impl Send for Shared {}
// SAFETY: the same.
unsafe impl Sync for Shared {}

impl Shared {
    /// `len` zeros.
    pub fn new(len: NonZeroUsize) -> nix::Result<Self> {
        let file = memfd_create(c"umdev-conformance", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&file, i64::try_from(len.get()).map_err(|_| Errno::EFBIG)?)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Self { base, len })
    }

    /// Where it is mapped.
    pub fn address(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        self.len.get() as u64
    }

    /// The same, for offsets.
    pub fn bytes(&self) -> usize {
        self.len.get()
    }

    /// All of it.
    pub fn copy(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len.get()];
        self.read(0, &mut bytes);
        bytes
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len.get()), "{len} bytes at {offset:#x}");
        // SAFETY: within the mapping.
        unsafe { self.base.as_ptr().cast::<u8>().add(offset) }
    }

    /// Copies out.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: within the mapping; bytes that change meanwhile are only bytes.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copies in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    fn index(&self, offset: usize) -> &AtomicU16 {
        let at = self.at(offset, 2).cast::<u16>();
        assert!(at.is_aligned(), "{offset:#x} is odd");
        // SAFETY: aligned, within the mapping, and accessed atomically while it is shared.
        unsafe { AtomicU16::from_ptr(at) }
    }

    /// Reads an index of a ring.
    pub fn load(&self, offset: usize) -> u16 {
        u16::from_le(self.index(offset).load(Ordering::SeqCst))
    }

    /// Publishes an index of a ring: what was written before it is seen before it.
    pub fn store(&self, offset: usize, value: u16) {
        self.index(offset).store(value.to_le(), Ordering::SeqCst);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: nobody has an address into the mapping any more.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}
