//! The daemon under test.

use super::deps::program;
use super::netns::Netns;
use super::process::{Running, shell};
use super::{LabError, LabResult};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const READY: Duration = Duration::from_secs(20);
const LEAVE: Duration = Duration::from_secs(10);

/// How to start `umdevd`.
#[derive(Debug)]
pub struct DaemonOptions<'a> {
    /// The mount. Left by a killed daemon, it is taken over.
    pub root: &'a Path,
    /// `KIND:NAME`, one a parent.
    pub parents: &'a [&'a str],
    /// The namespace it runs in; taps appear there.
    pub netns: Option<&'a Netns>,
}

/// A running `umdevd`. On drop it is told to leave; if it does not, it is killed and its mount detached.
#[derive(Debug)]
pub struct Daemon {
    running: Running,
    root: PathBuf,
}

impl Daemon {
    /// Starts the daemon and waits until it is ready.
    pub fn start(options: &DaemonOptions<'_>) -> LabResult<Self> {
        Self::start_behind(&[], options)
    }

    /// The same behind `wrapper`, a program that runs another.
    pub fn start_behind(wrapper: &[String], options: &DaemonOptions<'_>) -> LabResult<Self> {
        let root = options.root.to_path_buf();
        let mut command = vec![program("umdevd")?.display().to_string(), "--root".into(), root.display().to_string()];
        for parent in options.parents {
            command.extend(["--parent".into(), (*parent).into()]);
        }
        let wrapper = [wrapper, &options.netns.map(Netns::wrapper).unwrap_or_default()].concat();
        let running = Running::start("umdevd", &wrapper, &command)?;
        let daemon = Self { running, root };
        daemon.running.wait_for("umdevd: ready on", READY)?;
        Ok(daemon)
    }

    /// The mount.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The process.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// What it logged and said.
    pub fn log(&self) -> String {
        self.running.output()
    }

    /// The directory of an instance.
    pub fn instance_dir(&self, uuid: &str) -> PathBuf {
        self.root.join("sys/bus/mdev/devices").join(uuid)
    }

    /// The vhost file of an instance.
    pub fn vhost_file(&self, uuid: &str) -> PathBuf {
        self.root.join("dev/vhost-mdev").join(uuid)
    }

    /// The `create` file of a type.
    pub fn create_file(&self, parent: &str, type_name: &str) -> PathBuf {
        self.root.join("sys/class/mdev_bus").join(parent).join("mdev_supported_types").join(type_name).join("create")
    }

    /// Creates an instance as a user does: `echo TEXT > …/create`. `text` begins with the UUID.
    pub fn create(&self, parent: &str, type_name: &str, text: &str) -> LabResult<()> {
        let file = self.create_file(parent, type_name);
        let said = shell(&format!("echo '{text}' > '{}'", file.display()));
        said.map(drop).map_err(|error| self.explained(error, &file))
    }

    /// Removes an instance as a user does: `echo 1 > …/remove`.
    pub fn remove(&self, uuid: &str) -> LabResult<()> {
        let file = self.instance_dir(uuid).join("remove");
        let said = shell(&format!("echo 1 > '{}'", file.display()));
        said.map(drop).map_err(|error| self.explained(error, &file))
    }

    /// The UUIDs of the instances that are there.
    pub fn instances(&self) -> LabResult<Vec<String>> {
        let dir = self.root.join("sys/bus/mdev/devices");
        let entries = fs::read_dir(&dir).map_err(LabError::path("list", &dir))?;
        Ok(entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect())
    }

    fn explained(&self, error: LabError, file: &Path) -> LabError {
        let why = fs::read_to_string(file.with_file_name("last_error")).unwrap_or_default();
        LabError::Wrong(format!("{error}\nlast_error: {}\n{}", why.trim(), self.running.tail()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.running.signal(Signal::SIGTERM);
        if self.running.wait_end(LEAVE).is_err() {
            let _ = self.running.signal(Signal::SIGKILL);
            let _ = self.running.wait_end(LEAVE);
        }
        // an orderly end has unmounted it already
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
    }
}
