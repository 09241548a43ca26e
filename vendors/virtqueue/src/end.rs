//! Threads of the system: how one is started, and how its end is waited for.

use crate::PATIENCE;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::thread::{Builder, JoinHandle};

/// The end of a thread.
#[derive(Debug)]
pub struct End {
    /// Closed when there is nothing more to do.
    near: Receiver<()>,
    thread: JoinHandle<()>,
}

impl End {
    /// Of a thread called `name` that does `run` on any of `cpus`, or anywhere if there is none.
    pub fn of(name: String, cpus: Vec<usize>, run: impl FnOnce() + Send + 'static) -> Result<Self, Errno> {
        let (done, near) = bounded::<()>(0);
        let run = move || {
            let _done = done;
            if let Err(errno) = pin(&cpus) {
                tracing::warn!(%errno, ?cpus, "a thread of queues runs anywhere");
            }
            run();
        };
        let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw);
        let thread = Builder::new().name(name).spawn(run).map_err(errno)?;
        Ok(Self { near, thread })
    }

    /// Waits for it, unless the thread is stuck.
    pub fn wait(self) {
        if self.near.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected) {
            // A panic has been reported.
            let _ = self.thread.join();
        }
    }
}

fn pin(cpus: &[usize]) -> Result<(), Errno> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
    sched_setaffinity(Pid::from_raw(0), &set)
}
