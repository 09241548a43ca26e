//! The shim: an instance behind a vhost-user socket.

use super::daemon::Daemon;
use super::deps::program;
use super::process::{Running, wait_until};
use super::{LabError, LabResult};
use std::path::{Path, PathBuf};
use std::time::Duration;

const READY: Duration = Duration::from_secs(10);

/// A running `umdev-vhost-vfio`. Killed on drop.
#[derive(Debug)]
pub struct Shim {
    running: Running,
    socket: PathBuf,
}

impl Shim {
    /// Serves the instance `uuid` on `socket`.
    pub fn start(daemon: &Daemon, uuid: &str, socket: &Path) -> LabResult<Self> {
        let text = |path: &Path| path.display().to_string();
        let command = [
            text(&program("umdev-vhost-vfio")?),
            "--root".into(),
            text(daemon.root()),
            "--sysfsdev".into(),
            text(&daemon.instance_dir(uuid)),
            "--socket".into(),
            text(socket),
        ];
        // one that a killed shim left would look as if this one were ready
        let _ = std::fs::remove_file(socket);
        let mut running = Running::start("umdev-vhost-vfio", &[], &command)?;
        let waited = wait_until("the shim's socket", READY, || socket.exists() || !running.is_alive());
        if let Err(error) = waited {
            return Err(LabError::Wrong(format!("{error}\n{}", running.tail())));
        }
        if !running.is_alive() {
            return Err(LabError::Wrong(format!("the shim ended:\n{}\n{}", running.output(), daemon.log())));
        }
        Ok(Self { running, socket: socket.to_path_buf() })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }
}
