//! A running guest goes from one QEMU to another, and so from one tap instance or device of vhost-net to another, in the
//! middle of a download.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use umdev_tests::lab::{
    Claim, Daemon, DaemonOptions, DhcpServer, Download, GUEST_SUBNET, HOST_ADDRESS, HttpServer, Initramfs, Kernel,
    KernelName, LabError, LabResult, MODULES, Monitor, Netdev, Netns, QemuName, Vdpa, VdpaWay, VhostNet, Vm, VmOptions,
    claim, stream_script, wait_until,
};
use uuid::Uuid;

const MEBIBYTES: usize = 128;
const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);

/// Two ports of one bridge, behind which the guest's file is.
struct Bridge {
    // dropped in this order
    http: HttpServer,
    _dhcp: DhcpServer,
    daemon: Daemon,
    ports: [Port; 2],
    netns: Netns,
    dir: tempfile::TempDir,
    _claim: Claim,
}

struct Port {
    interface: String,
    netdev: Netdev,
}

impl Port {
    /// A tap instance, which QEMU has as vhost-vdpa.
    fn instance(daemon: &Daemon, parameters: &str, way: VdpaWay) -> LabResult<Self> {
        let uuid = Uuid::new_v4().to_string();
        daemon.create("tap0", "tap-net", format!("{uuid} {parameters}").trim_end())?;
        let netdev = Netdev::VhostVdpa(Vdpa::new(daemon.vhost_file(&uuid), way));
        Ok(Self { interface: format!("umdev{}", &uuid[..8]), netdev })
    }

    /// An interface that QEMU opens, its rings in vhost-net.
    fn vhost_net(daemon: &Daemon, netns: &Netns, number: usize) -> LabResult<Self> {
        let interface = format!("vnet{number}");
        netns.run(&format!("ip tuntap add dev {interface} mode tap"))?;
        let file = daemon.root().join("dev/vhost-net");
        Ok(Self { netdev: Netdev::VhostNet(VhostNet { file, interface: interface.clone() }), interface })
    }
}

impl Bridge {
    fn build(port: impl Fn(&Daemon, &Netns, usize) -> LabResult<Port>) -> LabResult<Self> {
        let claim = claim()?;
        let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
        let netns = Netns::create("umdev-bridge")?;
        let root = dir.path().join("root");
        let daemon = Daemon::start(&DaemonOptions { root: &root, parents: &["tap:tap0"], netns: Some(&netns) })?;
        netns.run("ip link add bridge0 type bridge")?;
        let ports = [port(&daemon, &netns, 0)?, port(&daemon, &netns, 1)?];
        for Port { interface, .. } in &ports {
            wait_until(&format!("the interface {interface}"), PATIENCE, || netns.has_interface(interface))?;
            netns.run(&format!("ip link set {interface} master bridge0 && ip link set {interface} up"))?;
        }
        netns.address("bridge0", GUEST_SUBNET)?;
        let dhcp = DhcpServer::start(&netns, "bridge0")?;
        let http = HttpServer::start(&netns, &format!("{HOST_ADDRESS}:80"), MEBIBYTES)?;
        Ok(Self { http, _dhcp: dhcp, daemon, ports, netns, dir, _claim: claim })
    }

    /// So many bytes of frames went to the guest through a port.
    fn received(&self, port: usize) -> u64 {
        let said = self.netns.run(&format!("ip -json -stats link show dev {}", self.ports[port].interface));
        let said: Option<Value> = said.ok().and_then(|said| serde_json::from_str(&said).ok());
        said.and_then(|said| said[0]["stats64"]["tx"]["bytes"].as_u64()).unwrap_or(0)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn migrate_during_a_download(qemu: QemuName, bridge: &Bridge) -> LabResult<()> {
    let kernel = Kernel::find(KernelName::Newer)?;
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(&kernel, &MODULES)?;
    let archive = initramfs.finish(&stream_script())?;
    let monitors = [bridge.path("source.qmp"), bridge.path("destination.qmp")];
    let socket = bridge.path("migration");
    let options = |side: usize| VmOptions {
        qemu,
        netdev: bridge.ports[side].netdev.clone(),
        netns: Some(&bridge.netns),
        monitor: Some(&monitors[side]),
        incoming: (side == 1).then_some(&socket),
        mebibytes: 256,
        processors: bridge.ports[side].netdev.processors(),
        ..VmOptions::new(&kernel, &archive)
    };
    let source = Vm::boot(&options(0))?;
    let address = source.report("address", BOOT)?;
    assert!(!address.is_empty(), "{}", source.console());
    let mut destination = Vm::boot(&options(1))?;
    let mut from = Monitor::connect(&monitors[0])?;
    let mut to = Monitor::connect(&monitors[1])?;
    wait_until("the download to flow", PATIENCE, || bridge.received(0) > 4 << 20)?;

    from.execute("migrate", json!({ "uri": format!("unix:{}", socket.display()) }))?;
    let said = from.migrated(PATIENCE).map_err(|error| {
        LabError::Wrong(format!("{error}\n{}\n{}\n{}", source.console(), destination.console(), bridge.daemon.log()))
    })?;
    let left = bridge.received(0);
    assert_eq!(to.execute("query-status", json!({}))?["status"], "running");
    drop(source);

    let download = Download::follow(&destination)
        .map_err(|error| LabError::Wrong(format!("{error}\n--- umdevd:\n{}", bridge.daemon.log())))?;
    destination.wait_end(PATIENCE)?;
    println!(
        "migrated in {} ms, {} ms of them stopped; {:.1} of {MEBIBYTES} MiB came before; the download took {:.1} s; the machine lived for {:.1} s there",
        said["total-time"],
        said["downtime"],
        left as f64 / f64::from(1 << 20),
        download.took.as_secs_f64(),
        destination.age().as_secs_f64()
    );
    assert_eq!(download.sha256, bridge.http.sha256());
    let came = bridge.received(1);
    assert!(came > 1 << 20, "only {came} bytes of the download came through the second port");
    Ok(())
}

fn migrate_between_instances(parameters: &str, way: VdpaWay) -> LabResult<()> {
    let bridge = Bridge::build(|daemon, _, _| Port::instance(daemon, parameters, way))?;
    migrate_during_a_download(QemuName::Newer, &bridge)
}

#[test]
fn a_guest_migrates_to_another_instance_in_the_middle_of_a_download() -> LabResult<()> {
    migrate_between_instances("", VdpaWay::Plain)
}

#[cfg(feature = "full")]
#[test]
fn a_guest_with_two_pairs_and_a_control_queue_migrates_in_the_middle_of_a_download() -> LabResult<()> {
    migrate_between_instances("pairs=2", VdpaWay::Pairs(2))
}

#[test]
fn a_guest_on_vhost_net_migrates_in_the_middle_of_a_download() -> LabResult<()> {
    migrate_during_a_download(QemuName::Newer, &Bridge::build(Port::vhost_net)?)
}

#[cfg(feature = "full")]
#[test]
fn a_guest_of_qemu_7_on_vhost_net_migrates_in_the_middle_of_a_download() -> LabResult<()> {
    migrate_during_a_download(QemuName::Stock, &Bridge::build(Port::vhost_net)?)
}
