//! Mounting, apart from serving: a server gets an already mounted descriptor and never clones it.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Mounts a new tree at the directory `root`; the descriptor through which it is served.
///
/// The kernel checks permissions (`default_permissions`) for every user (`allow_other`), because the protocol does not
/// tell a server a caller's supplementary groups. Needs CAP_SYS_ADMIN.
pub fn mount(root: &Path) -> io::Result<OwnedFd> {
    let fuse = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_CLOEXEC).open("/dev/fuse").map_err(
        |e| io::Error::new(e.kind(), format!("/dev/fuse cannot be opened (is the fuse module loaded?): {e}")),
    )?;
    let options =
        format!("fd={},rootmode=40755,user_id=0,group_id=0,default_permissions,allow_other", fuse.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("umdev"), root, Some("fuse.umdev"), flags, Some(options.as_str())).map_err(|e| {
        io::Error::new(io::Error::from(e).kind(), format!("cannot mount at {}: {}", root.display(), e.desc()))
    })?;
    Ok(OwnedFd::from(fuse))
}

/// Takes the mount at `root` out of the name space; files that are open stay served until they are closed.
pub fn unmount(root: &Path) -> io::Result<()> {
    nix::mount::umount2(root, MntFlags::MNT_DETACH).map_err(io::Error::from)
}

/// Whether `root` is the mount of a server that died.
pub fn is_stale(root: &Path) -> bool {
    nix::sys::stat::stat(root) == Err(Errno::ENOTCONN)
}
