//! The system calls that the checks try and that no library wraps safely.
#![allow(unsafe_code)]
// UNSAFETY: ioctls and raw system calls with arguments of our own; each is harmless when it succeeds.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `struct fuse_backing_map` of linux/fuse.h.
#[repr(C)]
struct FuseBackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// `struct procmap_query` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

/// PROCMAP_QUERY_COVERING_OR_NEXT_VMA.
const COVERING_OR_NEXT_VMA: u64 = 0x10;
/// KCMP_VM.
const KCMP_VM: libc::c_int = 1;

nix::ioctl_write_ptr!(fuse_dev_ioc_backing_open, 229, 1, FuseBackingMap);
nix::ioctl_readwrite!(procmap_query, b'f', 17, ProcmapQuery);

/// Asks a `/dev/fuse` that serves no mount for a backing file. A kernel that knows the ioctl says EPERM (not mounted) or EOPNOTSUPP (built without
/// FUSE_PASSTHROUGH), one that does not ENOTTY.
pub(super) fn fuse_backing_open(dev_fuse: BorrowedFd<'_>) -> Result<(), Errno> {
    let map = FuseBackingMap { fd: -1, flags: 0, padding: 0 };
    // SAFETY: `map` is a live `struct fuse_backing_map`; its descriptor is invalid, so nothing can be registered.
    unsafe { fuse_dev_ioc_backing_open(dev_fuse.as_raw_fd(), &raw const map) }.map(drop)
}

/// Asks a `/proc/<pid>/maps` for its first mapping.
pub(super) fn first_mapping(maps: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut query = ProcmapQuery {
        size: u64::try_from(size_of::<ProcmapQuery>()).unwrap_or_default(),
        query_flags: COVERING_OR_NEXT_VMA,
        ..ProcmapQuery::default()
    };
    // SAFETY: `query` is a live `struct procmap_query` that names its own size and asks for neither name nor build id, so nothing else is written.
    unsafe { procmap_query(maps.as_raw_fd(), &raw mut query) }.map(drop)
}

/// Compares the address spaces of two processes: whether they are one.
pub(super) fn same_address_space(one: i32, other: i32) -> Result<bool, Errno> {
    // SAFETY: kcmp takes numbers alone and changes nothing.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) };
    Errno::result(order).map(|order| order == 0)
}

/// Makes a userfaultfd, unregistered, and closes it.
pub(super) fn userfaultfd() -> Result<(), Errno> {
    // SAFETY: no range is registered with the descriptor, so no fault of ours ever depends on it.
    unsafe { rustix::mm::userfaultfd(rustix::mm::UserfaultfdFlags::CLOEXEC) }
        .map(drop)
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}
