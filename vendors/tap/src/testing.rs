//! Descriptors of TAP interfaces as a client has them: blocking, and set up by it.

use crate::tun;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};

/// A descriptor of `/dev/net/tun` that is no interface yet.
pub fn unattached() -> OwnedFd {
    open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).expect("/dev/net/tun")
}

/// A descriptor of interface `name` with `IFF_…` flags, in the network namespace of this thread. Needs root.
pub fn interface(name: &str, flags: i32, header: i32) -> OwnedFd {
    let fd = unattached();
    tun::attach(fd.as_fd(), name, flags).expect("an interface needs root");
    tun::set_header_size(fd.as_fd(), header).expect("a header size");
    fd
}
