//! The calls that a supervisor answers.

use crate::{INSIDE, exec, inside, said, supervisors};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};
use umdev_tests::driver::{Daemon, eventually, group_number};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_group_gives_its_device_to_a_program_that_knows_nothing_of_umdev() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    assert_eq!(inside(&daemon, "device", &uuid), "regions 2, interrupts 2, closed on exec: true");
}

#[test]
fn what_is_wrong_and_what_is_not_ours_is_refused_as_the_kernel_does() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let expected = [
        "another file: ENOTTY",
        "another file, a feature: ENOTTY",
        "no descriptor: EBADF",
        "a bad address: EFAULT",
        "a feature of a group: EOPNOTSUPP",
        "an unknown name: ENODEV",
        "no name: ENODEV",
        "part of a name: ENODEV",
        "a long name: EINVAL",
    ];
    assert_eq!(inside(&daemon, "refused", &uuid).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_thousand_calls_from_eight_threads_leave_nothing() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let before = daemon.open_fds();
    assert_eq!(inside(&daemon, "often", &uuid), "1000 calls, 0 failed, 0 descriptors left");
    daemon.wait_for(&uuid, "state", "idle");
    assert!(daemon.open_fds() <= before + 2, "{before} descriptors of the daemon became {}", daemon.open_fds());
}

#[test]
fn rust_vmms_client_by_group_has_frames_back() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let output = exec(daemon.root(), env!("CARGO_BIN_EXE_umdev-vfio-group"), &[&uuid]).output().unwrap();
    let mac = daemon.attribute(&uuid, "mac");
    let expected = format!("doorbells of 8192 bytes, 2 interrupts\nmac {mac}\n200 frames came back");
    assert_eq!(said(&output), expected);
    daemon.wait_for(&uuid, "state", "idle");
}

#[test]
fn a_signal_takes_no_call_away_after_its_effect() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let expected = "0 interrupted, 0 failed, 0 descriptors that nobody was told of";
    assert_eq!(inside(&daemon, "signals", &uuid), expected);
    // Without SA_RESTART a call may be interrupted that nobody has looked at yet.
    assert_eq!(inside(&daemon, "interrupted", &uuid), "0 failed, 0 descriptors that nobody was told of");
}

#[test]
fn dirty_pages_of_a_container_are_tracked_as_ever() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    assert!(inside(&daemon, "dirty", &uuid).ends_with(" dirty pages"));
}

#[test]
fn a_program_killed_in_the_middle_of_its_calls_is_gone_at_once_and_leaves_nothing() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let group = daemon.path("dev/vfio").join(group_number(daemon.root(), &uuid).unwrap());
    let before = daemon.open_fds();
    for deed in ["forever"; 10].into_iter().chain(["stuck"; 3]) {
        let mut program = exec(daemon.root(), INSIDE, &[deed, &uuid]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "begun\n");
        std::thread::sleep(Duration::from_millis(3));
        let killed = Instant::now();
        program.kill().unwrap();
        program.wait().unwrap();
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
        assert!(eventually(PATIENCE, || supervisors(&daemon) == 0));
        // The supervisor's last copy of the group closes when it has no command line any more.
        assert!(eventually(PATIENCE, || File::options().read(true).write(true).open(&group).is_ok()));
    }
    daemon.wait_for(&uuid, "state", "idle");
    assert!(eventually(PATIENCE, || daemon.open_fds() <= before + 2), "{before} became {}", daemon.open_fds());
}

#[test]
fn rust_vmms_client_by_group_moves_an_instance_to_another() {
    let daemon = Daemon::start();
    let (uuid, other) = (daemon.create(), daemon.create());
    let output = exec(daemon.root(), env!("CARGO_BIN_EXE_umdev-vfio-group"), &[&uuid, &other]).output().unwrap();
    let said = said(&output);
    let (_, migration) = said.split_once("came back\n").unwrap();
    let expected =
        ["migration Some(7)", "half a stream is refused: true, state 0", "the whole is refused: false, state 2"];
    assert_eq!(migration.lines().collect::<Vec<_>>(), expected);
}
