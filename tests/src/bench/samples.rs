//! Durations of one thing, done many times.

use serde::Serialize;
use std::time::{Duration, Instant};

/// What a measured call cost.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// What was measured.
    pub name: &'static str,
    /// How often.
    pub samples: usize,
    /// Half of the calls were faster.
    pub median_us: f64,
    /// All but one in a hundred were faster.
    pub p99_us: f64,
    /// The median of `call / floor`, each with the floor measured just before it.
    pub times_floor: f64,
}

/// Durations, each with that of the floor measured just before.
#[derive(Debug)]
pub struct Samples {
    name: &'static str,
    calls: Vec<Duration>,
    ratios: Vec<f64>,
}

impl Samples {
    /// None yet.
    pub fn of(name: &'static str) -> Self {
        Self { name, calls: Vec::new(), ratios: Vec::new() }
    }

    /// One more.
    pub fn add(&mut self, took: Duration, floor: Duration) {
        self.calls.push(took);
        self.ratios.push(took.as_secs_f64() / floor.as_secs_f64().max(1e-9));
    }

    /// Their summary.
    pub fn figures(mut self) -> Figures {
        self.calls.sort_unstable();
        self.ratios.sort_unstable_by(f64::total_cmp);
        Figures {
            name: self.name,
            samples: self.calls.len(),
            median_us: micros(quantile(&self.calls, 50)),
            p99_us: micros(quantile(&self.calls, 99)),
            times_floor: quantile(&self.ratios, 50),
        }
    }
}

/// Does something, and says how long that took.
pub fn timed<R>(what: impl FnOnce() -> R) -> (R, Duration) {
    let begun = Instant::now();
    let result = what();
    (result, begun.elapsed())
}

/// Microseconds.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Of sorted values, the one that `percent` of them do not exceed.
pub fn quantile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
