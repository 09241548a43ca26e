//! How long to look for work before a sleep.
//!
//! What a hypervisor does for a processor that halts: where work comes soon after a sleep began, looking a little longer
//! would have met it; where nothing comes for long, looking was for nothing. How soon it came is not known after a sleep,
//! which may last longer than all looking because a thread is slow to wake. So looking is tried now and then, and less and
//! less often while it is in vain.

use std::time::Duration;

/// Where growing begins.
const FIRST: Duration = Duration::from_micros(10);
/// Long sleeps before looking is tried: at first, and at most.
const FEW: u32 = 8;
const MANY: u32 = 512;

/// How long one task is looked at without work, at most `max`.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    max: Duration,
    now: Duration,
    /// This time it is a try.
    trying: bool,
    /// Long sleeps before the next try, and before the one after a vain one.
    left: u32,
    every: u32,
}

impl Budget {
    /// Nothing is known of the task yet.
    pub fn new(max: Duration) -> Self {
        Self { max, now: Duration::ZERO, trying: false, left: FEW, every: FEW }
    }

    /// What to spend now.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// There was no work for `gap`.
    pub fn learn(&mut self, gap: Duration) {
        let tried = std::mem::take(&mut self.trying);
        if gap <= self.now {
            // Looking met it.
            if tried {
                (self.now, self.every) = ((2 * gap).max(FIRST).min(self.max), FEW);
            }
        } else if tried {
            (self.now, self.every) = (Duration::ZERO, MANY.min(2 * self.every));
        } else if gap <= self.max {
            self.now = (2 * self.now).max(FIRST).min(self.max);
        } else if self.now >= FIRST {
            self.now /= 2;
            self.left = self.every;
        } else if self.left > 1 {
            (self.now, self.left) = (Duration::ZERO, self.left - 1);
        } else {
            (self.now, self.trying, self.left) = (self.max, true, self.every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_micros(50);

    fn after(gaps: &[u64]) -> Duration {
        let mut budget = Budget::new(MAX);
        gaps.iter().for_each(|gap| budget.learn(Duration::from_micros(*gap)));
        budget.now()
    }

    #[test]
    fn it_grows_while_work_comes_soon_and_never_beyond_its_limit() {
        assert_eq!(after(&[]), Duration::ZERO);
        assert_eq!(after(&[30]), FIRST);
        assert_eq!(after(&[30, 30]), 2 * FIRST);
        assert_eq!(after(&[30, 30, 30, 30]), 4 * FIRST);
        assert_eq!(after(&[45, 45, 45, 45]), MAX);
    }

    #[test]
    fn it_stays_while_looking_meets_the_work() {
        assert_eq!(after(&[30, 30, 5, 15]), 2 * FIRST);
    }

    #[test]
    fn it_shrinks_to_nothing_while_nothing_comes() {
        assert_eq!(after(&[45, 45, 45, 45, 1000]), MAX / 2);
        assert_eq!(after(&[45, 45, 45, 45, 1000, 1000, 1000, 1000]), Duration::ZERO);
    }

    #[test]
    fn where_waking_takes_longer_than_looking_may_work_that_comes_soon_is_met_all_the_same() {
        // 75 µs is what a sleep takes however soon it is to end.
        let mut budget = Budget::new(MAX);
        (0..FEW).for_each(|_| budget.learn(Duration::from_micros(75)));
        assert_eq!(budget.now(), MAX);
        budget.learn(Duration::from_micros(3));
        assert_eq!(budget.now(), FIRST);
        (0..1000).for_each(|_| budget.learn(Duration::from_micros(3)));
        assert_eq!(budget.now(), FIRST);
    }

    #[test]
    fn tries_in_vain_become_rare() {
        let mut budget = Budget::new(MAX);
        let mut tries = 0;
        for _ in 0..10_000 {
            budget.learn(Duration::from_micros(200));
            tries += u32::from(budget.now() > Duration::ZERO);
        }
        assert!((7..40).contains(&tries), "{tries}");
    }

    #[test]
    fn none_at_most_is_none() {
        let mut budget = Budget::new(Duration::ZERO);
        [0, 1, 10].into_iter().for_each(|gap| budget.learn(Duration::from_micros(gap)));
        assert_eq!(budget.now(), Duration::ZERO);
    }
}
