//! `umdev-bench [--json FILE] [--base PROGRAM] [--guests ROUNDS]`: what control calls cost, what a thousand instances cost, and how many
//! frames pass.
//!
//! It starts the `umdevd` that was built beside it, on roots of its own; root and `/dev/fuse` are needed.

#[path = "../bench/mod.rs"]
mod bench;

use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
usage: umdev-bench [--json FILE] [--base PROGRAM] [--guests ROUNDS]
Prints a table, and the same figures as JSON.
  --json FILE      write the JSON to FILE; - is standard output, and no table then
  --base PROGRAM   compare with another build's umdevd, both in turn in this run
  --guests ROUNDS  only traffic of guests in QEMU, so many rounds of 12 seconds
Starts the umdevd built beside it. Each call is measured beside a getattr on the same mount, in turn.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (mut json, mut base, mut guests) = (None, None, None);
    let mut rest = arguments.as_slice();
    while let Some((first, behind)) = rest.split_first() {
        rest = match (*first, behind) {
            ("--json", [file, behind @ ..]) => {
                json = Some(*file);
                behind
            }
            ("--base", [program, behind @ ..]) if Path::new(program).is_file() => {
                base = Some(Path::new(*program));
                behind
            }
            ("--guests", [rounds, behind @ ..]) if rounds.parse::<NonZero<usize>>().is_ok() => {
                guests = rounds.parse::<usize>().ok();
                behind
            }
            ("--help" | "-h", _) => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("{HELP}");
                return ExitCode::from(2);
            }
        };
    }
    let shown = json != Some("-");
    let text = match guests {
        None => {
            let report = bench::run(base);
            if shown {
                bench::print(&report);
            }
            serde_json::to_string_pretty(&report)
        }
        Some(rounds) => {
            let traffic = match bench::guest::measure(rounds) {
                Ok(traffic) => traffic,
                Err(error) => return failed(&error),
            };
            if shown {
                bench::guest::print(&traffic);
            }
            serde_json::to_string_pretty(&traffic)
        }
    };
    if shown {
        println!();
    }
    let text = match text {
        Ok(text) => text + "\n",
        Err(error) => return failed(&error),
    };
    let Some(file) = json.filter(|file| *file != "-") else {
        print!("{text}");
        return ExitCode::SUCCESS;
    };
    match std::fs::write(file, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("umdev-bench: {error}");
    ExitCode::FAILURE
}
