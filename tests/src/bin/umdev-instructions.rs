//! `umdev-instructions [--keep]`: instructions that a packet costs, beside those that were kept.

#[path = "../bench/instructions.rs"]
mod instructions;

use instructions::Count;
use std::process::ExitCode;
use umdev_tests::lab::{LabError, LabResult};

const HELP: &str = "\
usage: umdev-instructions [--keep]
Counts the instructions of the device's side for a packet, and compares with tests/instructions.toml.
Exit status 1 when one costs over a hundredth more than was kept.
  --keep   keep what is counted";

const HEAD: &str = "\
# Instructions of the device's side for a frame of 64 bytes, announced in bursts of 32.
# `make instructions` counts and compares; `make instructions ARGS=--keep` writes this file.
";

/// Keeps these counts from now on.
fn keep(counts: &[Count]) -> LabResult<()> {
    let instructions = counts.iter().filter_map(|count| Some((count.name.clone(), count.counted?))).collect();
    let text = toml::to_string(&instructions::Kept { compiler: instructions::compiler()?, instructions });
    let text = text.map_err(|error| LabError::Wrong(error.to_string()))?;
    std::fs::write(instructions::file(), format!("{HEAD}{text}"))
        .map_err(LabError::path("write", &instructions::file()))
}

fn run(keep: bool) -> LabResult<bool> {
    let counts = instructions::count()?;
    instructions::print(&counts);
    if keep {
        self::keep(&counts)?;
        return Ok(true);
    }
    Ok(!counts.iter().any(Count::is_more))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let keep = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--keep"] => true,
        _ => {
            println!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(keep) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("umdev-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}
