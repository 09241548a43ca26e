//! Files that are being closed or opened: what somebody who finds their device busy waits for.
//!
//! A close returns to its caller before we hear of it. We hear of it before we hear of anything that he does next, though,
//! so whoever is told EBUSY can know whether that may still end.

use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_mdev_api::HasErrno;

/// How long a call waits for releases that were read before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The releases and opens under way on the files of one device, whatever nodes they are of. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Releases(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when one of them ends.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: u32,
    /// How many ended that may have freed the device.
    freed: u64,
}

impl Releases {
    /// One begins. How many freed the device before.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.0.state.lock();
        state.running += 1;
        state.freed
    }

    /// One ended; `freed` says whether the device may be free now and was not before.
    pub(crate) fn end(&self, freed: bool) {
        let mut state = self.0.state.lock();
        state.running -= 1;
        state.freed += u64::from(freed);
        self.0.ended.notify_all();
    }

    /// Waits until more than `before` have freed the device. False when none is under way that could, or at the deadline.
    pub(crate) fn wait(&self, before: u64, deadline: Instant) -> bool {
        let mut state = self.0.state.lock();
        while state.running != 0 && state.freed == before {
            if self.0.ended.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
        state.freed != before && Instant::now() < deadline
    }

    /// Makes an attempt again, for a bounded time, while it is EBUSY and a release under way may change that. Not for what
    /// opens a device: there the server does it.
    pub fn retry<T, E: HasErrno>(&self, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.0.state.lock().freed;
            let outcome = attempt();
            if !matches!(&outcome, Err(error) if error.errno() == Errno::EBUSY) || !self.wait(before, deadline) {
                return outcome;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thiserror::Error;

    #[derive(Debug, PartialEq, Eq, Error)]
    #[error("{0}")]
    struct Failed(Errno);

    impl HasErrno for Failed {
        fn errno(&self) -> Errno {
            self.0
        }
    }

    #[test]
    fn what_is_busy_for_good_is_busy_at_once() {
        let mut attempts = 0;
        let outcome = Releases::default().retry(|| {
            attempts += 1;
            Err::<(), _>(Failed(Errno::EBUSY))
        });
        assert_eq!((outcome, attempts), (Err(Failed(Errno::EBUSY)), 1));
    }

    #[test]
    fn b4_what_a_release_under_way_frees_is_not_busy() {
        let releases = Releases::default();
        releases.begin();
        let mut attempts = 0;
        let outcome = releases.retry(|| {
            attempts += 1;
            if attempts == 1 {
                releases.end(true);
                return Err(Failed(Errno::EBUSY));
            }
            Ok(attempts)
        });
        assert_eq!(outcome, Ok(2));
    }

    #[test]
    fn another_failure_is_not_waited_for() {
        let releases = Releases::default();
        releases.begin();
        assert_eq!(releases.retry(|| Err::<(), _>(Failed(Errno::EINVAL))), Err(Failed(Errno::EINVAL)));
    }
}
