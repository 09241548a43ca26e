//! What a device does with queues that are served together.

use crate::PATIENCE;
use crate::slot::Slot;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use thiserror::Error;
use virtio_mdev_api::HasErrno;

/// What a device does with queues that are served together, by one thread at a time.
pub trait Service: Send + 'static {
    /// The places of its queues. Asked once.
    fn slots(&self) -> Vec<Arc<Slot>>;

    /// Does what can be done now, at most about one burst of it; [`Next::Wait`] when there was nothing.
    fn serve(&mut self) -> Next;

    /// Nobody will serve until something happens: asks drivers for the notifications that are needed. [`Next::Again`] when
    /// something has come meanwhile.
    fn rest(&mut self) -> Next;

    /// Whether it works on memory that an access to may take long.
    fn is_slow(&self) -> bool {
        self.slots().iter().any(|slot| slot.is_slow())
    }

    /// What to watch besides the queues, and what for. Asked when the service is to be run, and when another thread takes it.
    fn backends(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        Vec::new()
    }

    /// Back end `number`, as they were listed, may have become ready. Told once for each change, not as long as it lasts.
    fn backend_ready(&mut self, _number: usize) {}
}

/// What of a back end a service waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// That it can be read.
    Input,
    /// That it can be written.
    Output,
    /// Either.
    Both,
}

impl Interest {
    pub(crate) fn events(self) -> EpollFlags {
        match self {
            Self::Input => EpollFlags::EPOLLIN,
            Self::Output => EpollFlags::EPOLLOUT,
            Self::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        }
    }
}

/// What a service wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There may be more to do.
    Again,
    /// Nothing, until something happens.
    Wait,
}

/// Who serves did not leave the queue in time, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WorkerError {
    /// It is stuck, in all likelihood in memory of its client.
    #[error("the thread that serves the queue did not leave it within {PATIENCE:?}")]
    Stuck,
    /// It panicked.
    #[error("what served the queue is gone")]
    Gone,
    /// It could not be had.
    #[error("no thread for the device: {0}")]
    Start(Errno),
}

impl HasErrno for WorkerError {
    fn errno(&self) -> Errno {
        match self {
            Self::Stuck => Errno::ETIMEDOUT,
            Self::Gone => Errno::EIO,
            Self::Start(errno) => *errno,
        }
    }
}
