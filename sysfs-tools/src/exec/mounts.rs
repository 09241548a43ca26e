//! Mounts by descriptor: what is shown is named before it is covered.

use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What is at `name` in `directory`, with all that is mounted in it, ready to be shown elsewhere.
pub fn copy(directory: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    let whole = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(directory, name, whole | OpenTreeFlags::AT_SYMLINK_NOFOLLOW).map_err(to_nix)
}

/// Shows it at `at`, over what is there.
pub fn show(copied: &OwnedFd, at: &Path) -> Result<(), Errno> {
    move_mount(copied, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(to_nix)
}

/// Covers a directory with an empty one; what it covers.
pub fn cover(at: &Path) -> Result<OwnedFd, Errno> {
    let real = openat(CWD, at, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(to_nix)?;
    let empty = || {
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(fs.as_fd(), "mode", "0755")?;
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)
    };
    show(&empty().map_err(to_nix)?, at)?;
    Ok(real)
}

/// Takes away what was shown last at `at`; files that are open there stay open.
pub fn hide(at: &Path) -> Result<(), Errno> {
    unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(to_nix)
}

pub fn to_nix(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}
