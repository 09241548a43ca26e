//! How a thread waits while a store to a doorbell, which wakes nobody, may be all that a driver does.
//!
//! First its ring is looked at without pause: work that comes soon is found at once. Then the thread sleeps, by turns, each
//! turn twice as long as the one before: a queue that is at rest costs next to nothing, and the first ring after a rest is
//! found late. Whatever wakes other threads wakes this one.

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::time::Duration;

/// How long to look without pause: what a sleep and its end cost anyway.
pub const ALERT: Duration = Duration::from_micros(50);
/// The first sleep.
const SHORTEST: Duration = Duration::from_micros(50);
/// The last ones. The first ring after a rest is found this late at worst.
const LONGEST: Duration = Duration::from_millis(1);

/// Sleeps by turns.
#[derive(Debug)]
pub struct Naps(Duration);

impl Naps {
    /// The next turn is the shortest.
    pub fn new() -> Self {
        Self(SHORTEST)
    }

    /// Lets this thread's sleeps end when they are due: usually they are made longer by as much as the shortest one here.
    pub fn prepare() {
        if let Err(errno) = nix::sys::prctl::set_timerslack(1) {
            tracing::debug!(%errno, "sleeps are rounded up");
        }
    }

    /// Something was rung.
    pub fn restart(&mut self) {
        self.0 = SHORTEST;
    }

    /// Sleeps for a turn, or until `others` can be read.
    pub fn sleep(&mut self, others: impl AsFd) -> Result<(), Errno> {
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(self.0.subsec_nanos()) };
        self.0 = LONGEST.min(self.0 * 2);
        match poll(&mut [PollFd::new(&others, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Errno::from_raw(error.raw_os_error())),
        }
    }
}
