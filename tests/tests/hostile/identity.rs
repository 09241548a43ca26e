//! Who calls.

use super::*;

#[test]
fn a_second_opener_is_ebusy() {
    let daemon = Daemon::start();
    let (uuid, _client) = client(&daemon);
    assert_eq!(refused(Vhost::open(daemon.root(), &uuid)), Errno::EBUSY);
    assert_eq!(refused(Group::open(daemon.root(), &uuid)), Errno::EBUSY);
}

#[test]
fn f30_a_process_that_inherits_the_file_is_not_its_owner() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let uuid = daemon.create();
    let messages = Client::start(daemon.root(), &uuid, IOTLB).unwrap();
    for vhost in [&client.vhost, &messages.vhost] {
        fcntl(vhost, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let said = caller(&["inherited", &vhost.as_fd().as_raw_fd().to_string()]);
        fcntl(vhost, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        assert!(said.starts_with("num EPERM, enable EPERM, message EPERM, status "), "{said}");
    }
    client.exchange(&FRAME).unwrap();
}

#[test]
fn a_client_under_a_1_khz_timer_sees_no_eintr() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let said = caller(&["signals", daemon.root().to_str().unwrap(), &uuid]);
    assert!(said.starts_with("0 interrupted of "), "{said}");
}

#[test]
fn closing_and_opening_300_times_is_never_ebusy() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    assert_eq!(caller(&["reopens", daemon.root().to_str().unwrap(), &uuid]), "done");
}

#[test]
fn a_node_is_its_owners_alone() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let mut command = Command::new("cat");
    command.arg(daemon.vhost_path(&uuid)).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    // The test's own directory is closed to others; it must not be what refuses.
    let dir = daemon.root().parent().unwrap();
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(!command.status().unwrap().success());
    let mut attribute = Command::new("cat");
    attribute.arg(daemon.type_dir("loopback-net").join("name")).stdout(Stdio::null());
    std::os::unix::process::CommandExt::uid(&mut attribute, 65_534);
    assert!(attribute.status().unwrap().success(), "attributes are for everybody to read");
}
