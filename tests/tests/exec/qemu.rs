//! QEMU's own ways of starting: it forks, and it forbids itself system calls.

use crate::{exec, said, supervisors};
use std::time::Duration;
use umdev_tests::driver::{Daemon, eventually, new_uuid};
use umdev_tests::lab::{QemuName, qemu_command};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_daemon_in_its_sandbox_keeps_its_card() {
    let daemon = Daemon::with(&["--parent", "mtty:mtty0"]);
    let uuid = new_uuid();
    let create = daemon.path("sys/class/mdev_bus/mtty0/mdev_supported_types/mtty-1/create");
    std::fs::write(create, &uuid).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pidfile = dir.path().join("pid").to_str().unwrap().to_owned();
    let mut command = qemu_command(QemuName::Newer).unwrap();
    let device = format!("vfio-pci,sysfsdev=/sys/bus/mdev/devices/{uuid}");
    let words = ["-accel", "tcg", "-machine", "q35", "-m", "64", "-S", "-display", "none", "-nodefaults"];
    // The rest of it forbids what -daemonize needs.
    let sandbox = "on,obsolete=deny,resourcecontrol=deny";
    let own = ["-sandbox", sandbox, "-device", &device, "-daemonize", "-pidfile", &pidfile];
    command.extend(words.iter().chain(&own).map(|&word| word.to_owned()));
    let arguments: Vec<&str> = command[1..].iter().map(String::as_str).collect();

    assert_eq!(said(&exec(daemon.root(), &command[0], &arguments).output().unwrap()), "");
    daemon.wait_for(&uuid, "state", "open");
    assert_eq!(supervisors(&daemon), 1);
    let pid = std::fs::read_to_string(&pidfile).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    daemon.wait_for(&uuid, "state", "idle");
    assert!(eventually(PATIENCE, || supervisors(&daemon) == 0));
}
