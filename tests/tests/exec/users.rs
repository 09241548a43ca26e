//! Users without privileges, who are served in a user name space.

use crate::{INSIDE, said, umdev};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use umdev_tests::driver::{Daemon, new_uuid};

const NOBODY: u32 = 65534;

/// A place where anybody may start the programs.
struct Bin(tempfile::TempDir);

impl Bin {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (program, name) in [(umdev(), "umdev"), (PathBuf::from(INSIDE), "umdev-inside")] {
            fs::copy(program, dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    /// Runs `umdev exec` as nobody.
    fn run(&self, root: &Path, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.0.path().join("umdev"));
        command.arg("--root").arg(root).args(["exec", "--", program]).args(arguments).current_dir("/");
        command.uid(NOBODY).gid(NOBODY).output().unwrap()
    }
}

/// A daemon whose root everybody reaches, and an instance that is nobody's.
fn daemon() -> (Daemon, String) {
    let daemon = Daemon::start();
    fs::set_permissions(daemon.root().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let uuid = new_uuid();
    fs::write(daemon.type_dir("loopback-net").join("create"), format!("{uuid} owner=nobody")).unwrap();
    (daemon, uuid)
}

#[test]
fn a_user_without_privileges_drives_his_own_device() {
    let (daemon, uuid) = daemon();
    let bin = Bin::new();
    let inside = bin.0.path().join("umdev-inside");
    let output = bin.run(daemon.root(), inside.to_str().unwrap(), &["device", &uuid]);
    assert_eq!(said(&output), "regions 2, interrupts 2, closed on exec: true");
}

#[test]
fn in_his_user_name_space_he_is_who_he_was_and_may_do_no_more() {
    let (daemon, _) = daemon();
    let bin = Bin::new();
    let others = daemon.create();
    let say = |script: &str| said(&bin.run(daemon.root(), "sh", &["-c", script]));
    assert_eq!(say("id -u; grep CapEff /proc/self/status"), "65534\nCapEff:\t0000000000000000");
    assert_eq!(say("echo into >/dev/null; ls /dev/vfio/vfio /dev/shm -d"), "/dev/shm\n/dev/vfio/vfio");
    let group = umdev_tests::driver::group_number(daemon.root(), &others).unwrap();
    let refused = bin.run(daemon.root(), "cat", &[&format!("/dev/vfio/{group}")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
}

/// A daemon that dies, and another one at the same place, while a program runs as nobody. Mounts are shared, as systemd makes them.
const RESTART: &str = "\
mount -t tmpfs none $1 && mount --make-shared $1 && root=$1/root && parent=loopback:loopback0
serve() { umdevd --root $root --parent $parent >$1/ready 2>>$1/log & daemon=$!; }
up() { for i in $(seq 200); do grep -q ready $1/ready && return; sleep 0.05; done; cat $1/log >&2; exit 1; }
serve $1; up $1
mkfifo -m 666 $1/go $1/begun; chmod 755 $1
setpriv --reuid 65534 --regid 65534 --clear-groups umdev --root $root exec -- sh -c \
  \"echo begun >$1/begun; read line <$1/go; for i in \\$(seq 200); do ls /sys/class/mdev_bus 2>/dev/null && exit 0; sleep 0.05; done; exit 1\" &
program=$!
read word <$1/begun; kill -9 $daemon; wait $daemon; rm $1/ready; serve $1; up $1
echo now >$1/go; wait $program; echo $?
kill $daemon; wait $daemon; umount -l $1";

#[test]
fn where_mounts_are_shared_a_daemon_that_is_started_again_is_found() {
    let (bin, dir) = (Bin::new(), tempfile::tempdir().unwrap());
    fs::copy(umdev().with_file_name("umdevd"), bin.0.path().join("umdevd")).unwrap();
    let path = format!("{}:{}", bin.0.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "shared", "bash", "-c", RESTART, "bash"]).arg(dir.path()).env("PATH", path);
    assert_eq!(said(&command.output().unwrap()), "loopback0\n0");
}
