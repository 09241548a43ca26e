//! Whether open files can be mapped here, found out by trying.

use crate::sys::{backing_close, backing_open};
use crate::wire::abi::{self, InitOut, OutHeader, init};
use crate::wire::{Op, decode};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use zerocopy::IntoBytes;

/// Whether a file of a tree can show a [backing](crate::OpenFile::backing) to those who map it: FUSE passthrough, from
/// Linux 6.9 on, with CAP_SYS_ADMIN. The only sure way to know is to ask a file system of our own, which is mounted
/// nowhere and gone at once.
pub fn can_map() -> Result<(), Errno> {
    let to_nix = |errno: rustix::io::Errno| Errno::from_raw(errno.raw_os_error());
    let open =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open("/dev/fuse");
    let fuse = open.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(to_nix)?;
    let number = fuse.as_raw_fd().to_string();
    for (key, value) in [("fd", number.as_str()), ("rootmode", "40755"), ("user_id", "0"), ("group_id", "0")] {
        fsconfig_set_string(&context, key, value).map_err(to_nix)?;
    }
    fsconfig_create(&context).map_err(to_nix)?;
    // The kernel's first request waits there already.
    let mut request = [0; 8192];
    let len = nix::unistd::read(&fuse, &mut request)?;
    let request = decode(&request[..len]).map_err(|_| Errno::EPROTO)?;
    let Op::Init { minor, flags, flags2, .. } = request.op else { return Err(Errno::EPROTO) };
    if flags2 & init::PASSTHROUGH == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let answer = InitOut {
        major: abi::MAJOR,
        minor: minor.min(abi::MINOR),
        flags: flags & (init::INIT_EXT | init::BIG_WRITES),
        flags2: init::PASSTHROUGH,
        max_stack_depth: 1,
        max_write: abi::MAX_WRITE,
        ..InitOut::default()
    };
    let len = u32::try_from(size_of::<OutHeader>() + size_of::<InitOut>()).unwrap_or(0);
    let header = OutHeader { len, error: 0, unique: request.unique };
    nix::unistd::write(&fuse, &[header.as_bytes(), answer.as_bytes()].concat())?;
    let memory = memfd_create(c"probe", MFdFlags::MFD_CLOEXEC)?;
    let number = backing_open(fuse.as_fd(), memory.as_fd())?;
    backing_close(fuse.as_fd(), number)
}
