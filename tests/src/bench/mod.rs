//! The measurements.

pub mod calls;
pub mod frames;
pub mod maps;
pub mod samples;
pub mod scale;

use samples::Figures;
use serde::Serialize;
use umdev_tests::driver::Daemon;

/// Everything, as it is written to the JSON file.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Optimised or not: of the program measured as of the one that measures.
    pub build: &'static str,
    /// Kernel release.
    pub kernel: String,
    /// Processors.
    pub processors: usize,
    /// Control calls.
    pub calls: Vec<Figures>,
    /// 60,000 maps in one address space.
    pub maps: Vec<maps::Maps>,
    /// A thousand instances.
    pub scale: scale::Scale,
    /// Frames a second.
    pub loopback: Vec<frames::Frames>,
}

/// Measures everything, on daemons of its own.
pub fn run() -> Report {
    let start = || Daemon::with(&["--parent", "loopback:loopback0", "--log", "warn"]);
    let daemon = start();
    let calls = calls::measure(&daemon);
    let maps = maps::measure(&daemon);
    let loopback = frames::measure(&daemon, &[64, 256, 1514]);
    drop(daemon);
    Report {
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        calls,
        maps,
        scale: scale::measure(&start()),
        loopback,
    }
}

/// For people.
pub fn print(report: &Report) {
    let Report { build, kernel, processors, calls, maps, scale, loopback } = report;
    println!("{build} build, Linux {kernel}, {processors} processors");
    println!();
    println!("{:<64} {:>10} {:>10} {:>10}", "control call", "median µs", "p99 µs", "× floor");
    for Figures { name, median_us, p99_us, times_floor, .. } in calls {
        println!("{name:<64} {median_us:>10.1} {p99_us:>10.1} {times_floor:>10.1}");
    }
    println!();
    println!("{:<64} {:>10} {:>10} {:>10}", "IOTLB message, 60,000 of them", "first µs", "last µs", "each µs");
    for maps::Maps { name, first_us, last_us, each_us, .. } in maps {
        println!("{name:<64} {first_us:>10.1} {last_us:>10.1} {each_us:>10.1}");
    }
    println!();
    println!("{} live instances", scale.instances);
    let line = |name: &str, value: String| println!("{name:<64} {value:>10}");
    line("resident memory of umdevd for each, KiB", format!("{:.1}", scale.kib_per_instance));
    line("threads of umdevd before and with them", format!("{} → {}", scale.threads[0], scale.threads[1]));
    line("create until open, the 1st, µs", format!("{:.1}", scale.first_us));
    line("create until open, the 1,000th, µs", format!("{:.1}", scale.last_us));
    line("the same, median of the first 20, µs", format!("{:.1}", scale.first_20_us));
    line("the same, median of the last 20, µs", format!("{:.1}", scale.last_20_us));
    println!();
    println!("loopback, one driver thread, there and back");
    for frames in loopback {
        line(&format!("frames of {} bytes a second", frames.bytes), format!("{:.0}", frames.frames_per_second));
    }
}
