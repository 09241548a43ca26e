//! The system calls that drive a file.

use super::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// What a client of a vhost-vdpa file does with it. [`System`] has it done; what stands between a rule and the system
/// can show that the rule finds a lie out.
pub trait Calls {
    /// Opens the file for reading and writing; it never waits.
    fn open(&self, path: &Path) -> nix::Result<File> {
        System.open(path)
    }

    /// An ioctl. `argument` is at least as long as the number of the call says, and is what the device made of it
    /// afterwards.
    fn ioctl(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        System.ioctl(file, cmd, argument)
    }

    /// The same from another process, which has the file open as its child would.
    fn ioctl_elsewhere(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        System.ioctl_elsewhere(file, cmd, argument)
    }

    /// An ioctl whose argument is at an address where nothing is.
    fn ioctl_nowhere(&self, file: &File, cmd: u32) -> nix::Result<()> {
        System.ioctl_nowhere(file, cmd)
    }

    /// Writes bytes; how many were taken.
    fn write(&self, file: &File, bytes: &[u8]) -> nix::Result<usize> {
        System.write(file, bytes)
    }

    /// Reads bytes that are there; how many. EAGAIN where `poll` says that there are none.
    fn read(&self, file: &File, into: &mut [u8]) -> nix::Result<usize> {
        System.read(file, into)
    }
}

/// The system itself.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Calls for System {
    fn open(&self, path: &Path) -> nix::Result<File> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        file.map_err(|error| crate::error::errno_of(&error))
    }

    fn ioctl(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        sys::ioctl(file, cmd, argument)
    }

    fn ioctl_elsewhere(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        sys::in_child(|| sys::ioctl(file, cmd, argument))
    }

    fn ioctl_nowhere(&self, file: &File, cmd: u32) -> nix::Result<()> {
        sys::ioctl_nowhere(file, cmd)
    }

    fn write(&self, mut file: &File, bytes: &[u8]) -> nix::Result<usize> {
        file.write(bytes).map_err(|error| crate::error::errno_of(&error))
    }

    fn read(&self, mut file: &File, into: &mut [u8]) -> nix::Result<usize> {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? == 0 {
            return Err(Errno::EAGAIN);
        }
        file.read(into).map_err(|error| crate::error::errno_of(&error))
    }
}
