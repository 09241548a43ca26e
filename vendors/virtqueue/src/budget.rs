//! How long to look for work before a sleep.
//!
//! What a hypervisor does for a processor that halts: where work comes soon after a sleep began, looking a little longer
//! would have met it; where nothing comes for long, looking was for nothing.

use std::time::Duration;

/// Where growing begins.
const FIRST: Duration = Duration::from_micros(10);

/// How long one task is looked at without work, at most `max`.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    max: Duration,
    now: Duration,
}

impl Budget {
    /// Nothing is known of the task yet.
    pub fn new(max: Duration) -> Self {
        Self { max, now: Duration::ZERO }
    }

    /// What to spend now.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// There was no work for `gap`.
    pub fn learn(&mut self, gap: Duration) {
        if gap <= self.now {
            // Looking met it.
        } else if gap <= self.max {
            self.now = (2 * self.now).max(FIRST).min(self.max);
        } else {
            self.now /= 2;
            if self.now < FIRST {
                self.now = Duration::ZERO;
            }
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
        assert_eq!(after(&[45, 45, 45, 45, 1000, 1000, 1000]), Duration::ZERO);
    }

    #[test]
    fn none_at_most_is_none() {
        let mut budget = Budget::new(Duration::ZERO);
        [0, 1, 10].into_iter().for_each(|gap| budget.learn(Duration::from_micros(gap)));
        assert_eq!(budget.now(), Duration::ZERO);
    }
}
