//! The calls that a supervisor answers.

use crate::inside;
use umdev_tests::driver::Daemon;

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
