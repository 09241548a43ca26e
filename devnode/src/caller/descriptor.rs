//! Files the caller names by number.
//!
//! Taking a descriptor makes us a holder of the file, and closing a file may block for ever when its server wants that.
//! So the link of the descriptor is looked at before it is taken, and again after; what turns out to be something else
//! was swapped in between and goes to the reaper.

use super::Caller;
use super::space::process_of;
use crate::OpenFile;
use crate::quota::is_path_only;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::process::PidfdGetfdFlags;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

const EVENTFD: &str = "anon_inode:[eventfd]";

pub(super) fn eventfd(caller: &Caller, fd: i32) -> Result<OwnedFd, Errno> {
    if link(caller, fd)? != EVENTFD {
        return Err(if is_path_only_in(caller, fd) { Errno::EBADF } else { Errno::EINVAL });
    }
    let grabbed = grab(caller, fd)?;
    let now = std::fs::read_link(format!("/proc/self/fd/{}", grabbed.as_raw_fd()));
    if !now.is_ok_and(|now| now.as_os_str() == EVENTFD) {
        caller.host().reaper.close(grabbed);
        return Err(Errno::EINVAL);
    }
    if is_path_only(grabbed.as_fd())? {
        return Err(Errno::EBADF);
    }
    caller.host().quotas.grabbed(caller.uid(), grabbed.as_fd());
    Ok(grabbed)
}

pub(super) fn any(caller: &Caller, fd: i32) -> Result<OwnedFd, Errno> {
    let link = link(caller, fd)?;
    if is_path_only_in(caller, fd) {
        return Err(Errno::EBADF);
    }
    let before = Identity::of_path(&format!("/proc/{}/fd/{fd}", caller.tid()))?;
    caller.still_there()?;
    if caller.host().is_own(before.dev) || !before.may_be_held(&link) {
        return Err(Errno::EINVAL);
    }
    let grabbed = grab_unchanged(caller, fd, &before)?;
    // Regular files only of memory: asking for seals is answered by memory files, and asks no file system.
    if before.kind == FileType::RegularFile && fcntl(&grabbed, FcntlArg::F_GET_SEALS).is_err() {
        caller.host().reaper.close(grabbed);
        return Err(Errno::EINVAL);
    }
    caller.host().quotas.grabbed(caller.uid(), grabbed.as_fd());
    Ok(grabbed)
}

pub(super) fn own(caller: &Caller, fd: i32) -> Result<Arc<dyn OpenFile>, Errno> {
    link(caller, fd)?;
    if is_path_only_in(caller, fd) {
        return Err(Errno::EBADF);
    }
    let before = Identity::of_path(&format!("/proc/{}/fd/{fd}", caller.tid()))?;
    if !caller.host().is_own(before.dev) || before.kind != FileType::RegularFile {
        return Err(Errno::EINVAL);
    }
    let grabbed = grab_unchanged(caller, fd, &before)?;
    // Our own mount answers this question to our own threads only, and at once; the descriptor is closed at once too:
    // one that we kept would hang us at exit.
    let asked = caller.host().asking(|| sys::who_is_this(grabbed.as_fd()));
    drop(grabbed);
    caller.host().handles.device(asked.map_err(|_| Errno::EINVAL)?).ok_or(Errno::EINVAL)
}

/// Takes the descriptor, if it is still what it was `before`.
fn grab_unchanged(caller: &Caller, fd: i32, before: &Identity) -> Result<OwnedFd, Errno> {
    let grabbed = grab(caller, fd)?;
    if Identity::of(grabbed.as_fd()).as_ref() != Ok(before) {
        caller.host().reaper.close(grabbed);
        return Err(Errno::EINVAL);
    }
    if is_path_only(grabbed.as_fd())? {
        return Err(Errno::EBADF);
    }
    Ok(grabbed)
}

/// What `/proc` says the descriptor is; EBADF when it is closed or negative.
fn link(caller: &Caller, fd: i32) -> Result<String, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    let link = std::fs::read_link(format!("/proc/{}/fd/{fd}", caller.tid()));
    caller.still_there()?;
    link.map(|link| link.to_string_lossy().into_owned()).map_err(|_| Errno::EBADF)
}

/// Whether the caller's descriptor is `O_PATH`, without taking it.
fn is_path_only_in(caller: &Caller, fd: i32) -> bool {
    let flags = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", caller.tid())).ok().and_then(|info| {
        info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok())
    });
    flags.is_some_and(|flags| flags & libc::O_PATH != 0)
}

fn grab(caller: &Caller, fd: i32) -> Result<OwnedFd, Errno> {
    caller.host().quotas.may_grab(caller.uid())?;
    let pidfd = match sys::pidfd_thread(caller.tid()) {
        Err(Errno::EINVAL) => of_the_leader(caller)?,
        result => result?,
    };
    caller.still_there()?;
    let grabbed = rustix::process::pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty())
        .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    if let Err(error) = caller.still_there() {
        caller.host().reaper.close(grabbed);
        return Err(error);
    }
    Ok(grabbed)
}

/// Before Linux 6.9 only a group's leader has a pidfd; its descriptors are the caller's when they share the table.
fn of_the_leader(caller: &Caller) -> Result<OwnedFd, Errno> {
    let leader = process_of(caller.tid()).ok_or(Errno::ESRCH)?;
    let pidfd = sys::pidfd_process(leader)?;
    if leader != caller.tid() && sys::kcmp(caller.tid(), leader, sys::KCMP_FILES) != Ok(true) {
        tracing::warn!(tid = caller.tid(), "a thread with descriptors of its own needs Linux 6.9");
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(pidfd)
}

/// Which file it is, asked without asking the file's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    dev: (u32, u32),
    ino: u64,
    kind: FileType,
}

impl Identity {
    fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        Self::stat(fd, c"", AtFlags::EMPTY_PATH)
    }

    fn of_path(path: &str) -> Result<Self, Errno> {
        Self::stat(rustix::fs::CWD, path, AtFlags::empty())
    }

    fn stat(fd: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: AtFlags) -> Result<Self, Errno> {
        let stat = rustix::fs::statx(fd, path, flags | AtFlags::STATX_DONT_SYNC, StatxFlags::empty())
            .map_err(|error| if error == rustix::io::Errno::NOENT { Errno::EBADF } else { Errno::EINVAL })?;
        Ok(Self {
            dev: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            kind: FileType::from_raw_mode(u32::from(stat.stx_mode)),
        })
    }

    /// Whether a close of such a file ends soon. No type at all has an anonymous inode, and a file of a FUSE mount
    /// that does not let us in.
    fn may_be_held(&self, link: &str) -> bool {
        match self.kind {
            FileType::Directory | FileType::Symlink | FileType::BlockDevice => false,
            FileType::Unknown => link.starts_with("anon_inode:"),
            _ => true,
        }
    }
}

/// The device number of the mount at `root`.
pub(crate) fn device_of(root: &std::path::Path) -> Result<(u32, u32), Errno> {
    let stat = rustix::fs::statx(rustix::fs::CWD, root, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())
        .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}
