//! The scene of guests on QEMU's own tap device, its rings served by the daemon's vhost-net.

use super::daemon::{Daemon, DaemonOptions};
use super::guest::{DhcpServer, GUEST_SUBNET, HOST_ADDRESS, MODULES, NetworkReport, network_script};
use super::http::HttpServer;
use super::initramfs::Initramfs;
use super::kernel::{Kernel, KernelName};
use super::machine::{Claim, claim};
use super::netns::Netns;
use super::qemu::QemuName;
use super::vm::{Memory, Netdev, Vm, VmOptions};
use super::{LabError, LabResult};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const INTERFACE: &str = "vnet0";

/// A tap interface that QEMU opens, the servers behind it, and a daemon that has nothing to do with it.
#[derive(Debug)]
pub struct VhostNetScene {
    // dropped in this order
    http: HttpServer,
    _dhcp: DhcpServer,
    daemon: Daemon,
    netns: Netns,
    _dir: TempDir,
    _claim: Claim,
}

/// QEMU's tap device with its rings in a vhost-net file, which QEMU is given open.
#[derive(Debug, Clone)]
pub struct VhostNet {
    /// The file.
    pub file: PathBuf,
    /// The interface.
    pub interface: String,
}

impl VhostNet {
    pub(super) fn arguments(&self) -> String {
        format!("-netdev tap,id=n,ifname={},script=no,downscript=no,vhost=on,vhostfd=9", self.interface)
    }
}

impl VhostNetScene {
    /// Claims the machine and builds the scene, its web server holding a file of so many MiB.
    pub fn build(mebibytes: usize) -> LabResult<Self> {
        let claim = claim()?;
        let dir =
            tempfile::Builder::new().prefix("umdev-scene-").tempdir().map_err(LabError::io("make a directory"))?;
        let netns = Netns::create("umdev-given")?;
        netns.run(&format!("ip tuntap add dev {INTERFACE} mode tap"))?;
        netns.address(INTERFACE, GUEST_SUBNET)?;
        // Not in the namespace of the interface: all it gets of that is the descriptor.
        let daemon =
            Daemon::start(&DaemonOptions { root: &dir.path().join("root"), parents: &["loopback:none"], netns: None })?;
        let dhcp = DhcpServer::start(&netns, INTERFACE)?;
        let http = HttpServer::start(&netns, &format!("{HOST_ADDRESS}:80"), mebibytes)?;
        Ok(Self { http, _dhcp: dhcp, daemon, netns, _dir: dir, _claim: claim })
    }

    /// Boots a guest in the QEMU `qemu`, which takes an address, pings and downloads. An error if the file it got is
    /// another, or if QEMU served the rings itself.
    pub fn run_guest(&mut self, qemu: QemuName, name: KernelName, memory: Memory) -> LabResult<NetworkReport> {
        self.run_busy_guest((qemu, name, memory), "", &[])
    }

    /// The same with a guest that does something else from the beginning, and tells of it under these keys.
    pub fn run_busy_guest(
        &mut self,
        (qemu, name, memory): (QemuName, KernelName, Memory),
        meanwhile: &str,
        told: &[&str],
    ) -> LabResult<NetworkReport> {
        let kernel = Kernel::find(name)?;
        let mut initramfs = Initramfs::new()?;
        initramfs.modules(&kernel, &MODULES)?;
        initramfs.program(Path::new("/usr/sbin/ethtool"), "ethtool")?;
        let archive = initramfs.finish(&[meanwhile, &network_script()].concat())?;
        let file = self.daemon.root().join("dev/vhost-net");
        let netdev = Netdev::VhostNet(VhostNet { file, interface: INTERFACE.into() });
        let netns = Some(&self.netns);
        let mut vm = Vm::boot(&VmOptions { qemu, netdev, memory, netns, ..VmOptions::new(&kernel, &archive) })?;
        let mut most_threads = 0;
        let daemon = self.daemon.running().pid();
        let followed = NetworkReport::follow(&mut vm, |line| {
            println!("{line}");
            most_threads = most_threads.max(threads_of(daemon.as_raw()));
        });
        let with_log = |error| LabError::Wrong(format!("{error}\n--- umdevd:\n{}", self.daemon.log()));
        let report = followed.map_err(with_log)?;
        told.iter().try_for_each(|key| vm.report(key, Duration::ZERO).map(drop)).map_err(with_log)?;
        println!("it fetched and summed the file in {:.1} s", report.download.took.as_secs_f64());
        if most_threads == 0 {
            let (console, log) = (vm.console(), self.daemon.log());
            return Err(LabError::Wrong(format!(
                "no thread of the daemon served rings\n{console}\n--- umdevd:\n{log}"
            )));
        }
        if report.download.sha256 == self.http.sha256() {
            Ok(report)
        } else {
            let (got, console) = (&report.download.sha256, vm.console());
            Err(with_log(LabError::Wrong(format!("the guest got {got}, not {}\n{console}", self.http.sha256()))))
        }
    }

    /// The daemon.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// How many threads of a process serve rings of vhost-net.
fn threads_of(pid: i32) -> usize {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.starts_with("vhost-net")).count()
}
