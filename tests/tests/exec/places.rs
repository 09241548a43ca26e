//! What a program sees at the kernel's paths.

use crate::{exec, shell};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use umdev_tests::driver::{Daemon, eventually, group_number};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_program_finds_an_instance_at_the_kernels_paths_where_mdev_was_never_loaded() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let group = group_number(daemon.root(), &uuid).unwrap();
    assert_eq!(shell(&daemon, "ls /sys/bus/mdev/devices"), uuid);
    assert_eq!(shell(&daemon, "ls /sys/class/mdev_bus /sys/devices/virtual/mdev | sort -u | grep loop"), "loopback0");
    let links = shell(&daemon, &format!("cd /sys/bus/mdev/devices/{uuid} && realpath . subsystem iommu_group"));
    let device = format!("/sys/devices/virtual/mdev/loopback0/{uuid}");
    assert_eq!(
        links.lines().collect::<Vec<_>>(),
        [device.as_str(), "/sys/bus/mdev", &format!("/sys/kernel/iommu_groups/{group}")]
    );
    let member = shell(&daemon, &format!("realpath /sys/kernel/iommu_groups/{group}/devices/*"));
    assert_eq!(member, device);
    let nodes = shell(&daemon, &format!("ls -d /dev/vfio/vfio /dev/vfio/{group} $(realpath /dev/vhost-vdpa-0)"));
    assert_eq!(nodes, format!("/dev/vfio/{group}\n/dev/vfio/vfio\n/dev/vhost-mdev/{uuid}"));
}

#[test]
fn nothing_of_it_is_seen_outside() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let group = group_number(daemon.root(), &uuid).unwrap();
    shell(&daemon, "ls /dev/vfio/vfio /sys/bus/mdev");
    for path in ["/sys/bus/mdev/devices", "/sys/devices/virtual/mdev/loopback0", "/dev/vhost-vdpa-0"] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    assert!(!Path::new("/dev/vfio").join(group).exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(" /dev/vfio "), "{mounts}");
}

#[test]
fn what_is_really_there_stays() {
    let daemon = Daemon::start();
    let list = "ls -a /dev /sys/bus /sys/class /sys/devices/virtual";
    let inside = shell(&daemon, list);
    let outside = std::process::Command::new("sh").args(["-c", list]).output().unwrap();
    let outside = String::from_utf8(outside.stdout).unwrap();
    let missing: Vec<&str> = outside.lines().filter(|name| !inside.lines().any(|line| &line == name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(
        shell(&daemon, "echo into >/dev/null; head -c 4 /dev/zero | wc -c; readlink /dev/fd"),
        "4\n/proc/self/fd"
    );
    assert_eq!(shell(&daemon, "cat /sys/class/net/lo/ifindex; cat /sys/devices/virtual/net/lo/ifindex"), "1\n1");
    assert_eq!(shell(&daemon, "echo 1 > /sys/devices/virtual/net/lo/tx_queue_len && echo written"), "written");
}

#[test]
fn an_instance_is_made_and_removed_at_the_kernels_paths() {
    let daemon = Daemon::start();
    let uuid = umdev_tests::driver::new_uuid();
    let script = format!(
        "echo {uuid} > /sys/class/mdev_bus/loopback0/mdev_supported_types/loopback-net/create && \
         ls /sys/bus/mdev/devices && echo 1 > /sys/bus/mdev/devices/{uuid}/remove && ls /sys/bus/mdev/devices"
    );
    assert_eq!(shell(&daemon, &script), uuid);
}

#[test]
fn a_daemon_that_is_started_again_is_found_by_a_program_that_runs() {
    let mut daemon = Daemon::start();
    let former = daemon.create();
    let mut program = Inside::start(&daemon);
    assert!(program.sees(&format!("/sys/bus/mdev/devices/{former}")));
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        daemon.end(signal);
        daemon.start_again();
        let uuid = daemon.create();
        let places = ["/sys/bus/mdev/devices/", "/sys/devices/virtual/mdev/loopback0/", "/dev/vhost-mdev/"];
        let paths = places.map(|place| format!("{place}{uuid}"));
        let own = daemon.instance_dir(&uuid).to_str().unwrap().to_owned();
        for path in paths.iter().chain([&own]) {
            assert!(eventually(PATIENCE, || program.sees(path)), "{path} after {signal}");
        }
        let group = format!("/dev/vfio/{}", group_number(daemon.root(), &uuid).unwrap());
        assert!(program.sees(&group), "{group} after {signal}");
    }
}

#[test]
fn instances_come_and_go_while_a_program_runs() {
    let daemon = Daemon::start();
    let mut program = Inside::start(&daemon);
    let uuid = daemon.create();
    assert!(program.sees(&format!("/sys/bus/mdev/devices/{uuid}")));
    assert!(eventually(PATIENCE, || program.sees("/dev/vhost-vdpa-0")));
    daemon.remove(&uuid, "1").unwrap();
    assert!(!program.sees(&format!("/sys/bus/mdev/devices/{uuid}")));
    assert!(eventually(PATIENCE, || !program.sees("/dev/vhost-vdpa-0")));
}

#[test]
fn instances_are_seen_without_a_stream_of_events_too() {
    let daemon = Daemon::start();
    let listeners: Vec<_> = (0..64).map(|_| daemon.watch()).collect();
    let mut program = Inside::start(&daemon);
    daemon.create();
    assert!(eventually(PATIENCE, || program.sees("/dev/vhost-vdpa-0")));
    assert_eq!(listeners.len(), 64, "all the daemon has");
}

/// A machine with VFIO, as far as it can be made here: nodes of other devices under the names of a group and of a container.
const MACHINE_WITH_VFIO: &str = "\
mount --make-rprivate / && mount -t tmpfs none $1 && cp -a /dev/null /dev/zero $1 && mkdir -p $1/vfio/devices && \
mknod $1/vfio/vfio c 1 5 && mknod $1/vfio/7 c 1 3 && mknod $1/vfio/devices/vfio7 c 1 3 && mknod $1/vhost-net c 1 3 && \
mount --move $1 /dev && shift && exec \"$@\"";

#[test]
fn real_vfio_nodes_are_beside_ours_and_both_come_and_go() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let group = group_number(daemon.root(), &uuid).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let shell = exec(daemon.root(), "sh", &[]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", MACHINE_WITH_VFIO, "sh"]).arg(dir.path()).arg(shell.get_program());
    let mut program = Inside::of(command.args(shell.get_args()));
    for node in ["/dev/vfio/7", "/dev/vfio/devices/vfio7", "/dev/vhost-net"] {
        assert_eq!(program.says(&format!("stat -c %F {node}")), "character special file", "{node}");
    }
    assert_eq!(program.says("echo into > /dev/vfio/7; echo $?"), "0", "the real node works");
    for node in ["vfio", &group, "devices/vfio0"] {
        assert_eq!(program.says(&format!("stat -c %F /dev/vfio/{node}")), "regular file", "{node}");
    }
    let second = daemon.create();
    let later = group_number(daemon.root(), &second).unwrap();
    assert!(eventually(PATIENCE, || program.sees(&format!("/dev/vfio/{later}"))));
    daemon.remove(&second, "1").unwrap();
    assert!(eventually(PATIENCE, || !program.sees(&format!("/dev/vfio/{later}"))));
    assert!(program.sees("/dev/vfio/7"));
}

/// A shell inside, asked one thing after the other.
struct Inside {
    shell: Child,
    answers: BufReader<ChildStdout>,
}

impl Inside {
    fn start(daemon: &Daemon) -> Self {
        Self::of(&mut exec(daemon.root(), "sh", &[]))
    }

    fn of(command: &mut Command) -> Self {
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        Self { shell, answers }
    }

    fn sees(&mut self, path: &str) -> bool {
        self.says(&format!("test -L {path} -o -e {path}; echo $?")) == "0"
    }

    /// What a command says, one line.
    fn says(&mut self, command: &str) -> String {
        writeln!(self.shell.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}
