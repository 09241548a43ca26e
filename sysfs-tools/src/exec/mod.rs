//! `umdev exec`: runs an unmodified program where it finds the tree at the kernel's own paths, and where VFIO_GROUP_GET_DEVICE_FD works.
//!
//! The program has a name space of mounts of its own, and two of its ioctls wait for a supervisor, which installs the descriptors that the answer of a
//! FUSE file cannot carry. The program is not the supervisor's child but takes the place of `umdev` itself: its number, its exit status, its signals and
//! its terminal are what they are without it.

mod error;
mod feature;
mod filter;
mod get_device;
mod keeper;
mod listener;
mod merged;
mod mounts;
mod name_space;
mod places;
pub(crate) mod probe;
mod supervisor;
mod sys;
mod target;

pub use error::ExecError;

use crate::error::errno_of;
use keeper::Keeper;
use listener::Listener;
use name_space::Outside;
use nix::errno::Errno;
use places::Places;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The nodes that become descriptors which an ioctl cannot return: a device, and a data stream.
const HANDLE: &str = "dev/vfio/handle";
const STREAM: &str = "dev/vfio/stream";

/// Becomes the program. Comes back only when that fails.
///
/// # Errors
/// See [`ExecError`]. Must be called while there is one thread.
pub fn exec(root: &Path, command: &[OsString]) -> Result<Infallible, ExecError> {
    let inherited = supervisor::inherited();
    let root = served(root)?;
    let outside = name_space::enter()?;
    let places = Places::show(&root)?;
    supervise(&root, places, outside, &inherited)?;
    let [program, arguments @ ..] = command else { return Err(ExecError::Supervisor(Errno::EINVAL)) };
    let error = Command::new(program).args(arguments).exec();
    Err(ExecError::Program { program: program.into(), errno: errno_of(&error) })
}

/// The root without links in its path, if a daemon serves it that can do what is needed.
fn served(root: &Path) -> Result<PathBuf, ExecError> {
    let not_served = |what: String| ExecError::NotServed { root: root.to_owned(), what };
    let real = root.canonicalize().map_err(|error| not_served(crate::error::describe(errno_of(&error))))?;
    let file_system = nix::sys::statfs::statfs(&real).map_err(|errno| not_served(crate::error::describe(errno)))?;
    if file_system.filesystem_type() != nix::sys::statfs::FUSE_SUPER_MAGIC || !real.join("dev/vfio/vfio").exists() {
        return Err(not_served("there is no tree of umdevd".into()));
    }
    if [HANDLE, STREAM].iter().any(|node| !real.join(node).exists()) {
        return Err(ExecError::OldDaemon(real));
    }
    Ok(real)
}

/// Puts this process under the filter, and starts who answers its calls.
fn supervise(root: &Path, places: Places, outside: Outside, inherited: &[RawFd]) -> Result<(), ExecError> {
    let failed = |errno: rustix::io::Errno| ExecError::Supervisor(mounts::to_nix(errno));
    let (here, there) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed)?;
    if supervisor::detach().map_err(ExecError::Supervisor)? {
        drop(here);
        let served = supervisor::let_go(inherited).and_then(|()| become_supervisor(root, &there, places, outside));
        sys::leave(served.is_err().into());
    }
    drop(there);
    let listener = listener::install().map_err(|errno| match errno {
        Errno::EBUSY => ExecError::Supervised,
        errno => ExecError::NoSeccomp(errno),
    })?;
    if !listener.can_give_descriptors() {
        return Err(ExecError::OldKernel);
    }
    hand_over(&here, &listener).map_err(failed)?;
    // Nobody's answer is the end of the socket.
    match rustix::net::recv(&here, &mut [0; 1][..], RecvFlags::empty()) {
        Ok((1, _)) => Ok(()),
        Ok(_) => Err(ExecError::Supervisor(Errno::EPIPE)),
        Err(errno) => Err(failed(errno)),
    }
}

/// Serves what comes through the socket. A caller that fails meanwhile closes it.
fn become_supervisor(root: &Path, socket: &OwnedFd, places: Places, outside: Outside) -> Result<(), Errno> {
    let keeper = Keeper::new(root, places, outside)?;
    let listener = take_over(socket)?;
    let begun = || {
        // A program that died meanwhile is told of by the listener.
        let _ = rustix::net::send(socket, &[1], SendFlags::NOSIGNAL);
    };
    supervisor::run(root, listener, keeper, begun)
}

fn hand_over(socket: &OwnedFd, listener: &Listener) -> Result<(), rustix::io::Errno> {
    let fds = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(&[1])], &mut control, SendFlags::NOSIGNAL).map(drop)
}

fn take_over(socket: &OwnedFd) -> Result<Listener, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(mounts::to_nix)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.map(Listener::from).ok_or(Errno::EPIPE)
}
