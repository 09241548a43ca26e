//! A pseudo terminal of the host as the other side of a port.
//!
//! The card holds both ends open: without the far one the near one would be at its end whenever nobody has the terminal open,
//! and say so without end. What is sent while nobody reads waits in the terminal, and then in the port: nothing is lost.

use crate::fifo::FIFO_SIZE;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{self, fchown};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// A pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    near: OwnedFd,
    /// `None` once the terminal could not be had back.
    far: Option<OwnedFd>,
    path: PathBuf,
}

impl Pty {
    /// A new terminal: raw, and nobody's but the user's and group's `owner`, the superuser where there is none.
    pub fn new(owner: Option<(u32, u32)>) -> Result<Self, Errno> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let near = openpt(flags).map_err(errno)?;
        grantpt(&near).map_err(errno)?;
        unlockpt(&near).map_err(errno)?;
        rustix::io::ioctl_fionbio(&near, true).map_err(errno)?;
        let name = ptsname(&near, Vec::new()).map_err(errno)?;
        let path = PathBuf::from(name.into_string().map_err(|_| Errno::EILSEQ)?);
        let mut pty = Self { near, far: None, path };
        let far = pty.open_far()?;
        if let Some((user, group)) = owner {
            fchown(&far, Some(user.into()), Some(group.into()))?;
        }
        pty.far = Some(far);
        Ok(pty)
    }

    /// Where the host finds it; `None` once it is lost.
    pub fn path(&self) -> Option<&PathBuf> {
        self.far.as_ref().map(|_| &self.path)
    }

    /// What there is to wait at.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.near.as_fd()
    }

    /// What the host wrote, at most `room` bytes; nothing when there is nothing.
    pub fn read(&mut self, room: usize) -> impl Iterator<Item = u8> + use<> {
        let mut bytes = [0; FIFO_SIZE];
        let room = room.min(FIFO_SIZE);
        let read = if room == 0 || self.far.is_none() { Ok(0) } else { unistd::read(&self.near, &mut bytes[..room]) };
        if read == Err(Errno::EIO) {
            self.take_back();
        }
        bytes.into_iter().take(read.unwrap_or(0))
    }

    /// Gives `bytes` to the host: how many it took. A terminal that is lost takes all, as a cable without an end does.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.far.is_none() || bytes.is_empty() {
            return bytes.len();
        }
        match unistd::write(&self.near, bytes) {
            Ok(written) => written,
            Err(Errno::EIO) => {
                self.take_back();
                0
            }
            Err(_) => 0,
        }
    }

    /// The far end was hung up on, as the end of a session does to its terminal: takes it back where that is possible.
    pub fn take_back(&mut self) {
        if self.far.is_none() || !self.is_hung_up() {
            return;
        }
        self.far = self.open_far().ok();
        if self.far.is_none() || self.is_hung_up() {
            tracing::warn!(path = %self.path.display(), "a serial port lost its terminal");
            self.far = None;
        }
    }

    fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.near.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        polled.is_err() || fds[0].revents().is_none_or(|events| events.contains(PollFlags::POLLHUP))
    }

    /// Opens the far end, and makes it raw: the terminal is a cable, not a keyboard.
    fn open_far(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let far = nix::fcntl::open(&self.path, flags, Mode::empty())?;
        let mut settings = tcgetattr(&far).map_err(errno)?;
        settings.make_raw();
        tcsetattr(&far, OptionalActions::Now, &settings).map_err(errno)?;
        fchmod(&far, Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok(far)
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
