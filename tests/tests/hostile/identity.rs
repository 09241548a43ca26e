//! Who calls.

use super::*;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{BufRead, BufReader, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;

#[test]
fn f30_a_second_opener_is_ebusy() {
    let daemon = Daemon::start();
    let (uuid, _client) = client(&daemon);
    assert_eq!(refused(Vhost::open(daemon.root(), &uuid)), Errno::EBUSY);
    assert_eq!(refused(Group::open(daemon.root(), &uuid)), Errno::EBUSY);
}

#[test]
fn f23_f30_a_process_that_inherits_the_file_is_not_its_owner() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let uuid = daemon.create();
    let messages = Client::start(daemon.root(), &uuid, IOTLB).unwrap();
    for vhost in [&client.vhost, &messages.vhost] {
        fcntl(vhost, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let said = caller(&["inherited", &vhost.as_fd().as_raw_fd().to_string()]);
        fcntl(vhost, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        assert_eq!(said.matches(" EPERM").count(), said.split(", ").count(), "{said}");
    }
    client.exchange(&FRAME).unwrap();
}

#[test]
fn f30_a_child_has_the_file_and_none_of_the_owners_rights() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let said = caller(&["forks", daemon.root().to_str().unwrap(), &uuid]);
    assert!(said.ends_with("child 0, parent goes on"), "{said}");
    daemon.wait_for(&uuid, "state", "idle");
}

/// A process that holds a file until it is killed.
struct Holder {
    child: Child,
    _line: UnixStream,
}

impl Holder {
    fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A process that was handed a file over a socket, and what it says of it.
fn handed(vhost: &Vhost) -> (String, Holder) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_umdev-caller"));
    let mut child = command.arg("passed").stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).spawn().unwrap();
    let descriptors = [vhost.as_fd().as_raw_fd()];
    let message = ControlMessage::ScmRights(&descriptors);
    sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(&[0])], &[message], MsgFlags::empty(), None).unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    (said.trim().to_owned(), Holder { child, _line: ours })
}

#[test]
fn f30_a_process_that_is_handed_an_owned_file_has_none_of_the_owners_rights() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let (said, holder) = handed(&client.vhost);
    assert_eq!(said.matches(" EPERM").count(), said.split(", ").count(), "{said}");
    client.exchange(&FRAME).unwrap();
    holder.end();
    client.exchange(&FRAME).unwrap();
}

#[test]
fn f30_a_process_that_is_handed_a_file_without_an_owner_becomes_the_only_one() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let vhost = Vhost::open(daemon.root(), &uuid).unwrap();
    let (said, holder) = handed(&vhost);
    assert_eq!(said, "owner, and may");
    assert_eq!(refused(vhost.set_owner()), Errno::EBUSY);
    assert_eq!(refused(vhost.set_vring_num(0, 64)), Errno::EPERM);
    // The file lives as long as one of the two has it, and whoever opens it next is not its former owner.
    drop(vhost);
    assert_eq!(refused(Vhost::open(daemon.root(), &uuid)), Errno::EBUSY);
    holder.end();
    daemon.wait_for(&uuid, "state", "idle");
    Client::start(daemon.root(), &uuid, Options::default()).unwrap().exchange(&FRAME).unwrap();
}

#[test]
fn f30_of_threads_racing_to_be_the_owner_one_wins_and_all_of_its_process_may() {
    let daemon = Daemon::start();
    for _ in 0..20 {
        let vhost = Vhost::open(daemon.root(), &daemon.create()).unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(|| vhost.set_owner())).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        let losers = results.into_iter().filter(Result::is_err);
        assert!(losers.map(refused).all(|errno| errno == Errno::EBUSY));
        std::thread::scope(|scope| scope.spawn(|| vhost.set_vring_num(0, 64)).join().unwrap()).unwrap();
    }
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
