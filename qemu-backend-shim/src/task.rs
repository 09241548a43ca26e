//! A thread whose end can be waited for with poll(2), beside other descriptors.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::{Builder, JoinHandle, Result};

/// A running thread.
#[derive(Debug)]
pub struct Task<T> {
    handle: JoinHandle<T>,
    end: PipeReader,
}

impl<T: Send + 'static> Task<T> {
    /// Runs `work` on a thread called `name`.
    pub fn spawn(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (end, alive) = io::pipe()?;
        let handle = Builder::new().name(name.into()).spawn(move || {
            // dropped on a panic too
            let _alive = alive;
            work()
        })?;
        Ok(Self { handle, end })
    }

    /// A descriptor that polls as hung up once the work is done.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// What the work came to; waits for it.
    pub fn join(self) -> Result<T> {
        self.handle.join()
    }
}
