//! `doctor` on mounts that died or hang. Needs root and /dev/fuse; each test mounts in a mount namespace of its own.

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;

use common::Fixture;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// A FUSE mount on the fixture's root that nobody answers for; dead once `daemon` is closed.
struct Mount<'a> {
    fixture: &'a Fixture,
    daemon: Option<File>,
}

impl<'a> Mount<'a> {
    fn on(fixture: &'a Fixture) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: run as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
        let daemon = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", daemon.as_raw_fd());
        mount(Some("umdev"), fixture.root(), Some("fuse.umdev"), MsFlags::empty(), Some(options.as_str()))
            .expect("mount");
        Self { fixture, daemon: Some(daemon) }
    }

    fn dead(fixture: &'a Fixture) -> Self {
        let mut mount = Self::on(fixture);
        mount.daemon = None;
        mount
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // Or the directory below could not be removed.
        let _ = umount2(self.fixture.root(), MntFlags::MNT_DETACH);
    }
}

fn mount_check(fixture: &Fixture) -> (Option<i32>, Value) {
    let run = fixture.run(&["--json", "doctor"]);
    let report: Value = serde_json::from_str(&run.out).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    (run.code, checks.iter().find(|check| check["check"] == "mount").expect("the check").clone())
}

#[test]
fn what_a_dead_daemon_left_is_found() {
    let fixture = Fixture::empty();
    let _dead = Mount::dead(&fixture);
    let (code, check) = mount_check(&fixture);
    assert_eq!((code, &check["status"]), (Some(0), &Value::from("warn")));
    assert_eq!(check["found"], "ROOT was left by a daemon that died");
}

#[test]
fn every_command_says_that_the_daemon_died() {
    let fixture = Fixture::empty();
    let _dead = Mount::dead(&fixture);
    let died = "umdev: no device tree at ROOT: Transport endpoint is not connected (the daemon that served it died; start umdevd again)\n";
    assert_eq!(fixture.run(&["list"]).refused(), died);
    assert_eq!(
        fixture.run(&["watch"]).refused(),
        "umdev: the daemon is not running: ROOT/fd.sock: Transport endpoint is not connected (it died; start umdevd again)\n"
    );
}

#[test]
fn a_hung_daemon_is_found_without_hanging() {
    let fixture = Fixture::empty();
    let _unanswered = Mount::on(&fixture);
    let (code, check) = mount_check(&fixture);
    assert_eq!((code, &check["status"]), (Some(0), &Value::from("warn")));
    assert_eq!(check["found"], "ROOT does not answer: its daemon hangs");
    let remedy = check["remedy"].as_str().expect("a way out");
    assert!(remedy.contains("/sys/fs/fuse/connections/"), "{remedy}");
}
