//! The `umdev` binary; everything it does is in the library beside it.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    sysfs_tools::run(&sysfs_tools::cli::Cli::parse())
}
