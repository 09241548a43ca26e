//! Stands between a queue and its driver's call: loses interrupts, or brings them late.

use crate::faults::Faults;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use virtio_mdev_api::Refusal;
use virtio_mdev_api::notify::{CallSlot, EventFd};

/// A thread that passes interrupts on.
pub struct Relay {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

struct Way {
    faults: Arc<Faults>,
    from: EventFd,
    stop: EventFd,
    to: Arc<CallSlot>,
}

impl Relay {
    /// From now on, what is signalled to the returned slot reaches `to`, as far as `faults` lets it.
    pub fn start(faults: Arc<Faults>, to: Arc<CallSlot>) -> Result<(Self, Arc<CallSlot>), Refusal> {
        let refused = |errno: Errno| Refusal::new(errno, "no eventfd for an interrupt");
        let (from, stop) = (EventFd::new().map_err(refused)?, EventFd::new().map_err(refused)?);
        let slot = CallSlot::default();
        slot.set(Some(from.clone()));
        let way = Way { faults, from, stop: stop.clone(), to };
        let thread = Builder::new().name("faulty-relay".to_owned()).spawn(move || way.run());
        let thread = thread.map_err(|_| Refusal::new(Errno::EAGAIN, "no thread for an interrupt"))?;
        Ok((Self { stop, thread: Some(thread) }, Arc::new(slot)))
    }
}

impl Drop for Relay {
    /// What was signalled before is passed on first.
    fn drop(&mut self) {
        let told = self.stop.signal().is_ok();
        if let Some(thread) = self.thread.take().filter(|_| told) {
            // A panic there is already in the log.
            let _ = thread.join();
        }
    }
}

impl Way {
    fn run(&self) {
        loop {
            let stopped = wait(&[&self.from, &self.stop], None)[1];
            if matches!(self.from.drain(), Ok(Some(_))) && !self.faults.lose_call.strikes() {
                let late = self.faults.late_call_ms.duration();
                if !late.is_zero() && !stopped {
                    wait(&[&self.stop], Some(late));
                }
                if let Err(error) = self.to.signal() {
                    tracing::warn!(%error, "interrupt lost");
                }
            }
            if stopped {
                return;
            }
        }
    }
}

/// Waits until one of `events` can be read, or for `timeout`; which of them can.
fn wait<const N: usize>(events: &[&EventFd; N], timeout: Option<Duration>) -> [bool; N] {
    let timeout = timeout.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    let mut fds = events.map(|event| PollFd::new(event.as_fd(), PollFlags::POLLIN));
    while poll(&mut fds, timeout) == Err(Errno::EINTR) {}
    fds.map(|fd| fd.any().unwrap_or(false))
}
