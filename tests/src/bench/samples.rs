//! Durations of one thing, done many times.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
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
    /// Its median divided by the floor's, both measured in turn in the same run. Not the median of single ratios: a
    /// floor that is now and then slow makes some of those small, and says nothing about the call.
    pub times_floor: f64,
}

/// Durations, each with that of the floor measured just before.
#[derive(Debug)]
pub struct Samples {
    name: &'static str,
    calls: Vec<Duration>,
    floors: Vec<Duration>,
}

impl Samples {
    /// None yet.
    pub fn of(name: &'static str) -> Self {
        Self { name, calls: Vec::new(), floors: Vec::new() }
    }

    /// What is measured.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// One more.
    pub fn add(&mut self, took: Duration, floor: Duration) {
        self.calls.push(took);
        self.floors.push(floor);
    }

    /// Half of the calls were faster.
    pub fn median(&self) -> Duration {
        median(&self.calls)
    }

    /// Their summary.
    pub fn figures(mut self) -> Figures {
        let times_floor = self.median().as_secs_f64() / median(&self.floors).as_secs_f64().max(1e-9);
        self.calls.sort_unstable();
        Figures {
            name: self.name,
            samples: self.calls.len(),
            median_us: micros(quantile(&self.calls, 50)),
            p99_us: micros(quantile(&self.calls, 99)),
            times_floor,
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

/// Half of them are less.
pub fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    quantile(&sorted, 50)
}

/// Of sorted values, the one that `percent` of them do not exceed.
pub fn quantile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Starts something on one processor, and uses it on another. What is started keeps the processor it was started on.
pub fn on_two_processors<S, R>(start: impl FnOnce() -> S, what: impl FnOnce(S) -> R) -> R {
    let this_thread = Pid::from_raw(0);
    let all = sched_getaffinity(this_thread).expect("processors");
    let move_to = |number| {
        let mut one = CpuSet::new();
        one.set(number).and_then(|()| sched_setaffinity(this_thread, &one)).expect("a processor");
    };
    let mut numbers = (0..CpuSet::count()).filter(|&number| all.is_set(number) == Ok(true));
    let (here, there) = (numbers.next().expect("a processor"), numbers.next().expect("two processors"));
    move_to(there);
    let started = start();
    move_to(here);
    let result = what(started);
    sched_setaffinity(this_thread, &all).expect("processors");
    result
}

/// Does something on one processor, and on the same whatever is started meanwhile. A call that is answered on another
/// one takes now 10 µs and now 40, and that says more about the scheduler than about the call.
pub fn on_one_processor<R>(what: impl FnOnce() -> R) -> R {
    let this_thread = Pid::from_raw(0);
    let all = sched_getaffinity(this_thread).expect("processors");
    let last = (0..CpuSet::count()).rev().find(|&number| all.is_set(number) == Ok(true)).expect("a processor");
    let mut one = CpuSet::new();
    one.set(last).expect("a processor");
    sched_setaffinity(this_thread, &one).expect("a processor");
    let result = what();
    sched_setaffinity(this_thread, &all).expect("processors");
    result
}
