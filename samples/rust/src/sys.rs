//! System calls: files, ioctls, and memory that is shared with a device.

#![allow(unsafe_code)]
// UNSAFETY: ioctls take addresses, and memory that a device writes to cannot be a Rust reference.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use zerocopy::{FromBytes, IntoBytes};

/// Opens a file for reading and writing.
pub fn open(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| Error::Call {
        what: format!("open {}", path.display()),
        errno: error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw),
    })
}

/// An ioctl whose argument is a structure, read or written or both.
pub fn ioctl<T: FromBytes + IntoBytes>(file: &File, name: &str, command: u32, argument: &mut T) -> Result<i32> {
    let (fd, command) = (file.as_raw_fd(), libc::c_ulong::from(command));
    // SAFETY: the argument is the structure that belongs to the command, and any bytes make a valid one.
    Errno::result(unsafe { libc::ioctl(fd, command, std::ptr::from_mut(argument)) }).map_err(Error::call(name))
}

/// An ioctl whose argument is a number, or nothing.
pub fn ioctl_value(file: &File, name: &str, command: u32, value: libc::c_ulong) -> Result<i32> {
    let (fd, command) = (file.as_raw_fd(), libc::c_ulong::from(command));
    // SAFETY: no address is passed.
    Errno::result(unsafe { libc::ioctl(fd, command, value) }).map_err(Error::call(name))
}

/// Memory of a memfd, which the device can map and use in place. Private memory works as well, but every access of the
/// device then goes through this process.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<c_void>,
    len: NonZeroUsize,
}

impl Memory {
    /// `len` zeros.
    pub fn new(len: NonZeroUsize) -> Result<Self> {
        let file = File::from(memfd_create(c"driver", MFdFlags::MFD_CLOEXEC).map_err(Error::call("memfd_create"))?);
        let size = i64::try_from(len.get()).map_err(|_| Error::Wrong(format!("{len} bytes are no file")))?;
        nix::unistd::ftruncate(&file, size).map_err(Error::call("ftruncate"))?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, file.as_fd(), 0) };
        Ok(Self { base: base.map_err(Error::call("mmap"))?, len })
    }

    /// Where it is for this process.
    pub fn address(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    /// How long it is.
    pub fn size(&self) -> u64 {
        self.len.get() as u64
    }

    /// The place of `len` bytes at an offset, which have to be within.
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len.get()), "{len} bytes at {offset:#x}");
        // SAFETY: within the mapping.
        unsafe { self.base.as_ptr().cast::<u8>().add(offset) }
    }

    /// Copies a structure or bytes out. It is looked at only afterwards, as the device may change it meanwhile.
    pub fn read<T: FromBytes + IntoBytes + ?Sized>(&self, offset: usize, into: &mut T) {
        let into = into.as_mut_bytes();
        // SAFETY: both sides are that long, and memory of our own does not overlap the mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.at(offset, into.len()), into.as_mut_ptr(), into.len()) }
    }

    /// Copies a structure or bytes in.
    pub fn write<T: IntoBytes + zerocopy::Immutable + ?Sized>(&self, offset: usize, from: &T) {
        let from = from.as_bytes();
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.at(offset, from.len()), from.len()) }
    }

    fn index(&self, offset: usize) -> &AtomicU16 {
        let at = self.at(offset, 2).cast::<u16>();
        assert!(at.is_aligned(), "{offset:#x}");
        // SAFETY: aligned, within the mapping, and both sides access indices atomically.
        unsafe { AtomicU16::from_ptr(at) }
    }

    /// Reads a ring's index: what the other side wrote before it is seen after.
    pub fn observe(&self, offset: usize) -> u16 {
        u16::from_le(self.index(offset).load(Ordering::Acquire))
    }

    /// Writes a ring's index: whoever sees it sees what was written before.
    pub fn publish(&self, offset: usize, value: u16) {
        self.index(offset).store(value.to_le(), Ordering::Release);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: nothing of this process points into the mapping any more. The device has a mapping of its own.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}
