//! A thousand live instances: what each costs in memory, and whether the last one costs more time than the first.

use crate::bench::calls::create_and_open;
use crate::bench::samples::{median, micros};
use serde::Serialize;
use std::time::Duration;
use umdev_tests::driver::{Daemon, new_uuid};

const INSTANCES: usize = 1000;
/// One instance's time is mostly noise: the ends of the line are compared by this many.
const END: usize = 20;

/// What they cost.
#[derive(Debug, Serialize)]
pub struct Scale {
    /// How many.
    pub instances: usize,
    /// Resident memory of the daemon before the first, KiB.
    pub rss_before_kib: u64,
    /// And with all of them, KiB.
    pub rss_after_kib: u64,
    /// The difference, shared out.
    pub kib_per_instance: f64,
    /// Threads of the daemon before and with all of them.
    pub threads: [u64; 2],
    /// The first: `create` until its node was open.
    pub first_us: f64,
    /// The thousandth.
    pub last_us: f64,
    /// Median of the first 20.
    pub first_20_us: f64,
    /// Median of the last 20.
    pub last_20_us: f64,
}

/// Creates them on a daemon that has none.
pub fn measure(daemon: &Daemon) -> Scale {
    let (rss_before_kib, threads) = (daemon.figure("VmRSS"), daemon.figure("Threads"));
    let times: Vec<Duration> = (0..INSTANCES).map(|_| create_and_open(daemon, &new_uuid())).collect();
    let rss_after_kib = daemon.figure("VmRSS");
    let grown = u32::try_from(rss_after_kib.saturating_sub(rss_before_kib)).unwrap_or(u32::MAX);
    let instances = u32::try_from(INSTANCES).unwrap_or(u32::MAX);
    Scale {
        instances: INSTANCES,
        rss_before_kib,
        rss_after_kib,
        kib_per_instance: f64::from(grown) / f64::from(instances),
        threads: [threads, daemon.figure("Threads")],
        first_us: micros(times[0]),
        last_us: micros(times[INSTANCES - 1]),
        first_20_us: micros(median(&times[..END])),
        last_20_us: micros(median(&times[INSTANCES - END..])),
    }
}
