//! `umdev`, the operator's command line: a reader and writer of the device tree that `umdevd` serves.
//!
//! It uses nothing but the files below the root, as a shell could, and the socket `fd.sock`. It works on the kernel's own mediated devices as well
//! (`--root /`), where it shows fewer columns.
//!
//! # Exit codes
//!
//! 0: done. 1: refused or failed, the reason is on standard error in words. 2: the command line is wrong. `exec` has those of its program; 125 to 127 when it
//! could not be started, as env(1).
//!
//! # JSON
//!
//! `--json` prints one document (`watch`, `trace` and `stats --watch`: one a line) and is stable: keys are never renamed or removed, new ones may be added. A key is
//! always present; what does not exist or cannot be read is `null`. On failure standard output stays empty.
//!
//! | Command | Shape |
//! |---|---|
//! | `types` | `[{"parent", "type", "available_instances": N, "device_api", "dma_model", "name", "description", "parameters": [{"name", "values", "default", "what"}]}]` |
//! | `list` | `[{"uuid", "parent", "type", "state", "driver", "iommu_group": N, "owner"}]` |
//! | `show` | what `list` has for one instance, and `"device_api"`, `"driver_override"`, `"last_error"`, `"devices": {"vhost", "vhost_vdpa", "vfio_group", "vfio_dev"}` (paths; `vfio_dev` a name), `"attributes": {NAME: {"value"} or {"error"}}` |
//! | `create` | `{"uuid", "parent", "type", "iommu_group": N, "vhost"}` |
//! | `remove` | `{"uuid"}` |
//! | `stats` | `[{"uuid", "parent", "type", "statistics": {NAME: N}, "queues": [{"direction": "rx"\|"tx", "queue": N, "counters": {NAME: N}}]}]`; with `--watch` `{"time": SECONDS, "instances": […]}` a line |
//! | `watch`, `trace` | the daemon's own lines, unchanged; see ARCHITECTURE.md, "The fd socket" |
//! | `conformance` | `{"version", "path", "conforms": bool, "passed": N, "failed": N, "skipped": N, "rules": [{"rule", "reference", "verdict": "pass"\|"fail"\|"skip", "expected", "seen", "reason"}]}` |
//! | `doctor` | `{"version", "root", "able": bool, "checks": [{"check", "status": "ok"\|"warn"\|"missing", "required": bool, "found", "remedy"}]}` |
//!
//! Values that come from the tree are untrusted text: tables escape what would control a terminal ([`text::printable`]).

pub mod attribute;
mod class;
pub mod cli;
pub mod conformance;
mod create;
mod detail;
pub mod doctor;
mod error;
pub mod exec;
mod output;
mod remove;
mod render;
mod socket;
mod stats;
mod stream;
pub mod text;
mod tree;

use std::process::ExitCode;
use std::time::Duration;

use cli::{Cli, Command};
pub use error::Error;
use output::Output;

/// Runs one command and says how it went: see the exit codes above.
pub fn run(cli: &Cli) -> ExitCode {
    let mut output = Output::stdout(cli.json);
    match dispatch(cli, &mut output) {
        Ok(code) => code,
        // Whoever read our output has what it wanted (`umdev list | head -1`).
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("umdev: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(cli: &Cli, output: &mut Output) -> Result<ExitCode, Error> {
    let root = cli.root.as_path();
    match &cli.command {
        Command::Types { verbose } => output.types(&tree::Tree::open(root)?.types()?, *verbose)?,
        Command::List => output.instances(&tree::Tree::open(root)?.instances()?)?,
        Command::Create { target, words } => {
            let (uuid, settings) = create::split_words(words)?;
            output.created(&create::create(&tree::Tree::open(root)?, target, uuid, &settings)?)?;
        }
        Command::Remove { uuid, force } => {
            remove::remove(&tree::Tree::open(root)?, *uuid, *force)?;
            output.removed(*uuid)?;
        }
        Command::Show { uuid } => output.detail(&detail::Detail::read(&tree::Tree::open(root)?, *uuid)?)?,
        Command::Stats { target, watch } => {
            stats::stats(root, target.as_deref(), watch.map(Duration::from_secs_f64), output)?;
        }
        Command::Watch => stream::watch(root, output)?,
        Command::Trace { uuid } => stream::trace(root, *uuid, output)?,
        Command::Conformance { target, timeout } => {
            let report = conformance::of(root, target, Duration::from_secs(*timeout))?;
            output.conformance(&report)?;
            return Ok(if report.conforms { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Exec { command } => match exec::exec(root, command)? {},
        Command::Doctor => {
            let report = doctor::examine(root);
            output.report(&report)?;
            return Ok(if report.able { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}
