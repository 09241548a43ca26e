//! Packets a second beside DPDK's vhost: the same client, the same two processors, the two backends in turn.

mod backend;
mod cell;
mod measure;
mod testpmd;
mod verify;

use backend::Ours;
use cell::{Cell, Way};
pub use measure::Effort;
use measure::{Outcome, median};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::Serialize;
use umdev_tests::lab::{LabError, LabResult, run as run_program};

/// Everything, as it is written to the JSON file.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Processor, kernel, programs.
    pub machine: Machine,
    /// How it was measured.
    pub effort: Effort,
    /// Lines of the table.
    pub cells: Vec<Line>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub client_cpu: usize,
    pub backend_cpu: usize,
    pub kernel: String,
    pub dpdk: String,
    pub umdevd: String,
    /// Processes that wanted to run, on average over the minute before.
    pub load_before: f64,
}

/// A cell and its figures.
#[derive(Debug, Serialize)]
pub struct Line {
    pub cell: String,
    pub outcome: Outcome,
}

/// What to do.
#[derive(Debug)]
pub struct Options {
    /// Cells whose name contains one of these; all when there is none.
    pub filters: Vec<String>,
    /// Only frames of 64 bytes on rings without options.
    pub quick: bool,
    /// Look at every frame, instead of at the time.
    pub verify: bool,
    pub effort: Effort,
}

impl Options {
    fn cells(&self) -> Vec<Cell> {
        let wanted = |cell: &Cell| {
            let name = cell.to_string();
            let quick = cell.bytes == 64 && !cell.mergeable;
            (!self.quick || quick)
                && (self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter)))
        };
        Cell::all().into_iter().filter(wanted).collect()
    }
}

/// Two processors that this process may use, for the client and for the backend.
fn processors() -> LabResult<[usize; 2]> {
    let all = sched_getaffinity(Pid::from_raw(0)).map_err(LabError::errno("processors"))?;
    let mut ours = (0..CpuSet::count()).filter(|number| all.is_set(*number) == Ok(true));
    match (ours.next(), ours.next()) {
        (Some(client), Some(backend)) => Ok([client, backend]),
        _ => Err(LabError::Missing("two processors are needed, one for each side".into())),
    }
}

fn machine([client_cpu, backend_cpu]: [usize; 2]) -> LabResult<Machine> {
    let shell = |line: &str| run_program(std::process::Command::new("/bin/sh").args(["-c", line]));
    let umdevd = umdev_tests::lab::program("umdevd")?;
    Ok(Machine {
        processor: shell("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1")?.trim().to_owned(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        client_cpu,
        backend_cpu,
        kernel: shell("uname -r")?.trim().to_owned(),
        dpdk: shell("dpkg-query -W -f '${Version}' dpdk-dev")?,
        umdevd: shell(&format!("{} --version", umdevd.display()))?.trim().to_owned(),
        load_before: shell("cut -d ' ' -f 1 /proc/loadavg")?.trim().parse().unwrap_or(f64::NAN),
    })
}

/// Measures, and prints each line when it is known.
pub fn run(options: &Options) -> LabResult<Report> {
    let cpus = processors()?;
    let machine = machine(cpus)?;
    let dir = tempfile::Builder::new().prefix("umdev-datapath-").tempdir().map_err(LabError::io("make a directory"))?;
    let ours = Ours::start(dir.path(), cpus[1])?;
    print_head(&machine, &options.effort);
    let mut cells = Vec::new();
    for cell in options.cells() {
        let outcome = measure::cell(&ours, dir.path(), cpus, &cell, &options.effort)?;
        let line = Line { cell: cell.to_string(), outcome };
        println!("{}", text(&line));
        cells.push(line);
    }
    let report = Report { machine, effort: options.effort, cells };
    print_tail(&report);
    Ok(report)
}

/// Looks at every frame that passes ours. Says in how many cells it did; the others are absent.
pub fn verify(options: &Options) -> LabResult<()> {
    let cpus = processors()?;
    let dir = tempfile::Builder::new().prefix("umdev-datapath-").tempdir().map_err(LabError::io("make a directory"))?;
    let ours = Ours::start(dir.path(), cpus[1])?;
    for cell in options.cells() {
        let found = verify::cell(&ours, dir.path(), cpus[0], &cell)?;
        println!("{:<32} {found}", cell.to_string());
    }
    Ok(())
}

fn print_head(machine: &Machine, effort: &Effort) {
    let Machine { processor, processors, client_cpu, backend_cpu, kernel, dpdk, umdevd, load_before } = machine;
    println!("{processor}, {processors} processors, Linux {kernel}; DPDK {dpdk}; {umdevd}; load before {load_before}");
    println!(
        "client on processor {client_cpu}, backend on {backend_cpu}, rings of {}, {} pairs of {:?} each after {:?}",
        measure::RING,
        effort.pairs,
        effort.time,
        effort.warm_up
    );
    println!("loop: frames a second that came back; enqueue: that the client received; dequeue: that it sent");
    println!();
    println!(
        "{:<32} {:>9} {:>9} {:>7} {:>13} {:>9} {:>7}",
        "millions of packets a second", "DPDK", "umdev", "ratio", "least … most", "client", "lost"
    );
}

fn text(Line { cell, outcome }: &Line) -> String {
    let Outcome::Measured { dpdk, ours, ratio: [ratio, least, most] } = outcome else {
        let Outcome::Absent(why) = outcome else { unreachable!("the other one") };
        return format!("{cell:<32} absent ({why})");
    };
    let middle = |rates: &[f64]| {
        let mut rates = rates.to_vec();
        rates.sort_unstable_by(f64::total_cmp);
        median(&rates) / 1e6
    };
    // what the client would do if it never waited for the backend
    let cycles = [dpdk, ours].into_iter().filter_map(|side| side.client_cycles).min_by(f64::total_cmp);
    let client = cycles.map_or_else(|| "-".to_owned(), |cycles| format!("{cycles:.0}"));
    let range = format!("{least:.2} … {most:.2}");
    let lost = if dpdk.lost == 0 && ours.lost == 0 { "0".to_owned() } else { format!("{} {}", dpdk.lost, ours.lost) };
    let (dpdk, ours) = (middle(&dpdk.rates), middle(&ours.rates));
    format!("{cell:<32} {dpdk:>9.2} {ours:>9.2} {ratio:>6.2}× {range:>13} {client:>9} {lost:>7}")
}

fn print_tail(report: &Report) {
    println!();
    println!(
        "client: least cycles that the client itself works for a frame; lost: DPDK and umdev, where they are not 0"
    );
    for (name, ways) in [("loop", &[Way::Loop][..]), ("one direction", &[Way::Enqueue, Way::Dequeue])] {
        let of = |line: &&Line| ways.iter().any(|way| line.cell.starts_with(&way.to_string()));
        let lines: Vec<_> = report.cells.iter().filter(of).collect();
        let mut ratios: Vec<f64> = lines
            .iter()
            .filter_map(|line| match line.outcome {
                Outcome::Measured { ratio, .. } => Some(ratio[0]),
                Outcome::Absent(_) => None,
            })
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        if let [least, ..] = ratios[..] {
            let (all, absent) = (lines.len(), lines.len() - ratios.len());
            println!(
                "{name}: median of {} cells {:.2}×, least {least:.2}×; {absent} of {all} absent",
                ratios.len(),
                median(&ratios)
            );
        }
    }
}
