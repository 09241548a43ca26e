//! The scene most guest tests share: a namespace, a daemon with a tap instance in it, and the servers a guest talks to.

use super::daemon::{Daemon, DaemonOptions};
use super::guest::{DhcpServer, GUEST_SUBNET, HOST_ADDRESS, MODULES, NetworkReport, network_script};
use super::http::HttpServer;
use super::initramfs::Initramfs;
use super::kernel::{Kernel, KernelName};
use super::machine::{Claim, claim};
use super::netns::Netns;
use super::process::wait_until;
use super::qemu::QemuName;
use super::shim::Shim;
use super::vdpa::{Vdpa, VdpaWay};
use super::vm::{Memory, Netdev, Vm, VmOptions};
use super::{LabError, LabResult};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(5);

/// A tap instance that a guest can be given, and what is on the other side of it.
#[derive(Debug)]
pub struct TapScene {
    // dropped in this order
    http: HttpServer,
    _dhcp: DhcpServer,
    daemon: Daemon,
    uuid: String,
    interface: String,
    netns: Netns,
    dir: TempDir,
    _claim: Claim,
}

impl TapScene {
    /// Claims the machine and builds the scene, its web server holding a file of so many MiB.
    pub fn build(mebibytes: usize) -> LabResult<Self> {
        Self::build_with(mebibytes, "")
    }

    /// The same, the instance created with parameters (`key=value …`).
    pub fn build_with(mebibytes: usize, parameters: &str) -> LabResult<Self> {
        Self::build_of("tap-net", mebibytes, parameters)
    }

    /// The same, of another type.
    pub fn build_of(type_name: &str, mebibytes: usize, parameters: &str) -> LabResult<Self> {
        let claim = claim()?;
        let dir =
            tempfile::Builder::new().prefix("umdev-scene-").tempdir().map_err(LabError::io("make a directory"))?;
        let netns = Netns::create("umdev-scene")?;
        let parents = ["tap:tap0"];
        let daemon =
            Daemon::start(&DaemonOptions { root: &dir.path().join("root"), parents: &parents, netns: Some(&netns) })?;
        let uuid = Uuid::new_v4().to_string();
        daemon.create("tap0", type_name, format!("{uuid} {parameters}").trim_end())?;
        let interface = format!("umdev{}", &uuid[..8]);
        wait_until(&format!("the interface {interface}"), SOON, || netns.has_interface(&interface))?;
        netns.address(&interface, GUEST_SUBNET)?;
        let dhcp = DhcpServer::start(&netns, &interface)?;
        let http = HttpServer::start(&netns, &format!("{HOST_ADDRESS}:80"), mebibytes)?;
        Ok(Self { http, _dhcp: dhcp, daemon, uuid, interface, netns, dir, _claim: claim })
    }

    /// The daemon.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// The instance.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The namespace of the instance's interface.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The instance's interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Starts the shim on the instance.
    pub fn shim(&self) -> LabResult<Shim> {
        Shim::start(&self.daemon, &self.uuid, &self.dir.path().join("vhost-user.sock"))
    }

    /// The instance as a vhost-vdpa device, which QEMU opens.
    pub fn vhost_vdpa(&self) -> Netdev {
        self.vhost_vdpa_by(VdpaWay::Plain)
    }

    /// The instance as a vhost-vdpa device, driven in one of QEMU's ways.
    pub fn vhost_vdpa_by(&self, way: VdpaWay) -> Netdev {
        Netdev::VhostVdpa(Vdpa::new(self.daemon.vhost_file(&self.uuid), way))
    }

    /// Boots a guest in the stock QEMU, which takes an address, pings and downloads. An error if the file it got is another.
    pub fn run_guest(&self, name: KernelName, netdev: Netdev, memory: Memory) -> LabResult<NetworkReport> {
        self.run_guest_in(QemuName::Stock, name, netdev, memory)
    }

    /// The same in the QEMU `qemu`.
    pub fn run_guest_in(
        &self,
        qemu: QemuName,
        name: KernelName,
        netdev: Netdev,
        memory: Memory,
    ) -> LabResult<NetworkReport> {
        self.run_guest_told(qemu, name, netdev, memory, |_| {})
    }

    /// The same; `told` is called with QEMU's process at each step of the guest.
    pub fn run_guest_told(
        &self,
        qemu: QemuName,
        name: KernelName,
        netdev: Netdev,
        memory: Memory,
        mut told: impl FnMut(Pid),
    ) -> LabResult<NetworkReport> {
        let kernel = Kernel::find(name)?;
        let (_initramfs, archive) = guest_files(&kernel)?;
        let processors = netdev.processors();
        let options = VmOptions { qemu, netdev, memory, processors, ..VmOptions::new(&kernel, &archive) };
        let mut vm = Vm::boot(&options)?;
        let process = vm.qemu().pid();
        let followed = NetworkReport::follow(&mut vm, |line| {
            println!("{line}");
            told(process);
        });
        let with_log = |error| LabError::Wrong(format!("{error}\n--- umdevd:\n{}", self.daemon.log()));
        let report = followed.map_err(with_log)?;
        println!("it fetched and summed the file in {:.1} s", report.download.took.as_secs_f64());
        println!("the machine lived for {:.1} s", vm.age().as_secs_f64());
        if report.download.sha256 == self.http.sha256() {
            Ok(report)
        } else {
            Err(LabError::Wrong(format!("the guest got {}, not {}", report.download.sha256, self.http.sha256())))
        }
    }

    /// Removes the instance as a user does, and sees that it and its interface are gone.
    pub fn remove_instance(&self) -> LabResult<()> {
        self.daemon.remove(&self.uuid)?;
        wait_until("the interface to go", SOON, || !self.netns.has_interface(&self.interface))?;
        let gone = |path: &Path| {
            if path.exists() { Err(LabError::Wrong(format!("{} is there still", path.display()))) } else { Ok(()) }
        };
        gone(&self.daemon.instance_dir(&self.uuid))?;
        gone(&self.daemon.vhost_file(&self.uuid))
    }
}

fn guest_files(kernel: &Kernel) -> LabResult<(Initramfs, PathBuf)> {
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(kernel, &MODULES)?;
    let archive = initramfs.finish(&network_script())?;
    Ok((initramfs, archive))
}
