//! From an address range of a client to pieces a device can reach.

use super::window::View;
use super::{Maps, PAGE, Vma, Window};
use crate::caller::{Caller, Space};
use crate::memory::remote::Remote;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, FileType, MemfdFlags, StatxFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use virtio_mdev_api::dma::Backing;

/// What a device may do with mapped memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapAccess {
    /// Read it.
    pub read: bool,
    /// Write it.
    pub write: bool,
}

/// A stretch of a mapped range with one backing.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Length in bytes.
    pub len: u64,
    /// How it is reached.
    pub backing: Backing,
}

/// Windows are made of whole files' mappings up to this size, so that many small maps of one file share one.
const WHOLE: u64 = 1 << 40;

/// See [`Caller::map`].
pub(crate) fn map(caller: &Caller, addr: u64, len: u64, access: MapAccess) -> Result<Vec<Piece>, Errno> {
    let end = addr.checked_add(len).filter(|_| len != 0).ok_or(Errno::EINVAL)?;
    let space = caller.space()?;
    let maps = Maps::open(caller.tid())?;
    caller.still_there()?;
    let vmas = maps.overlapping(addr..end)?;
    if vmas.is_empty() {
        return Err(Errno::EFAULT);
    }
    // Private memory that the caller cannot write is kept apart from what it can.
    let read_only = vmas.iter().filter(|vma| !vma.write).map(|vma| (vma.start, vma.end)).collect();
    let mut pieces = Pieces { space: space.clone(), at: addr, pieces: Vec::new(), read_only };
    for run in runs(&vmas, access) {
        let (from, to) = (run.start.max(addr), run.end.min(end));
        if let Some(window) = window(caller, &space, &maps, &run, from..to, access) {
            pieces.remote_until(from);
            let offset = run.offset + (from - run.start) - window.view.offset;
            pieces.shared(window, offset, to);
        }
    }
    pieces.remote_until(end);
    caller.still_there()?;
    Ok(pieces.pieces)
}

/// Joins neighbours that show one file without a gap; only what can be shared with this access.
fn runs(vmas: &[Vma], access: MapAccess) -> Vec<Vma> {
    let mut runs: Vec<Vma> = Vec::new();
    for vma in vmas {
        if !vma.shared || vma.inode == 0 || !vma.read || (access.write && !vma.write) {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.continues_in(vma) => {
                last.end = vma.end;
                last.write &= vma.write;
            }
            _ => runs.push(*vma),
        }
    }
    runs
}

struct Pieces {
    space: Arc<Space>,
    at: u64,
    pieces: Vec<Piece>,
    /// Start and end of what the caller cannot write, in order.
    read_only: Vec<(u64, u64)>,
}

impl Pieces {
    fn shared(&mut self, window: Arc<Window>, offset: u64, to: u64) {
        let Ok(offset) = usize::try_from(offset) else { return };
        self.pieces.push(Piece { len: to - self.at, backing: Backing::Shared { memory: window, offset } });
        self.at = to;
    }

    fn remote_until(&mut self, to: u64) {
        while self.at < to {
            let (writable, end) = self.stretch();
            let end = end.min(to);
            let memory = Arc::new(Remote::new(self.space.clone(), writable));
            self.pieces.push(Piece { len: end - self.at, backing: Backing::Remote { memory, addr: self.at } });
            self.at = end;
        }
    }

    /// Whether the caller can write where we are, and how far that holds.
    fn stretch(&self) -> (bool, u64) {
        let next = self.read_only.partition_point(|&(_, end)| end <= self.at);
        match self.read_only.get(next) {
            Some(&(start, end)) if start <= self.at => (false, end),
            Some(&(start, _)) => (true, start),
            None => (true, u64::MAX),
        }
    }
}

/// A window that shows `range` of `run`, or None where the memory counts as private: for whatever reason, the caller's
/// own `mem` file still gives exactly what the caller itself could reach.
fn window(
    caller: &Caller,
    space: &Arc<Space>,
    maps: &Maps,
    run: &Vma,
    range: std::ops::Range<u64>,
    access: MapAccess,
) -> Option<Arc<Window>> {
    let pages = (range.start - range.start % PAGE)..range.end.next_multiple_of(PAGE);
    let shown = if run.end - run.start <= WHOLE { run.start..run.end } else { pages.clone() };
    let view = |range: &std::ops::Range<u64>| View {
        dev: run.dev,
        inode: run.inode,
        offset: run.offset + (range.start - run.start),
        len: range.end - range.start,
        // Read-only for the caller is read-only for us, whatever the file's own mode would let us do.
        write: access.write && run.write,
    };
    let open = || open_shared(caller, maps, run, access).ok_or(Errno::ENOENT);
    match known_or_new(caller, space, &view(&pages), view(&shown), open) {
        Ok(window) => Some(window),
        Err(Errno::ENOENT) => None,
        Err(Errno::ENOSPC) => {
            tracing::warn!(uid = caller.uid(), "at its limit of shared mappings: reached through the client, slowly");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "shared memory cannot be mapped: reached through the client, slowly");
            None
        }
    }
}

/// A window of the address space that shows `wanted`; where there is none, a new one that shows `shown` of the file that
/// `open` gives with the size of its pages. ENOSPC: the user has as many as there may be.
fn known_or_new(
    caller: &Caller,
    space: &Arc<Space>,
    wanted: &View,
    shown: View,
    open: impl FnOnce() -> Result<(OwnedFd, u64), Errno>,
) -> Result<Arc<Window>, Errno> {
    let mut windows = space.windows.lock();
    windows.retain(|window| window.strong_count() != 0);
    let mut known = windows.iter().filter_map(std::sync::Weak::upgrade);
    if let Some(window) = known.find(|window| window.view.covers(wanted) && window.is_whole()) {
        return Ok(window);
    }
    let (file, page) = open()?;
    let share = caller.host().quotas.window(caller.uid(), shown.len).ok_or(Errno::ENOSPC)?;
    let window = Arc::new(Window::new(space.clone(), file, shown, page, share)?);
    windows.push(Arc::downgrade(&window));
    Ok(window)
}

/// See [`Caller::map_file`].
pub(crate) fn map_file(caller: &Caller, fd: i32, start: u64, len: u64, access: MapAccess) -> Result<Piece, Errno> {
    let end = start.checked_add(len).filter(|_| len != 0 && start.is_multiple_of(PAGE)).ok_or(Errno::EINVAL)?;
    let file = caller.fd(fd)?;
    // As mmap, and whatever another descriptor of the caller may do: a window of that one may be known.
    let mode = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    if mode != OFlag::O_RDWR && (access.write || mode != OFlag::O_RDONLY) {
        return Err(Errno::EACCES);
    }
    let (dev, inode, page, size) = memory_file(file.as_fd()).ok_or(Errno::EINVAL)?;
    if end > size {
        return Err(Errno::EINVAL);
    }
    let space = caller.space()?;
    let view = |offset, len| View { dev, inode, offset, len, write: access.write };
    let whole = size.next_multiple_of(page);
    let shown = if whole <= WHOLE { view(0, whole) } else { view(start, len.next_multiple_of(PAGE)) };
    let window = known_or_new(caller, &space, &view(start, len), shown, || Ok((file, page)))?;
    let offset = usize::try_from(start - window.view.offset).map_err(|_| Errno::EOVERFLOW)?;
    Ok(Piece { len, backing: Backing::Shared { memory: window, offset } })
}

/// Opens the file behind a mapping with just the access the mapping has, and the size of its pages.
///
/// The link in `map_files` lends our own rights to whoever mapped the file, so nothing is taken from it but memory
/// files, and the map is read again after the open: only when the very same file is still mapped there, shared and
/// with that access, did the caller have what it gives.
fn open_shared(caller: &Caller, maps: &Maps, run: &Vma, access: MapAccess) -> Option<(OwnedFd, u64)> {
    let first = maps.overlapping(run.start..run.start + 1).ok()?.into_iter().next()?;
    let link = format!("/proc/{}/map_files/{:x}-{:x}", caller.tid(), first.start, first.end);
    let path = open(link.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let (dev, inode, page, _) = memory_file(path.as_fd())?;
    if (dev, inode) != (run.dev, run.inode) {
        return None;
    }
    let mode = if access.write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    // O_NONBLOCK: the client may hold a lease on its file, and would make us wait for it.
    let flags = mode | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = open(format!("/proc/self/fd/{}", path.as_raw_fd()).as_str(), flags, Mode::empty()).ok()?;
    let now = runs(&maps.overlapping(run.start..run.end).ok()?, access);
    let same = now.iter().any(|now| {
        now.start <= run.start
            && now.end >= run.end
            && (now.dev, now.inode, now.offset + (run.start - now.start)) == (run.dev, run.inode, run.offset)
            && (now.write || !access.write)
    });
    (same && caller.still_there().is_ok()).then_some((file, page))
}

/// Device, inode, page size and size of a regular file on tmpfs or hugetlbfs; None for anything else.
///
/// Asks no file system, because a FUSE server would not need to answer: a memory file is known by its device number.
fn memory_file(file: BorrowedFd<'_>) -> Option<((u32, u32), u64, u64, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(file, c"", flags, StatxFlags::empty()).ok()?;
    if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::RegularFile {
        return None;
    }
    let dev = (stat.stx_dev_major, stat.stx_dev_minor);
    let known = internal_mounts().iter().find(|(known, _)| *known == dev).map(|(_, page)| *page);
    Some((dev, stat.stx_ino, known.or_else(|| mounted_tmpfs(dev))?, stat.stx_size))
}

/// Device numbers and page sizes of the kernel's own mounts behind memfds and shared anonymous memory.
fn internal_mounts() -> &'static [((u32, u32), u64)] {
    static MOUNTS: OnceLock<Vec<((u32, u32), u64)>> = OnceLock::new();
    MOUNTS.get_or_init(|| {
        let huge = |flag| MemfdFlags::HUGETLB | flag;
        [(MemfdFlags::empty(), PAGE), (huge(MemfdFlags::HUGE_2MB), 2 << 20), (huge(MemfdFlags::HUGE_1GB), 1 << 30)]
            .into_iter()
            .filter_map(|(flags, page)| {
                let file = rustix::fs::memfd_create(c"probe", flags | MemfdFlags::CLOEXEC).ok()?;
                let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::empty()).ok()?;
                Some(((stat.stx_dev_major, stat.stx_dev_minor), page))
            })
            .collect()
    })
}

/// The page size of the tmpfs or hugetlbfs with device number `dev`, where one is mounted (`/dev/shm`).
fn mounted_tmpfs(dev: (u32, u32)) -> Option<u64> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let number = format!("{}:{}", dev.0, dev.1);
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if left.split(' ').nth(2)? != number {
            return None;
        }
        let mut right = right.split(' ');
        match right.next()? {
            "tmpfs" => Some(PAGE),
            "hugetlbfs" => Some(huge_page(right.nth(1)?)),
            _ => None,
        }
    })
}

/// The page size among the options of a hugetlbfs mount.
fn huge_page(options: &str) -> u64 {
    match options.split(',').find_map(|option| option.strip_prefix("pagesize=")) {
        Some("1024M" | "1G") => 1 << 30,
        _ => 2 << 20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: MapAccess = MapAccess { read: true, write: true };

    fn vma(start: u64, end: u64, offset: u64, inode: u64) -> Vma {
        Vma { start, end, read: true, write: true, shared: true, offset, dev: (0, 1), inode }
    }

    #[test]
    fn u2_neighbours_of_one_file_become_one_run() {
        let vmas = [vma(0, 10, 0, 5), vma(10, 20, 10, 5), vma(20, 30, 40, 5), vma(30, 40, 50, 6)];
        let runs: Vec<_> = runs(&vmas, RW).iter().map(|run| (run.start, run.end)).collect();
        assert_eq!(runs, [(0, 20), (20, 30), (30, 40)]);
    }

    #[test]
    fn m1_private_and_read_only_mappings_are_no_shared_memory() {
        let mut private = vma(0, 10, 0, 5);
        private.shared = false;
        let mut read_only = vma(10, 20, 10, 5);
        read_only.write = false;
        assert!(runs(&[private, read_only], RW).is_empty());
        assert_eq!(runs(&[private, read_only], MapAccess { read: true, write: false }).len(), 1);
    }
}
