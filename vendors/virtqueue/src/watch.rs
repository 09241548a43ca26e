//! How a thread waits while a store to a doorbell, which wakes nobody, may be all that its driver does.
//!
//! First it looks at the doorbells without pause: work that comes soon is found at once. Then it sleeps, by turns, each turn
//! twice as long as the one before: a queue that is at rest costs next to nothing, and the first ring after a rest is
//! found late. Whatever wakes other threads wakes this one.

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long to look without pause: what a sleep and its end cost anyway.
const ALERT: Duration = Duration::from_micros(50);
/// The first sleep.
const SHORTEST: Duration = Duration::from_micros(50);
/// The last ones. The first ring after a rest is found this late at worst.
const LONGEST: Duration = Duration::from_millis(1);
/// Looks between two at the clock.
const LOOKS: u32 = 16;

/// Lets this thread's sleeps end when they are due: usually they are made longer by as much as the shortest one here.
pub fn prepare() {
    if let Err(errno) = nix::sys::prctl::set_timerslack(1) {
        tracing::debug!(%errno, "sleeps are rounded up");
    }
}

/// Waits until `rung` says that a doorbell was rung, or `others` can be read.
pub fn wait(others: impl AsFd, mut rung: impl FnMut() -> bool) -> Result<(), Errno> {
    let begun = Instant::now();
    while begun.elapsed() < ALERT {
        for _ in 0..LOOKS {
            if rung() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }
    let mut turn = SHORTEST;
    loop {
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(turn.subsec_nanos()) };
        match poll(&mut [PollFd::new(&others, PollFlags::IN)], Some(&limit)) {
            Ok(0) if !rung() => turn = LONGEST.min(turn * 2),
            Ok(_) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(Errno::from_raw(error.raw_os_error())),
        }
    }
}
