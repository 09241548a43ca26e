//! `doctor` on this machine: its report is complete and consistent, and it finds what is wrong.

mod common;
#[path = "common/server.rs"]
mod server;

use std::process::Command;

use common::{Fixture, Run};
use serde_json::Value;
use server::{Reply, serve};

fn report(run: &Run) -> Value {
    serde_json::from_str(&run.out).expect("JSON")
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no check {name}"))
}

#[test]
fn every_check_is_reported_on_any_machine() {
    let fixture = Fixture::empty();
    let report = report(&fixture.run(&["--json", "doctor"]));
    let names: Vec<_> = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .map(|check| check["check"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        names,
        [
            "privileges",
            "CAP_SYS_PTRACE",
            "yama ptrace_scope",
            "map_files",
            "pid namespace",
            "kcmp",
            "kernel",
            "PIDFD_THREAD",
            "pidfd_getfd",
            "process_vm_readv",
            "FUSE passthrough",
            "PROCMAP_QUERY",
            "userfaultfd",
            "/dev/fuse",
            "/dev/net/tun",
            "/dev/cuse",
            "/dev/vduse/control",
            "vm.max_map_count",
            "RLIMIT_NOFILE",
            "RLIMIT_MEMLOCK",
            "seccomp listener",
            "mount name space",
            "daemon",
            "mount",
        ]
    );
}

#[test]
fn the_exit_code_says_whether_something_required_is_missing() {
    let run = Fixture::empty().run(&["--json", "doctor"]);
    let report = report(&run);
    let prevented = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .any(|check| check["required"] == true && check["status"] == "missing");
    assert_eq!(report["able"], !prevented);
    assert_eq!(run.code, Some(i32::from(prevented)));
}

#[test]
fn what_is_not_ok_comes_with_a_way_out() {
    let report = report(&Fixture::empty().run(&["--json", "doctor"]));
    for check in report["checks"].as_array().expect("checks") {
        assert_eq!(check["status"] == "ok", check["remedy"].is_null(), "{check}");
    }
}

#[test]
fn a_check_is_one_line() {
    let fixture = Fixture::empty();
    let checks = report(&fixture.run(&["--json", "doctor"]))["checks"].as_array().expect("checks").len();
    let run = fixture.run(&["doctor"]);
    // The header, the checks, an empty line, the verdict.
    assert_eq!(run.out.lines().count(), checks + 3, "{}", run.out);
    assert_eq!(run.err, "");
}

#[test]
fn a_low_limit_of_descriptors_is_found() {
    let fixture = Fixture::empty();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 512; exec \"$0\" --root \"$1\" --json doctor", env!("CARGO_BIN_EXE_umdev")])
        .arg(fixture.root())
        .output()
        .expect("run umdev");
    let report = report(&Run::of(&fixture, output));
    assert_eq!(check(&report, "RLIMIT_NOFILE")["status"], "warn");
    assert_eq!(check(&report, "RLIMIT_NOFILE")["found"], "512: enough for about 51 instances");
}

#[test]
fn a_running_daemon_is_greeted() {
    let fixture = Fixture::new();
    let server = serve(fixture.root(), vec![Reply::hello()]);
    let report = report(&fixture.run(&["--json", "doctor"]));
    server.join().expect("the server");
    assert_eq!(check(&report, "daemon")["status"], "ok");
    assert_eq!(check(&report, "daemon")["found"], format!("umdevd {}, pid 4711", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_daemon_that_is_not_there_is_a_warning() {
    let fixture = Fixture::empty();
    let report = report(&fixture.run(&["--json", "doctor"]));
    assert_eq!(check(&report, "daemon")["status"], "warn");
    assert_eq!(check(&report, "daemon")["remedy"], "start umdevd");
}
