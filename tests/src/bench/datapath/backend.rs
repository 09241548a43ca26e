//! The two that are compared, each behind a vhost-user socket.

use super::cell::{Cell, Way};
use super::testpmd::{Testpmd, prefer};
use std::path::{Path, PathBuf};
use umdev_tests::lab::{Daemon, DaemonOptions, LabError, LabResult, Shim};
use uuid::Uuid;

/// Our daemon, on the backend's processor with all its threads.
pub struct Ours {
    daemon: Daemon,
}

/// Where frames go to or come from.
pub enum Backend<'d> {
    /// DPDK's vhost.
    Dpdk { testpmd: Box<Testpmd>, socket: PathBuf },
    /// An instance of ours.
    Ours { daemon: &'d Daemon, uuid: String, shim: Shim },
}

impl Ours {
    /// Starts it with the mount below `dir`.
    pub fn start(dir: &Path, cpu: usize) -> LabResult<Self> {
        let options = DaemonOptions { root: &dir.join("root"), parents: &["loopback:loopback0"], netns: None };
        let wrapper = format!("setsid taskset -c {cpu} nice -n -20");
        let wrapper: Vec<_> = wrapper.split(' ').map(str::to_owned).collect();
        let mut daemon = Daemon::start_behind(&wrapper, &options)?;
        prefer(daemon.running().pid());
        Ok(Self { daemon })
    }

    /// An instance for this cell.
    pub fn backend(&self, dir: &Path, cell: &Cell) -> LabResult<Backend<'_>> {
        let uuid = Uuid::new_v4().to_string();
        let frame = if cell.way == Way::Enqueue { format!(" frame={}", cell.bytes) } else { String::new() };
        self.daemon.create("loopback0", cell.way.type_name(), &format!("{uuid}{frame}"))?;
        let shim = Shim::start(&self.daemon, &uuid, &dir.join("ours.sock"))?;
        Ok(Backend::Ours { daemon: &self.daemon, uuid, shim })
    }
}

impl Backend<'_> {
    /// DPDK's vhost for this cell.
    pub fn dpdk(dir: &Path, cpu: usize, cell: &Cell) -> LabResult<Self> {
        let socket = dir.join("dpdk.sock");
        let [_, forwarding] = cell.way.forwarding();
        let device = format!("--vdev net_vhost0,iface={},queues=1", socket.display());
        let options = format!("--forward-mode={forwarding} --txpkts={}", cell.bytes);
        let name = format!("umdev-{}-vhost", std::process::id());
        let testpmd = Box::new(Testpmd::start(&name, cpu, &device, &options)?);
        Ok(Self::Dpdk { testpmd, socket })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        match self {
            Self::Dpdk { socket, .. } => socket,
            Self::Ours { shim, .. } => shim.socket(),
        }
    }

    /// Lets it work. Ours does whenever there is something to do.
    pub fn begin(&mut self) -> LabResult<()> {
        match self {
            Self::Dpdk { testpmd, .. } => testpmd.say("start"),
            Self::Ours { .. } => Ok(()),
        }
    }

    /// Stops it from looking for work.
    pub fn end(&mut self) -> LabResult<()> {
        match self {
            Self::Dpdk { testpmd, .. } => testpmd.stop().map(drop),
            Self::Ours { .. } => Ok(()),
        }
    }

    /// Frames it gave its driver and took from it, by its own count.
    pub fn counted(&mut self) -> LabResult<Counted> {
        match self {
            Self::Dpdk { testpmd, .. } => {
                testpmd.stats().map(|stats| Counted { given: stats.sent, taken: stats.received })
            }
            Self::Ours { daemon, uuid, .. } => {
                let dir = daemon.instance_dir(uuid).join("statistics");
                let number = |name: &str| {
                    let path = dir.join(name);
                    let text = std::fs::read_to_string(&path).map_err(LabError::path("read", &path))?;
                    text.trim().parse().map_err(|_| LabError::Wrong(format!("{}: {text:?}", path.display())))
                };
                Ok(Counted { given: number("rx_packets")?, taken: number("tx_packets")? })
            }
        }
    }
}

/// Frames by the backend's count.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub given: u64,
    pub taken: u64,
}

impl Drop for Backend<'_> {
    fn drop(&mut self) {
        if let Self::Ours { daemon, uuid, shim } = self {
            let _ = shim.running().signal(nix::sys::signal::Signal::SIGTERM);
            let _ = shim.running().wait_end(std::time::Duration::from_secs(5));
            let _ = daemon.remove(uuid);
        }
    }
}
