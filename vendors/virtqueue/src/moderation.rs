//! Interrupts that wait for each other: a driver may want to be told of used buffers not one by one, but when there are
//! several, or after a while.
//!
//! What a queue holds back is signalled by whoever works on it next, when it is due. Where nobody does, a timer that the
//! task of the queue watches has somebody do it.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an interrupt may be held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// Until so many buffers were used; zero: whatever their number.
    pub buffers: u32,
    /// Until so many microseconds have passed since the first of them was; zero: not at all.
    pub micros: u32,
}

/// What the interrupts of a queue wait for. It outlives the queue, and may change while one runs.
#[derive(Debug, Default)]
pub struct Moderation {
    /// A [`Patience`].
    patience: AtomicU64,
    /// Made when a driver may want it.
    timer: OnceLock<TimerFd>,
    /// The timer will expire, and who is woken by it has not been here.
    armed: AtomicBool,
}

impl Moderation {
    /// Makes its timer, unless there is one: from now on its patience may be other than none.
    pub fn prepare(&self) -> Result<(), Errno> {
        if self.timer.get().is_none() {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            // Who comes second has one for nothing.
            let _ = self.timer.set(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        }
        Ok(())
    }

    /// What becomes readable when something may be due: [`expired`](Self::expired) is to be called, and then the queue
    /// to be worked on.
    pub fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.timer.get().map(AsFd::as_fd)
    }

    /// Whoever watches the timer was woken.
    pub fn expired(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// How long interrupts are held back.
    pub fn patience(&self) -> Patience {
        let [b0, b1, b2, b3, m0, m1, m2, m3] = self.patience.load(Ordering::SeqCst).to_le_bytes();
        Patience { buffers: u32::from_le_bytes([b0, b1, b2, b3]), micros: u32::from_le_bytes([m0, m1, m2, m3]) }
    }

    /// Changes it, for what is held back now as well.
    pub fn set_patience(&self, patience: Patience) {
        let number = u64::from(patience.buffers) | u64::from(patience.micros) << 32;
        if self.patience.swap(number, Ordering::SeqCst) != number {
            self.expire_in(Duration::ZERO);
        }
    }

    /// `false`: nobody will be woken.
    fn expire_in(&self, time: Duration) -> bool {
        let Some(timer) = self.timer.get() else { return false };
        // Zero would be never.
        let time = TimeSpec::from_duration(time.max(Duration::from_nanos(1)));
        timer.set(Expiration::OneShot(time), TimerSetTimeFlags::empty()).is_ok()
    }

    /// Has somebody woken in `time`, or before.
    fn arm(&self, time: Duration, patience: Patience) -> bool {
        if self.armed.swap(true, Ordering::SeqCst) {
            return true;
        }
        // Who changes the patience sets the timer after it, which may have been before this.
        self.expire_in(time) && (self.patience() == patience || self.expire_in(Duration::ZERO))
    }
}

/// What a running queue holds back.
#[derive(Debug)]
pub struct Held {
    moderation: Arc<Moderation>,
    /// When the first buffer that the driver wants to be told of was used.
    since: Option<Instant>,
    /// Buffers used before that.
    before: u32,
}

impl Held {
    /// Nothing.
    pub fn new(moderation: Arc<Moderation>) -> Self {
        Self { moderation, since: None, before: 0 }
    }

    /// Whether to interrupt the driver now, which `wants` to be told of what is there; `used` buffers were used since the
    /// queue began.
    pub fn is_due(&mut self, wants: bool, used: u32) -> bool {
        let due = wants && self.has_waited(used);
        if due || !wants {
            (self.since, self.before) = (None, used);
        }
        due
    }

    fn has_waited(&mut self, used: u32) -> bool {
        let patience = self.moderation.patience();
        if patience.micros == 0 || (patience.buffers > 0 && used.wrapping_sub(self.before) >= patience.buffers) {
            return true;
        }
        let now = Instant::now();
        let waited = now.saturating_duration_since(*self.since.get_or_insert(now));
        let left = Duration::from_micros(patience.micros.into()).saturating_sub(waited);
        left.is_zero() || !self.moderation.arm(left, patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    const LONG: u32 = 1_000_000_000;

    fn held(patience: Patience) -> (Arc<Moderation>, Held) {
        let moderation = Arc::new(Moderation::default());
        moderation.prepare().unwrap();
        moderation.set_patience(patience);
        let _ = wait(&moderation, 0);
        moderation.expired();
        (Arc::clone(&moderation), Held::new(moderation))
    }

    fn wait(moderation: &Moderation, ms: u16) -> bool {
        poll(&mut [PollFd::new(moderation.timer().unwrap(), PollFlags::POLLIN)], PollTimeout::from(ms)).unwrap() == 1
    }

    #[test]
    fn without_patience_every_interrupt_is_due() {
        let (moderation, mut held) = held(Patience::default());
        assert!(held.is_due(true, 1) && held.is_due(true, 2) && !held.is_due(false, 3));
        moderation.set_patience(Patience { buffers: 8, micros: 0 });
        assert!(held.is_due(true, 4), "nothing would ever end the wait");
    }

    #[test]
    fn an_interrupt_waits_for_so_many_buffers_that_the_driver_wants_to_be_told_of() {
        let (_, mut held) = held(Patience { buffers: 4, micros: LONG });
        assert!(!held.is_due(false, u32::MAX - 1), "as many as it likes while it looks itself");
        assert!(!held.is_due(true, u32::MAX) && !held.is_due(true, 1));
        assert!(held.is_due(true, 2));
        assert!(!held.is_due(true, 5) && held.is_due(true, 6));
    }

    #[test]
    fn an_interrupt_waits_no_longer_than_it_may() {
        let (moderation, mut held) = held(Patience { buffers: 0, micros: 2_000 });
        let begun = Instant::now();
        assert!(!held.is_due(true, 10_000), "by time alone");
        assert!(wait(&moderation, 5_000));
        moderation.expired();
        assert!(begun.elapsed() >= Duration::from_millis(2) && held.is_due(true, 10_000));
    }

    #[test]
    fn a_timer_that_expires_early_is_set_again() {
        let (moderation, mut held) = held(Patience { buffers: 2, micros: 20_000 });
        assert!(!held.is_due(true, 1) && held.is_due(true, 2));
        std::thread::sleep(Duration::from_millis(2));
        assert!(!held.is_due(true, 3), "the timer of the first one runs");
        assert!(wait(&moderation, 5_000));
        moderation.expired();
        if !held.is_due(true, 3) {
            assert!(wait(&moderation, 5_000));
            moderation.expired();
            assert!(held.is_due(true, 3));
        }
    }

    #[test]
    fn less_patience_ends_a_wait_at_once() {
        let (moderation, mut held) = held(Patience { buffers: 0, micros: LONG });
        assert!(!held.is_due(true, 1) && !wait(&moderation, 0));
        moderation.set_patience(Patience { buffers: 0, micros: 1 });
        assert!(wait(&moderation, 5_000));
        moderation.expired();
        std::thread::sleep(Duration::from_micros(10));
        assert!(held.is_due(true, 1));
    }
}
