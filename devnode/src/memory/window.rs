//! A window: a stretch of a client's shared file, mapped here.
#![allow(unsafe_code)]
// UNSAFETY: owns a mapping and hands out volatile slices of it.

use super::{PAGE, sigbus};
use crate::caller::Space;
use crate::quota::WindowShare;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use virtio_mdev_api::dma::SharedMemory;
use vm_memory::VolatileSlice;

/// What a window shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub dev: (u32, u32),
    pub inode: u64,
    pub offset: u64,
    pub len: u64,
    pub write: bool,
}

impl View {
    /// Whether everything `other` shows can be had from this one.
    pub fn covers(&self, other: &View) -> bool {
        (self.dev, self.inode) == (other.dev, other.inode)
            && (self.write || !other.write)
            && self.offset <= other.offset
            && other.offset + other.len <= self.offset + self.len
    }
}

/// A mapping of a client's file. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Window {
    pub view: View,
    start: NonNull<c_void>,
    len: usize,
    page: u64,
    slow: bool,
    file: OwnedFd,
    guard: Option<sigbus::Guard>,
    /// Some of its pages are no longer the client's.
    revoked: AtomicBool,
    _share: WindowShare,
    /// Whose memory it shows: kept, so that the next map of this address space finds its windows.
    _space: Arc<Space>,
}

// SAFETY: the mapping may be used from any thread; access goes through volatile slices.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps `view` of `file`, whose pages have `page` bytes.
    pub fn new(space: Arc<Space>, file: OwnedFd, view: View, page: u64, share: WindowShare) -> Result<Self, Errno> {
        let len = usize::try_from(view.len).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let offset = i64::try_from(view.offset).map_err(|_| Errno::EOVERFLOW)?;
        let mut prot = ProtFlags::PROT_READ;
        prot.set(ProtFlags::PROT_WRITE, view.write);
        // SAFETY: a new mapping at an address the kernel chooses.
        let start = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, &file, offset)? };
        let page_len = usize::try_from(page).map_err(|_| Errno::EINVAL)?;
        let guard = sigbus::Guard::new(start.as_ptr().expose_provenance(), len.get(), page_len);
        let window = Self {
            view,
            start,
            len: len.get(),
            page,
            slow: is_slow(&file),
            file,
            guard,
            revoked: AtomicBool::new(false),
            _share: share,
            _space: space,
        };
        if window.guard.is_some() { Ok(window) } else { Err(Errno::ENOSPC) }
    }

    /// Whether it still shows the client's memory everywhere. One that does not lives on with those who hold it, and is
    /// nothing to map anew.
    pub fn is_whole(&self) -> bool {
        !self.revoked.load(Ordering::Acquire) && !self.faulted()
    }
}

/// Whether the pages of a file come from elsewhere than memory. What cannot be asked may be anything.
fn is_slow(file: &OwnedFd) -> bool {
    let kind = fstatfs(file).map(|about| about.filesystem_type());
    !matches!(kind, Ok(TMPFS_MAGIC | HUGETLBFS_MAGIC))
}

impl Drop for Window {
    fn drop(&mut self) {
        // The table must forget the range before somebody else can be mapped there.
        self.guard = None;
        // SAFETY: the mapping is ours, whole, and the last user is gone.
        if let Err(error) = unsafe { munmap(self.start, self.len) } {
            tracing::error!(%error, "a window cannot be unmapped");
        }
    }
}

impl SharedMemory for Window {
    fn slice(&self) -> VolatileSlice<'_> {
        // SAFETY: the mapping lives as long as `self`, from which the slice borrows; a client's truncation is survived
        // by the SIGBUS guard.
        unsafe { VolatileSlice::new(self.start.as_ptr().cast(), self.len) }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn file_offset(&self) -> u64 {
        self.view.offset
    }

    fn faults(&self) -> &AtomicU32 {
        static NONE: AtomicU32 = AtomicU32::new(0);
        // There is a guard until the window is dropped.
        self.guard.as_ref().map_or(&NONE, sigbus::Guard::faults)
    }

    fn is_slow(&self) -> bool {
        self.slow
    }

    fn revoke(&self, offset: usize, len: usize) {
        let page = usize::try_from(self.page.max(PAGE)).unwrap_or(usize::MAX);
        let from = offset - offset % page;
        let to = offset.saturating_add(len).min(self.len).next_multiple_of(page).min(self.len);
        if from >= to {
            return;
        }
        self.revoked.store(true, Ordering::Release);
        // SAFETY: whole pages within our mapping, which stays mapped; users hold volatile slices only.
        if !unsafe { sigbus::replace(self.start.as_ptr().expose_provenance() + from, to - from) } {
            tracing::error!(from, to, "a window's pages cannot be revoked");
        }
    }
}
