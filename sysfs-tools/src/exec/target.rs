//! The thread whose call waits: its descriptors and its memory.
//!
//! A thread may end at any time and leave its number to another. So whatever was found by number counts only when the call is found waiting
//! afterwards, and memory is reached through an open `/proc/<tid>/mem`, which stays that of the thread that called.

use super::listener::{Call, Listener};
use nix::errno::Errno;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system, by the number that is the same under all its mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(u32, u32);

impl Device {
    /// Where a path leads. Asks no file system, so that one that hangs makes nobody wait.
    pub fn of_path(path: &Path) -> Option<Self> {
        Self::of(CWD, path, AtFlags::STATX_DONT_SYNC)
    }

    fn of_file(file: BorrowedFd<'_>) -> Option<Self> {
        Self::of(file, Path::new(""), AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH)
    }

    fn of(at: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> Option<Self> {
        let found = statx(at, path, flags, StatxFlags::empty()).ok()?;
        Some(Self(found.stx_dev_major, found.stx_dev_minor))
    }
}

/// Whose call it is.
#[derive(Debug)]
pub struct Target<'a> {
    listener: &'a Listener,
    call: &'a Call,
}

impl<'a> Target<'a> {
    pub fn of(listener: &'a Listener, call: &'a Call) -> Self {
        Self { listener, call }
    }

    /// Whether the descriptor that the call names is a file of `device`. It is not taken for that: closing what is somebody else's may block.
    pub fn calls_file_of(&self, device: Device) -> bool {
        let link = format!("/proc/{}/fd/{}", self.call.thread, self.call.fd);
        Device::of_path(Path::new(&link)) == Some(device) && self.listener.is_waiting(self.call)
    }

    /// The descriptor that the call names, if it is a file of `device` still.
    pub fn take(&self, device: Device) -> Result<OwnedFd, Errno> {
        let pidfd = self.pidfd().ok_or(Errno::ESRCH)?;
        if !self.listener.is_waiting(self.call) {
            return Err(Errno::ESRCH);
        }
        let fd = pidfd_getfd(&pidfd, self.call.fd, PidfdGetfdFlags::empty())
            .map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        if Device::of_file(fd.as_fd()) == Some(device) { Ok(fd) } else { Err(Errno::EBADF) }
    }

    /// Linux 6.9 names any thread; before, the leader of the process stands for it.
    fn pidfd(&self) -> Option<OwnedFd> {
        let thread = i32::try_from(self.call.thread).ok().and_then(Pid::from_raw)?;
        // PIDFD_THREAD of linux/pidfd.h is O_EXCL.
        let any_thread = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
        pidfd_open(thread, any_thread).ok().or_else(|| pidfd_open(self.leader()?, PidfdFlags::empty()).ok())
    }

    fn leader(&self) -> Option<Pid> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.call.thread)).ok()?;
        let leader = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        Pid::from_raw(leader.trim().parse().ok()?)
    }

    /// The memory of the caller.
    pub fn memory(&self) -> Result<Memory, Errno> {
        let path = format!("/proc/{}/mem", self.call.thread);
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|error| crate::error::errno_of(&error))?;
        if self.listener.is_waiting(self.call) { Ok(Memory(file)) } else { Err(Errno::ESRCH) }
    }
}

/// The memory of a process, whatever becomes of its number.
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// As much as there is at `address`, at most `into`; EFAULT when there is nothing.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        match self.0.read_at(into, address) {
            Ok(0) | Err(_) => Err(Errno::EFAULT),
            Ok(read) => Ok(read),
        }
    }

    /// All of `bytes`, or EFAULT.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.0.write_all_at(bytes, address).map_err(|_| Errno::EFAULT)
    }
}
