//! System calls that neither nix nor rustix offers.
#![allow(unsafe_code)]
// UNSAFETY: raw system calls; each passes only integers or a structure that outlives the call.

use crate::wire::abi::BackingMap;
use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Whether two threads share their address space, `KCMP_VM` of kcmp(2).
pub(crate) const KCMP_VM: i32 = 1;
/// Whether two threads share their descriptor table.
pub(crate) const KCMP_FILES: i32 = 2;

/// Whether `a` and `b` share the resource `kind`.
pub(crate) fn kcmp(a: i32, b: i32, kind: i32) -> Result<bool, Errno> {
    // SAFETY: kcmp takes integers only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, 0, 0) };
    Errno::result(order).map(|order| order == 0)
}

/// `PIDFD_THREAD` (Linux 6.9): the pidfd of a thread that need not lead its group.
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

/// A pidfd of a process.
pub(crate) fn pidfd_process(pid: i32) -> Result<OwnedFd, Errno> {
    pidfd(pid, PidfdFlags::empty())
}

/// A pidfd of a thread. EINVAL where the kernel has none.
pub(crate) fn pidfd_thread(tid: i32) -> Result<OwnedFd, Errno> {
    pidfd(tid, PidfdFlags::from_bits_retain(PIDFD_THREAD))
}

fn pidfd(pid: i32, flags: PidfdFlags) -> Result<OwnedFd, Errno> {
    let pid = Pid::from_raw(pid).ok_or(Errno::ESRCH)?;
    rustix::process::pidfd_open(pid, flags).map_err(|e| Errno::from_raw(e.raw_os_error()))
}

/// `struct procmap_query` of `linux/fs.h` (Linux 6.11).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct ProcmapQuery {
    pub size: u64,
    pub query_flags: u64,
    pub query_addr: u64,
    pub vma_start: u64,
    pub vma_end: u64,
    pub vma_flags: u64,
    pub vma_page_size: u64,
    pub vma_offset: u64,
    pub inode: u64,
    pub dev_major: u32,
    pub dev_minor: u32,
    pub vma_name_size: u32,
    pub build_id_size: u32,
    pub vma_name_addr: u64,
    pub build_id_addr: u64,
}

/// `PROCMAP_QUERY`.
const PROCMAP_QUERY: libc::c_ulong = 0xc068_6611;

/// Asks an open `/proc/<pid>/maps` for the mapping at, or the next after, `addr`. ENOENT: there is none. ENOTTY: the
/// kernel is older.
pub(crate) fn procmap_query(maps: BorrowedFd<'_>, addr: u64) -> Result<ProcmapQuery, Errno> {
    /// `PROCMAP_QUERY_COVERING_OR_NEXT_VMA`.
    const COVERING_OR_NEXT: u64 = 0x10;
    let mut query = ProcmapQuery {
        size: size_of::<ProcmapQuery>() as u64,
        query_flags: COVERING_OR_NEXT,
        query_addr: addr,
        ..Default::default()
    };
    // SAFETY: `query` is a whole `struct procmap_query` with no buffers named, and outlives the call.
    let result = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
    Errno::result(result).map(|_| query)
}

/// `_IOR('u', 0xf0, u64)`: which of our open files is this descriptor? Answered to our own threads only.
pub(crate) const WHO_IS_THIS: u32 = 0x8008_75f0;

/// Asks our own mount which open file `fd` is.
pub(crate) fn who_is_this(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut handle = 0u64;
    // SAFETY: the command's size is that of `handle`, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(WHO_IS_THIS), &raw mut handle) };
    Errno::result(result).map(|_| handle)
}

/// `FUSE_DEV_IOC_BACKING_OPEN`: gives a regular file a number by which an open can name it as its backing. EPERM: the
/// caller lacks CAP_SYS_ADMIN, or the mount was not asked for it. ENOTTY: the kernel is older than Linux 6.9.
pub(crate) fn backing_open(fuse: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<i32, Errno> {
    const BACKING_OPEN: libc::c_ulong = 0x4010_e501;
    let map = BackingMap { fd: file.as_raw_fd(), ..BackingMap::default() };
    // SAFETY: `map` is a whole `struct fuse_backing_map` and outlives the call.
    Errno::result(unsafe { libc::ioctl(fuse.as_raw_fd(), BACKING_OPEN, &raw const map) })
}

/// `FUSE_DEV_IOC_BACKING_CLOSE`: the number is free. Files that are open keep their backing.
pub(crate) fn backing_close(fuse: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    const BACKING_CLOSE: libc::c_ulong = 0x4004_e502;
    // SAFETY: the command's size is that of `number`, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fuse.as_raw_fd(), BACKING_CLOSE, &raw const number) }).map(drop)
}

/// Makes the descriptor number of `target` mean `source` from now on, for all threads that use that number.
pub(crate) fn replace(target: BorrowedFd<'_>, source: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both numbers are open; the number stays owned by whoever owned it, only its file changes.
    Errno::result(unsafe { libc::dup3(source.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) }).map(drop)
}
