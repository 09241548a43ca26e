//! A thousand instances whose drivers run and have nothing to do.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use std::time::Duration;
use umdev_tests::driver::{Client, Daemon, Options};

const INSTANCES: usize = 1000;
const WATCHED: Duration = Duration::from_secs(10);
/// What was busy with the last of them has come to rest by then.
const SETTLED: Duration = Duration::from_secs(1);

/// What they cost.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// How many.
    pub instances: usize,
    /// Threads of the daemon before them and with all of them.
    pub threads: [u64; 2],
    /// Memory of the daemon's own for each, KiB.
    pub own_kib: f64,
    /// With what it sees of their drivers' memory, KiB.
    pub resident_kib: f64,
    /// Processor time of the daemon a minute, milliseconds.
    pub busy_ms_a_minute: f64,
}

/// Runs them on a daemon that has none.
pub fn measure(daemon: &Daemon) -> Idle {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("descriptors");
    let figures = || ["Threads", "RssAnon", "VmRSS"].map(|name| daemon.figure(name));
    let [threads, own, resident] = figures();
    let run = |_| {
        let uuid = daemon.create();
        Client::start(daemon.root(), &uuid, Options::default()).expect("a driver")
    };
    let clients: Vec<_> = (0..INSTANCES).map(run).collect();
    std::thread::sleep(SETTLED);
    let before = daemon.processor_time();
    std::thread::sleep(WATCHED);
    let busy = daemon.processor_time().saturating_sub(before);
    let [threads_after, own_after, resident_after] = figures();
    drop(clients);
    let each = |before: u64, after: u64| {
        f64::from(u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX))
            / f64::from(u32::try_from(INSTANCES).unwrap_or(1))
    };
    Idle {
        instances: INSTANCES,
        threads: [threads, threads_after],
        own_kib: each(own, own_after),
        resident_kib: each(resident, resident_after),
        busy_ms_a_minute: busy.as_secs_f64() * 1e3 * 60.0 / WATCHED.as_secs_f64(),
    }
}

/// For people.
pub fn print(idle: &Idle) {
    let line = |name: &str, value: String| println!("{name:<64} {value:>10}");
    println!();
    println!("{} instances that run and have nothing to do", idle.instances);
    line("threads of umdevd before and with them", format!("{} → {}", idle.threads[0], idle.threads[1]));
    line("memory of umdevd's own for each, KiB", format!("{:.1}", idle.own_kib));
    line("with what it sees of their drivers' memory, KiB", format!("{:.1}", idle.resident_kib));
    line("processor time of umdevd a minute, ms", format!("{:.1}", idle.busy_ms_a_minute));
}
