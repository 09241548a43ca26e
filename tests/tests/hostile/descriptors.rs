//! Descriptors that are not what a notifier is.

use super::*;

#[test]
fn f27_only_eventfds_become_kick_call_and_err() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let path_only = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open("/dev/null").unwrap();
    let (pipe, _pipe) = nix::unistd::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let name = daemon.type_dir("loopback-net").join("name");
    let own_attribute = File::open(name).unwrap();
    let own_container = Container::open(daemon.root()).unwrap();
    let table: [(&str, BorrowedFd<'_>, Errno); 7] = [
        ("O_PATH", path_only.as_fd(), Errno::EBADF),
        ("pipe", pipe.as_fd(), Errno::EINVAL),
        ("/dev/null", null.as_fd(), Errno::EINVAL),
        ("memfd", client.memory.file().as_fd(), Errno::EINVAL),
        ("an attribute of ours", own_attribute.as_fd(), Errno::EINVAL),
        ("a container of ours", own_container.as_fd(), Errno::EINVAL),
        ("the vhost file itself", client.vhost.as_fd(), Errno::EINVAL),
    ];
    for cmd in [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR] {
        for (what, fd, errno) in &table {
            assert_eq!(refused(client.vhost.set_vring_fd(cmd, 0, fd)), *errno, "{what} for {cmd:#x}");
        }
        for number in [-2, 999, i32::MAX, i32::MIN] {
            assert_eq!(refused(client.vhost.set_vring_fd_number(cmd, 0, number)), Errno::EBADF, "{number}");
        }
    }
    client.exchange(&FRAME).unwrap();
    client.vhost.set_vring_fd_number(VHOST_SET_VRING_ERR, 0, -1).unwrap();
}

#[test]
fn f27_a_call_that_is_full_and_blocks_harms_nobody_else() {
    let mut daemon = Daemon::start();
    let (uuid, mut client) = client(&daemon);
    let (_, mut bystander) = super::client(&daemon);
    let full = EventFd::from_flags(EfdFlags::empty()).unwrap();
    full.write(u64::MAX - 1).unwrap();
    for index in [0, 1] {
        client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, index, &full).unwrap();
    }
    for _ in 0..5 {
        client.queue(&FRAME);
        client.tx.notify().unwrap();
        bystander.exchange(&FRAME).unwrap();
    }
    // The counter at its maximum says already that there is something to see.
    assert!(eventually(std::time::Duration::from_secs(5), || client.rx.used_idx() == 6));
    assert_eq!(daemon.attribute(&uuid, "state"), "running");
    client.restart().unwrap();
    client.exchange(&FRAME).unwrap();
    assert!(daemon.is_alive());
}

#[test]
fn f27_semaphores_and_one_eventfd_for_kick_and_call_work() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let semaphore = || EventFd::from_flags(EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_NONBLOCK).unwrap();
    (client.tx.kick, client.tx.call) = (semaphore(), semaphore());
    client.vhost.set_vring_fd(VHOST_SET_VRING_KICK, 1, &client.tx.kick).unwrap();
    client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 1, &client.tx.call).unwrap();
    (0..10).for_each(|_| client.exchange(&FRAME).unwrap());
    client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 1, &client.tx.kick).unwrap();
    (0..10).for_each(|_| client.exchange(&FRAME).unwrap());
}

#[test]
fn f27_a_number_that_is_reused_meanwhile_gives_an_eventfd_or_a_refusal() {
    let mut daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let null = File::open("/dev/null").unwrap();
    let mut target = null.try_clone().map(std::os::fd::OwnedFd::from).unwrap();
    let number = target.as_raw_fd();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                nix::unistd::dup2(&event, &mut target).unwrap();
                nix::unistd::dup2(&null, &mut target).unwrap();
            }
        });
        for _ in 0..2000 {
            match client.vhost.set_vring_fd_number(VHOST_SET_VRING_CALL, 0, number) {
                Ok(()) => {}
                Err(error) => assert!(matches!(error.errno(), Some(Errno::EINVAL | Errno::EBADF)), "{error}"),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    client.restart().unwrap();
    client.exchange(&FRAME).unwrap();
    assert!(daemon.is_alive());
}

#[test]
fn setting_a_call_ten_thousand_times_leaks_no_descriptor() {
    let daemon = Daemon::start();
    let (_, client) = client(&daemon);
    client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 0, &client.rx.call).unwrap();
    let before = daemon.open_fds();
    for _ in 0..10_000 {
        client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 0, &client.rx.call).unwrap();
    }
    let settled = eventually(std::time::Duration::from_secs(10), || daemon.open_fds() <= before + 2);
    assert!(settled, "{before} before, {} after", daemon.open_fds());
}
