//! `umdev-datapath`: packets a second of our backends beside DPDK's vhost, with DPDK's testpmd as the client of both.
//!
//! It starts the `umdevd` and `umdev-vhost-vfio` that were built beside it; root, `/dev/fuse` and two processors are needed.

#[path = "../bench/datapath/mod.rs"]
mod datapath;

use datapath::{Effort, Options};
use std::process::ExitCode;
use std::time::Duration;
use umdev_tests::lab::{LabError, LabResult, claim};

const HELP: &str = "\
usage: umdev-datapath [--quick] [--cell TEXT]... [--pairs N] [--time SECONDS] [--verify] [--json FILE]
Packets a second of a loopback, a source and a sink of ours beside DPDK's vhost, both driven by DPDK's testpmd.
  --quick          frames of 64 bytes on rings without options alone
  --cell TEXT      only cells whose name contains TEXT, such as loop/split or /64; may be given more than once
  --pairs N        measurements of each backend, in turn (5)
  --time SECONDS   of each, after a third of it that is not counted (0.9)
  --verify         look at every frame that passes ours instead, and measure nothing
  --json FILE      write the figures to FILE as JSON";

fn options(arguments: &[String]) -> Option<(Options, Option<String>)> {
    let (mut quick, mut verify, mut filters, mut json, mut pairs, mut seconds) =
        (false, false, Vec::new(), None, 5, 0.9);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--verify" => verify = true,
            "--cell" => filters.push(rest.next()?.clone()),
            "--json" => json = Some(rest.next()?.clone()),
            "--pairs" => pairs = rest.next()?.parse().ok().filter(|pairs| *pairs > 0)?,
            "--time" => seconds = rest.next()?.parse().ok().filter(|seconds| (0.05..=60.0).contains(seconds))?,
            _ => return None,
        }
    }
    let time = Duration::from_secs_f64(seconds);
    Some((Options { filters, quick, verify, effort: Effort { pairs, warm_up: time / 3, time } }, json))
}

fn run(options: &Options, json: Option<&str>) -> LabResult<()> {
    let _claim = claim()?;
    if options.verify {
        return datapath::verify(options);
    }
    let report = datapath::run(options)?;
    let Some(file) = json else { return Ok(()) };
    let text = serde_json::to_string_pretty(&report).map_err(|error| LabError::Wrong(error.to_string()))?;
    std::fs::write(file, text + "\n").map_err(LabError::path("write", file.as_ref()))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((options, json)) = options(&arguments) else {
        println!("{HELP}");
        return ExitCode::from(2);
    };
    match run(&options, json.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("umdev-datapath: {error}");
            ExitCode::FAILURE
        }
    }
}
