//! Two Debian guests in unmodified QEMU at two ports of a switch, whose way out is a TAP interface.

use std::fs;
use std::time::Duration;
use umdev_tests::lab::{
    Daemon, DaemonOptions, DhcpServer, GUEST_SUBNET, HOST_ADDRESS, HttpServer, Initramfs, Kernel, KernelName, LabError,
    LabResult, MODULES, Netdev, Netns, NetworkReport, Vdpa, VdpaWay, Vm, VmOptions, claim, network_script_with,
    server_script, wait_until,
};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(5);
const BOOT: Duration = Duration::from_secs(180);
const MEBIBYTES: usize = 16;
/// The largest frame that is not a segmented one.
const MTU_FRAME: u64 = 1514;

/// The files of a guest that runs `script`.
fn guest(kernel: &Kernel, script: &str) -> LabResult<(Initramfs, std::path::PathBuf)> {
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(kernel, &MODULES)?;
    let archive = initramfs.finish(script)?;
    Ok((initramfs, archive))
}

/// One guest fetches a file from the host, the other one from that guest: nothing is lost or changed, and between the
/// guests large frames and partial checksums pass as they are.
#[test]
fn two_guests_ping_and_transfer_through_a_switch_and_its_uplink() -> LabResult<()> {
    let _claim = claim()?;
    let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
    let netns = Netns::create("umdev-switch")?;
    let parents = ["switch:switch0,uplink=tap:up0"];
    let root = dir.path().join("root");
    let daemon = Daemon::start(&DaemonOptions { root: &root, parents: &parents, netns: Some(&netns) })?;
    wait_until("the interface up0", SOON, || netns.has_interface("up0"))?;
    netns.address("up0", GUEST_SUBNET)?;
    let _dhcp = DhcpServer::start(&netns, "up0")?;
    let http = HttpServer::start(&netns, &format!("{HOST_ADDRESS}:80"), MEBIBYTES)?;
    let macs = ["52:54:00:00:00:01", "52:54:00:00:00:02"];
    let ports = macs.map(|mac| (Uuid::new_v4().to_string(), mac));
    for (uuid, mac) in &ports {
        daemon.create("switch0", "switch-access", &format!("{uuid} mac={mac} spoofchk=on"))?;
    }
    let card = |uuid: &str| Netdev::VhostVdpa(Vdpa::new(daemon.vhost_file(uuid), VdpaWay::Plain));
    let with_log = |error| LabError::Wrong(format!("{error}\n--- umdevd:\n{}", daemon.log()));
    let kernel = Kernel::find(KernelName::Stock)?;

    let [(server, server_mac), (client, client_mac)] = &ports;
    let (_files, archive) = guest(&kernel, &server_script())?;
    let options = VmOptions { netdev: card(server), mac: Some(server_mac), ..VmOptions::new(&kernel, &archive) };
    let vm = Vm::boot(&options)?;
    vm.report("up", BOOT)?;
    let address = vm.report("address", BOOT)?;
    let served = vm.report("serving", BOOT).map_err(with_log)?;
    assert_eq!(served.split_whitespace().next(), Some(http.sha256()), "what the first guest got of the host");

    let (_files, archive) = guest(&kernel, &network_script_with(&address))?;
    let options = VmOptions { netdev: card(client), mac: Some(client_mac), ..VmOptions::new(&kernel, &archive) };
    let mut other = Vm::boot(&options)?;
    let report = NetworkReport::follow(&mut other, |line| println!("{line}")).map_err(with_log)?;
    assert_eq!(report.download.sha256, http.sha256(), "what the second guest got of the first");

    let show = |uuid: &str, name: &str| {
        let path = daemon.instance_dir(uuid).join(name);
        fs::read_to_string(&path).map_err(LabError::path("read", &path))
    };
    let count = |uuid: &str, name: &str| -> LabResult<u64> {
        let text = show(uuid, &format!("statistics/{name}"))?;
        text.trim().parse().map_err(|_| LabError::Wrong(format!("{name} is {text}")))
    };
    let (packets, bytes) = (count(client, "rx_packets")?, count(client, "rx_bytes")?);
    assert!(bytes > 16 << 20 && bytes / packets > MTU_FRAME, "{bytes} bytes in {packets} frames");
    assert_eq!(count(client, "tx_spoofed")? + count(server, "tx_spoofed")?, 0);
    let path = root.join("sys/class/mdev_bus/switch0/fdb");
    let fdb = fs::read_to_string(&path).map_err(LabError::path("read", &path))?;
    for (uuid, mac) in &ports {
        assert!(fdb.contains(&format!("{mac} dev {uuid} vlan 1 master switch0 permanent\n")), "{fdb}");
    }
    assert!(fdb.lines().any(|line| line.contains(" dev up0 vlan 1 used ")), "the host's address is not there: {fdb}");
    Ok(())
}
