//! The measurements.

pub mod calls;
pub mod compare;
pub mod container;
pub mod doorbells;
pub mod frames;
pub mod guest;
pub mod idle;
pub mod instructions;
pub mod iotlb;
pub mod latency;
pub mod samples;
pub mod scale;
pub mod snapshot;
pub mod switching;
pub mod traffic;

use samples::{Figures, Samples, on_one_processor};
use serde::Serialize;
use std::path::Path;
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
    /// IOTLB entries, tens of thousands.
    pub iotlb: Vec<iotlb::Line>,
    /// Maps of a container and of an IOAS, as many as each can hold.
    pub maps: Vec<iotlb::Line>,
    /// Dirty pages of a large address space.
    pub dirty: container::Dirty,
    /// A look into an address space that changes.
    pub snapshot: snapshot::Snapshot,
    /// A thousand instances.
    pub scale: scale::Scale,
    /// Frames a second.
    pub loopback: Vec<frames::Frames>,
    /// A switch, by its ports.
    pub switching: Vec<switching::Switching>,
    /// Ways to kick.
    pub doorbells: Vec<doorbells::Doorbell>,
    /// Instructions a packet.
    pub instructions: Vec<instructions::Count>,
    /// From a kick to the used chain.
    pub latency: Vec<latency::Latency>,
    /// A thousand instances at rest.
    pub idle: idle::Idle,
    /// Guests on TAP interfaces.
    pub guests: Vec<guest::GuestTraffic>,
    /// This build against another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub comparison: Vec<compare::Comparison>,
}

const ROUNDS: usize = 3000;
const CREATIONS: usize = 300;

/// Measures everything, on daemons of its own, and beside them those of the program `base`.
pub fn run(base: Option<&Path>) -> Report {
    let start = |program: Option<&Path>| {
        let arguments = ["--parent", "loopback:loopback0", "--log", "warn"];
        program.map_or_else(|| Daemon::with(&arguments), |program| Daemon::of(program, &arguments))
    };
    let comparison = base.map(|base| compare::measure(base, &start)).unwrap_or_default();
    let (calls, iotlb, maps) = on_one_processor(|| {
        let daemon = start(None);
        let calls = calls::measure(&daemon, ROUNDS, CREATIONS);
        let mut maps = container::measure(&daemon);
        maps.extend(container::measure_ioas(&daemon));
        (calls, iotlb::measure(&daemon, iotlb::MANY), maps)
    });
    let dirty = container::measure_dirty(&start(None));
    let doorbells = doorbells::measure(|| start(None));
    let loopback = frames::measure(&start(None), &[64, 256, 1514], frames::LONG);
    Report {
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        calls: calls.into_iter().map(Samples::figures).collect(),
        iotlb,
        maps,
        dirty,
        snapshot: snapshot::measure(),
        scale: scale::measure(&start(None)),
        loopback,
        switching: switching::measure(switching::TURNS, switching::TIME),
        doorbells,
        instructions: instructions::count().unwrap_or_else(|error| panic!("{error}")),
        latency: latency::measure(&|| start(None)),
        idle: idle::measure(&start(None)),
        guests: guest::measure(guest::ROUNDS).unwrap_or_else(|error| panic!("{error}")),
        comparison,
    }
}

/// For people.
pub fn print(report: &Report) {
    let Report {
        build,
        kernel,
        processors,
        calls,
        iotlb,
        maps,
        dirty,
        snapshot,
        scale,
        loopback,
        switching,
        doorbells,
        instructions,
        latency,
        idle,
        guests,
        comparison,
    } = report;
    println!("{build} build, Linux {kernel}, {processors} processors");
    println!();
    println!("{:<64} {:>10} {:>10} {:>10}", "control call, on one processor", "median µs", "p99 µs", "× floor");
    for Figures { name, median_us, p99_us, times_floor, .. } in calls {
        println!("{name:<64} {median_us:>10.1} {p99_us:>10.1} {times_floor:>10.1}");
    }
    println!();
    let head = "60,000 entries, median µs of a sixtieth, on one processor";
    println!("{head:<64} {:>10} {:>10} {:>10} {:>10}", "first", "last", "last/first", "each");
    for iotlb::Line { name, first_us, last_us, last_by_first, each_us } in iotlb.iter().chain(maps) {
        println!("{name:<64} {first_us:>10.1} {last_us:>10.1} {last_by_first:>10.2} {each_us:>10.1}");
    }
    println!();
    let line = |name: &str, value: String| println!("{name:<64} {value:>10}");
    println!("dirty bitmap of {} GiB", dirty.gib);
    line(&format!("{} pages written, median µs", dirty.pages), format!("{:.0}", dirty.dirty_us));
    line("none written, median µs", format!("{:.0}", dirty.clean_us));
    println!();
    println!("a look into {} regions, from a queue's thread", snapshot.regions);
    line("nothing changes, median ns", format!("{:.1}", snapshot.quiet_ns));
    line("maps and unmaps beside it, median ns", format!("{:.1}", snapshot.busy_ns));
    let [ratio, least, most] = snapshot.busy_by_quiet;
    line("busy/quiet, median (least to most) of neighbouring rounds", format!("{ratio:.2} ({least:.2} to {most:.2})"));
    line("changes a second meanwhile", format!("{:.0}", snapshot.changes_per_second));
    println!();
    println!("{} live instances", scale.instances);
    line("resident memory of umdevd for each, KiB", format!("{:.1}", scale.kib_per_instance));
    line("threads of umdevd before and with them", format!("{} → {}", scale.threads[0], scale.threads[1]));
    line("create until open, the 1st, µs", format!("{:.1}", scale.first_us));
    line("create until open, the 1,000th, µs", format!("{:.1}", scale.last_us));
    line("the same, median of the first 20, µs", format!("{:.1}", scale.first_20_us));
    line("the same, median of the last 20, µs", format!("{:.1}", scale.last_20_us));
    println!();
    println!("loopback, one driver thread, there and back");
    for frames in loopback {
        let (rate, cost) = (frames.frames_per_second, frames.daemon_ns);
        line(&format!("frames of {} bytes a second", frames.bytes), format!("{rate:.0}"));
        line("and the daemon's processor time for each, ns", format!("{cost:.0}"));
    }
    switching::print(switching);
    doorbells::print(doorbells);
    println!();
    instructions::print(instructions);
    latency::print(latency);
    idle::print(idle);
    guest::print(guests);
    if !comparison.is_empty() {
        compare::print(comparison);
    }
}
