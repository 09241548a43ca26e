//! The life of instances and of the daemon, as a shell and as clients see it.

mod clients;
mod create;
mod drivers;
mod events;
mod owner;
mod remove;
mod restart;
mod tree;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use umdev_tests::driver::abi::{VHOST_VDPA_GET_VRING_GROUP, VHOST_VDPA_GET_VRING_SIZE};
use umdev_tests::driver::{Client, Daemon, Options, Vhost, eventually, new_uuid};

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// Runs a line of shell in a directory; what it wrote to both outputs.
fn sh(dir: &Path, line: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", line]).current_dir(dir).output().expect("sh");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The line of shell succeeds.
fn runs(dir: &Path, line: &str) -> String {
    let (fine, said) = sh(dir, line);
    assert!(fine, "{line}: {said}");
    said
}

/// The line of shell fails, with the words of this errno from a program of coreutils.
fn fails(dir: &Path, line: &str, errno: Errno) {
    let (fine, said) = sh(dir, line);
    let error = std::io::Error::from(errno).to_string();
    let words = error.split(" (os error").next().expect("words");
    assert!(!fine && said.contains(words), "{line}: wanted {errno}, got: {said}");
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().expect("an errno"))
}
