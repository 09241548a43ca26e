//! Users without privileges.

use super::*;
use std::os::unix::process::CommandExt;

const USER: u32 = 12_345;

/// The exchange program, run by a user who owns nothing else.
fn exchange(daemon: &Daemon, uuid: &str) -> String {
    // The test's directory, and the program in it, are to be reached by everybody.
    let dir = daemon.root().parent().expect("a directory");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.join("umdev-exchange");
    fs::copy(env!("CARGO_BIN_EXE_umdev-exchange"), &program).unwrap();
    let output = Command::new(&program).arg(daemon.root()).arg(uuid).uid(USER).gid(USER).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_owner_without_privileges_drives_its_instance() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    runs(&dir, &format!("echo {UUID} owner={USER}:{USER} > create"));
    let said = exchange(&daemon, UUID);
    assert!(said.ends_with("exchange: PASS\n"), "{said}");
}

#[test]
fn somebody_else_does_not() {
    let daemon = Daemon::start();
    let said = exchange(&daemon, &daemon.create());
    assert!(said.starts_with("exchange: FAIL") && said.contains("EACCES"), "{said}");
}
