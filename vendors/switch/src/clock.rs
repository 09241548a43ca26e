//! What time it is.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of a clock that does not go back.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> u64;
}

/// The machine's.
#[derive(Debug, Clone, Copy)]
pub struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> u64 {
        // It is there on every Linux, and does not begin before the machine did.
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).ok();
        time.map_or(0, |time| time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
    }
}

/// Whole seconds.
pub fn seconds(now: u64) -> u32 {
    // Until the machine has run for 136 years.
    u32::try_from(now / 1_000_000_000).unwrap_or(u32::MAX)
}
