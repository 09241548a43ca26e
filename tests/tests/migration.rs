//! A running guest goes from one QEMU 10.0 to another, and so from one tap instance to another, in the middle of a download.

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use umdev_tests::lab::{
    Claim, Daemon, DaemonOptions, DhcpServer, Download, GUEST_SUBNET, HOST_ADDRESS, HttpServer, Initramfs, Kernel,
    KernelName, LabError, LabResult, MODULES, Monitor, Netdev, Netns, QemuName, Vdpa, VdpaWay, Vm, VmOptions, claim,
    stream_script, wait_until,
};
use uuid::Uuid;

const MEBIBYTES: usize = 128;
const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);

/// Two tap instances on one bridge, behind which the guest's file is.
struct Bridge {
    // dropped in this order
    http: HttpServer,
    _dhcp: DhcpServer,
    daemon: Daemon,
    instances: [String; 2],
    _netns: Netns,
    dir: tempfile::TempDir,
    _claim: Claim,
}

impl Bridge {
    fn build(parameters: &str) -> LabResult<Self> {
        let claim = claim()?;
        let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
        let netns = Netns::create("umdev-bridge")?;
        let root = dir.path().join("root");
        let daemon = Daemon::start(&DaemonOptions { root: &root, parents: &["tap:tap0"], netns: Some(&netns) })?;
        netns.run("ip link add bridge0 type bridge")?;
        let instances = [(); 2].map(|()| Uuid::new_v4().to_string());
        for uuid in &instances {
            daemon.create("tap0", "tap-net", format!("{uuid} {parameters}").trim_end())?;
            let interface = format!("umdev{}", &uuid[..8]);
            wait_until(&format!("the interface {interface}"), PATIENCE, || netns.has_interface(&interface))?;
            netns.run(&format!("ip link set {interface} master bridge0 && ip link set {interface} up"))?;
        }
        netns.address("bridge0", GUEST_SUBNET)?;
        let dhcp = DhcpServer::start(&netns, "bridge0")?;
        let http = HttpServer::start(&netns, &format!("{HOST_ADDRESS}:80"), MEBIBYTES)?;
        Ok(Self { http, _dhcp: dhcp, daemon, instances, _netns: netns, dir, _claim: claim })
    }

    /// So many bytes of frames went to the guest through an instance.
    fn received(&self, instance: usize) -> u64 {
        let path = self.daemon.instance_dir(&self.instances[instance]).join("statistics/rx_bytes");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Waits for the end of an outgoing migration; what QEMU says of it.
fn migrated(monitor: &mut Monitor) -> LabResult<Value> {
    let mut state = Value::Null;
    let ended = wait_until("the end of the migration", PATIENCE, || {
        state =
            monitor.execute("query-migrate", json!({})).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        !matches!(state["status"].as_str(), Some("setup" | "active" | "device" | "pre-switchover"))
    });
    if ended.is_err() || state["status"] != "completed" {
        return Err(LabError::Wrong(format!("the guest did not migrate: {state}")));
    }
    Ok(state)
}

fn migrate_during_a_download(parameters: &str, way: VdpaWay) -> LabResult<()> {
    let bridge = Bridge::build(parameters)?;
    let kernel = Kernel::find(KernelName::Newer)?;
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(&kernel, &MODULES)?;
    let archive = initramfs.finish(&stream_script())?;
    let monitors = [bridge.path("source.qmp"), bridge.path("destination.qmp")];
    let socket = bridge.path("migration");
    let netdev = |side: usize| Netdev::VhostVdpa(Vdpa::new(bridge.daemon.vhost_file(&bridge.instances[side]), way));
    let options = |side: usize| VmOptions {
        qemu: QemuName::Newer,
        netdev: netdev(side),
        monitor: Some(&monitors[side]),
        incoming: (side == 1).then_some(&socket),
        mebibytes: 256,
        processors: netdev(side).processors(),
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
    let said = migrated(&mut from).map_err(|error| {
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
    assert!(came > 1 << 20, "only {came} bytes of the download came through the second instance");
    Ok(())
}

#[test]
fn a_guest_migrates_to_another_instance_in_the_middle_of_a_download() -> LabResult<()> {
    migrate_during_a_download("", VdpaWay::Plain)
}

#[cfg(feature = "full")]
#[test]
fn a_guest_with_two_pairs_and_a_control_queue_migrates_in_the_middle_of_a_download() -> LabResult<()> {
    migrate_during_a_download("pairs=2", VdpaWay::Pairs(2))
}
