//! `umdev-demo`: the whole path on one page. A daemon, an instance made by `echo`, the shim, and a Debian guest in unmodified QEMU that pings and
//! downloads through it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use umdev_tests::lab::{
    Daemon, DaemonOptions, DhcpServer, GUEST_SUBNET, HOST_ADDRESS, HttpServer, Initramfs, Kernel, KernelName, LabError,
    LabResult, MODULES, Netdev, Netns, NetworkReport, Shim, Vm, VmOptions, claim, network_script, wait_until,
};
use uuid::Uuid;

const NETNS: &str = "umdev-demo";
const ROOT: &str = "/run/umdev-demo";
const SOCKET: &str = "/run/umdev-demo.sock";
const MEBIBYTES: usize = 64;

fn main() -> ExitCode {
    let start = Instant::now();
    match demo() {
        Ok(()) => {
            println!("demo: everything is gone again, after {:.0} s", start.elapsed().as_secs_f64());
            println!("demo: PASS");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let text = error.to_string();
            let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
            if !rest.is_empty() {
                eprintln!("{rest}");
            }
            println!("demo: FAIL: {first}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    println!("demo: {text}");
}

fn demo() -> LabResult<()> {
    let _claim = claim()?;
    let kernel = Kernel::find(KernelName::Stock)?;
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(&kernel, &MODULES)?;
    let archive = initramfs.finish(&network_script())?;

    let netns = Netns::create(NETNS)?;
    say(&format!("all traffic stays in the network namespace {NETNS}"));
    let parents = ["tap:tap0", "loopback:loopback0"];
    let daemon = Daemon::start(&DaemonOptions { root: Path::new(ROOT), parents: &parents, netns: Some(&netns) })?;
    say(&format!("umdevd serves {ROOT} with the parents {}", parents.join(" and ")));
    // a demo that was killed in the middle leaves its instance, and the daemon restores what `create` made
    for uuid in daemon.instances()? {
        daemon.remove(&uuid)?;
        say(&format!("removed {uuid}, left by an earlier run"));
    }

    let uuid = Uuid::new_v4().to_string();
    daemon.create("tap0", "tap-net", &uuid)?;
    say(&format!("echo {uuid} > {}", daemon.create_file("tap0", "tap-net").display()));
    let interface = format!("umdev{}", &uuid[..8]);
    wait_until(&format!("the interface {interface}"), Duration::from_secs(5), || netns.has_interface(&interface))?;
    netns.address(&interface, GUEST_SUBNET)?;
    let _dhcp = DhcpServer::start(&netns, &interface)?;
    let http = HttpServer::start(&netns, &format!("{HOST_ADDRESS}:80"), MEBIBYTES)?;

    let mut shim = Shim::start(&daemon, &uuid, Path::new(SOCKET))?;
    say(&format!("the shim serves the instance to vhost-user front ends on {SOCKET}"));
    let mut vm = Vm::boot(&VmOptions {
        netdev: Netdev::VhostUser(shim.socket().to_path_buf()),
        ..VmOptions::new(&kernel, &archive)
    })?;
    say("QEMU boots a Debian guest on it, under software emulation");
    let followed = NetworkReport::follow(&mut vm, |line| say(&format!("  guest: {line}")));
    let report = followed.map_err(|error| {
        LabError::Wrong(format!("{error}\n--- shim:\n{}\n--- umdevd:\n{}", shim.running().tail(), daemon.log()))
    })?;
    let took = report.download.took.as_secs_f64();
    if report.download.sha256 != http.sha256() {
        let (got, sent) = (&report.download.sha256, http.sha256());
        return Err(LabError::Wrong(format!("the guest's {MEBIBYTES} MiB have the checksum {got}, not {sent}")));
    }
    say(&format!("  guest: it fetched {MEBIBYTES} MiB in {took:.1} s, and the SHA-256 is right: {}", http.sha256()));

    daemon.remove(&uuid)?;
    wait_until(&format!("the interface {interface} to go"), Duration::from_secs(5), || {
        !netns.has_interface(&interface)
    })?;
    if daemon.instance_dir(&uuid).exists() {
        return Err(LabError::Wrong(format!("the instance {uuid} was removed and is there still")));
    }
    say(&format!("echo 1 > {}", daemon.instance_dir(&uuid).join("remove").display()));
    drop((vm, shim, http, daemon));
    for path in [SOCKET, ROOT] {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    }
    let _ = fs::remove_dir_all(format!("{ROOT}.state"));
    drop(netns);
    let traces = [ROOT.to_owned(), format!("{ROOT}.state"), SOCKET.to_owned(), format!("/run/netns/{NETNS}")];
    match traces.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        Some(left) => Err(LabError::Wrong(format!("{left} is there still"))),
        None => Ok(()),
    }
}
