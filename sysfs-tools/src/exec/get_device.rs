//! VFIO_GROUP_GET_DEVICE_FD: the device file that the daemon cannot install in its caller.

use super::listener::{Answer, Call, Listener};
use super::sys;
use super::target::{Device, Target};
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use vfio_abi::handle::{GetDevice, NAME_SIZE};

/// Serves a call on a file of `device`, the tree at `root`.
///
/// What cannot be served goes on, and the group file says what is wrong with it.
pub fn serve(root: &Path, device: Device, listener: &Listener, call: &Call) -> Answer {
    let target = Target::of(listener, call);
    let mut name = [0; NAME_SIZE];
    let read = target.memory().and_then(|memory| memory.read(call.argument, &mut name));
    let Some(length) = read.ok().and_then(|read| name.get(..read)?.iter().position(|&byte| byte == 0)) else {
        return Answer::GoOn;
    };
    name[length..].fill(0);
    let (Ok(group), Some(handle)) = (target.take(device), open(root, super::HANDLE)) else { return Answer::GoOn };
    let argument = GetDevice { group: group.as_raw_fd(), reserved: 0, name };
    match sys::get_device(std::os::fd::AsFd::as_fd(&handle), &argument) {
        Ok(()) => listener.answer_with(call, &handle),
        Err(errno) => Answer::Failed(errno),
    }
}

/// An empty handle.
pub fn open(root: &Path, node: &str) -> Option<OwnedFd> {
    OpenOptions::new().read(true).write(true).open(root.join(node)).ok().map(OwnedFd::from)
}
