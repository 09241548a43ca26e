//! `umdev-instructions [--keep]`: instructions that a packet costs, beside those that were kept.

#[path = "../bench/instructions.rs"]
mod instructions;

use instructions::Count;
use std::process::ExitCode;
use umdev_tests::lab::LabResult;

const HELP: &str = "\
usage: umdev-instructions [--keep]
Counts the instructions of the device's side for a packet, and compares with tests/instructions.toml.
Exit status 1 when one costs over a hundredth more than was kept.
  --keep   keep what is counted";

fn run(keep: bool) -> LabResult<bool> {
    let counts = instructions::count()?;
    instructions::print(&counts);
    let (then, now) = (instructions::kept().unwrap_or_default().compiler, instructions::compiler()?);
    if !then.is_empty() && then != now {
        println!("kept of {then}, counted of {now}: a difference may be the compiler's");
    }
    if keep {
        instructions::keep(&counts)?;
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
