//! `umdev exec`: programs that know the kernel's paths and the kernel's calls, and nothing of umdev.

mod calls;
mod places;
mod process;
mod qemu;
mod users;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use umdev_tests::driver::Daemon;

/// The VFIO program.
const INSIDE: &str = env!("CARGO_BIN_EXE_umdev-inside");

/// The program built beside the running test.
fn umdev() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join("umdev")).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no umdev beside {}: build the workspace first", exe.display()))
}

/// A command that runs another one inside.
fn exec(root: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(umdev());
    command.arg("--root").arg(root).args(["exec", "--", program]).args(arguments);
    command
}

/// What a shell inside says, which must succeed.
fn shell(daemon: &Daemon, script: &str) -> String {
    said(&exec(daemon.root(), "sh", &["-c", script]).output().unwrap())
}

/// What the VFIO program inside says, which must succeed.
fn inside(daemon: &Daemon, deed: &str, uuid: &str) -> String {
    said(&exec(daemon.root(), INSIDE, &[deed, uuid]).output().unwrap())
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    assert!(output.status.success(), "{}: {text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// How many processes answer calls for programs on this daemon.
fn supervisors(daemon: &Daemon) -> usize {
    let root = daemon.root().to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    // One that has ended, and whose parent has not asked yet how, has no command line.
    let lines = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&format!("{root}\0exec\0"))).count()
}
