//! What a thread sleeps on: everything that may wake it, each with a mark that says what it was.

use crate::sync::EventFd;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::{AsFd, BorrowedFd};

/// Marks that are told at once.
const MARKS: usize = 32;

/// A set of descriptors that are watched.
pub struct Events(Epoll);

impl Events {
    pub fn new() -> Result<Self, Errno> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Self)
    }

    /// From now on `fd` is told of as long as it can be read.
    pub fn watch_level(&self, fd: &EventFd, mark: u64) -> Result<(), Errno> {
        self.0.add(fd.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, mark))
    }

    /// From now on `fd` is told of once if it can be read, and whenever it is written. Edges, not levels: a client whose
    /// eventfd cannot be emptied (EFD_SEMAPHORE) does not keep a thread busy.
    pub fn watch(&self, fd: &EventFd, mark: u64) -> Result<(), Errno> {
        self.watch_backend(fd.as_fd(), EpollFlags::EPOLLIN, mark)
    }

    /// The same of any descriptor, and of `events`.
    pub fn watch_backend(&self, fd: BorrowedFd<'_>, events: EpollFlags, mark: u64) -> Result<(), Errno> {
        self.0.add(fd, EpollEvent::new(events | EpollFlags::EPOLLET, mark))
    }

    /// From now on `fd` is not told of.
    pub fn forget(&self, fd: &EventFd) {
        self.forget_backend(fd.as_fd());
    }

    /// The same of any descriptor.
    pub fn forget_backend(&self, fd: BorrowedFd<'_>) {
        if let Err(errno) = self.0.delete(fd) {
            tracing::debug!(%errno, "was not waited for");
        }
    }

    /// The marks of what happened, waited for as long as `patience` says.
    pub fn wait(&self, patience: EpollTimeout) -> Result<impl Iterator<Item = u64> + use<>, Errno> {
        let mut events = [EpollEvent::empty(); MARKS];
        let count = match self.0.wait(&mut events, patience) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        Ok(events.into_iter().take(count).map(|event| event.data()))
    }
}

impl AsFd for Events {
    /// Can be read when something happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}
