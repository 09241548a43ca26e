//! The drivers of `samples/`, in C and in Rust: built as their readers would build them, and run.

use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use umdev_tests::driver::{Daemon, new_uuid, sys};
use umdev_tests::lab::program;

/// The Ethernet type of the samples' frames.
const ETHERTYPE: u16 = 0x88b5;

/// Both languages' builds of one driver.
struct Drivers {
    programs: [PathBuf; 2],
    _built: TempDir,
}

impl Drivers {
    fn of(name: &str) -> Self {
        let built = tempfile::tempdir().unwrap();
        let mut make = Command::new("make");
        make.arg("-C").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/c"));
        let output = make.arg(format!("OUT={}", built.path().display())).arg("CFLAGS=-O1 -g").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        Self { programs: [built.path().join(name), program(name).unwrap()], _built: built }
    }

    /// What each says when it is run with these arguments.
    fn run(&self, arguments: &[&str]) -> [Output; 2] {
        self.programs.each_ref().map(|program| Command::new(program).args(arguments).output().unwrap())
    }

    fn exchange(&self, arguments: &[&str], frames: u32) {
        for output in self.run(&[arguments, &[&frames.to_string()]].concat()) {
            let said = (text(&output.stdout), text(&output.stderr));
            assert_eq!(said, (format!("{frames} frames sent and received\n"), String::new()));
            assert!(output.status.success(), "{}", output.status);
        }
    }

    /// Each fails, with these words.
    fn fail(&self, arguments: &[&str], words: &str) {
        for output in self.run(arguments) {
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(words) && said.lines().count() == 1, "wanted {words}: {said}");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_vfio_driver_exchanges_frames_over_loopback_and_leaves_its_device_free() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let drivers = Drivers::of("vfio-driver");
    // More frames than a ring has places, and every program twice: the first leaves nothing in the second's way.
    for _ in 0..2 {
        drivers.exchange(&[utf8(daemon.root()), &uuid], 600);
    }
    daemon.wait_for(&uuid, "state", "idle");
}

#[test]
fn the_iotlb_driver_exchanges_frames_over_loopback_and_leaves_its_device_free() {
    let daemon = Daemon::start();
    let drivers = Drivers::of("iotlb-driver");
    for kind in ["loopback-net", "loopback-net-iommu"] {
        let uuid = daemon.create_of(kind);
        drivers.exchange(&[utf8(&daemon.vhost_path(&uuid))], 600);
        drivers.exchange(&[utf8(&daemon.vhost_path(&uuid))], 1);
        daemon.wait_for(&uuid, "state", "idle");
    }
}

#[test]
fn both_drivers_exchange_frames_with_a_host_behind_a_tap() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
    let daemon = Daemon::with(&["--parent", "tap:tap0"]);
    let uuid = new_uuid();
    let kind = daemon.path("sys/class/mdev_bus/tap0/mdev_supported_types/tap-net/create");
    fs::write(kind, format!("{uuid} ifname=vnet0")).unwrap();
    // The host sends every frame of theirs back.
    let socket = sys::frames_of("vnet0", ETHERTYPE).unwrap();
    std::thread::spawn(move || {
        let mut frame = [0; 2048];
        while let Ok(len) = nix::unistd::read(&socket, &mut frame) {
            nix::unistd::write(&socket, &frame[..len]).expect("the way back");
        }
    });
    Drivers::of("vfio-driver").exchange(&[utf8(daemon.root()), &uuid], 300);
    Drivers::of("iotlb-driver").exchange(&[utf8(&daemon.vhost_path(&uuid))], 300);
}

#[test]
fn a_driver_that_fails_says_in_which_call_and_why() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (vfio, iotlb) = (Drivers::of("vfio-driver"), Drivers::of("iotlb-driver"));
    let root = utf8(daemon.root());
    vfio.fail(&[root, &new_uuid()], "No such file or directory");
    iotlb.fail(&["/dev/null"], "VHOST_VDPA_GET_DEVICE_ID: ");
    let holder = umdev_tests::driver::Vhost::open(daemon.root(), &uuid).unwrap();
    let node = daemon.vhost_path(&uuid);
    let busy = format!("open {}: Device or resource busy", node.display());
    vfio.fail(&[root, &uuid], &busy);
    iotlb.fail(&[utf8(&node)], &busy);
    drop(holder);
    for output in [vfio.run(&[]), iotlb.run(&[])].iter().flatten() {
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).starts_with("usage: "), "{}", text(&output.stderr));
    }
}
