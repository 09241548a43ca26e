//! Descriptors that are not what a notifier is.

use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The calls that take a notifier, for queue 1 where they name a queue.
const NOTIFIERS: [u32; 5] =
    [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR, VHOST_VDPA_SET_CONFIG_CALL, VHOST_SET_LOG_FD];
const PATIENCE: Duration = Duration::from_secs(5);

fn set(client: &Client, cmd: u32, number: i32) -> CallResult<()> {
    match cmd {
        VHOST_VDPA_SET_CONFIG_CALL => client.vhost.set_config_call(number),
        VHOST_SET_LOG_FD => client.vhost.set_log_fd(number),
        cmd => client.vhost.set_vring_fd_number(cmd, 1, number),
    }
}

fn set_event(client: &Client, cmd: u32, event: &EventFd) {
    set(client, cmd, event.as_fd().as_raw_fd()).unwrap();
}

/// An eventfd that cannot count further, and blocks whoever tries.
fn full() -> EventFd {
    let full = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    full.write(u64::MAX - 1).unwrap();
    full
}

/// The driver's own notifiers again, and they work.
#[track_caller]
fn recovers(client: &mut Client) {
    for cmd in NOTIFIERS {
        set(client, cmd, -1).unwrap();
    }
    client.restart().unwrap();
    (0..3).for_each(|_| client.exchange(&FRAME).unwrap());
}

#[test]
fn f27_only_eventfds_are_notifiers() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let path_only = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open("/dev/null").unwrap();
    let (pipe, _pipe) = nix::unistd::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let (socket, _socket) = UnixStream::pair().unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC).unwrap();
    let own_attribute = File::open(daemon.type_dir("loopback-net").join("name")).unwrap();
    let own_directory = File::open(daemon.root()).unwrap();
    let own_container = Container::open(daemon.root()).unwrap();
    let (group, _) = client.vfio.as_ref().unwrap();
    let table: [(&str, BorrowedFd<'_>, Errno); 12] = [
        ("O_PATH", path_only.as_fd(), Errno::EBADF),
        ("a pipe", pipe.as_fd(), Errno::EINVAL),
        ("/dev/null", null.as_fd(), Errno::EINVAL),
        ("a socket", socket.as_fd(), Errno::EINVAL),
        ("an epoll", epoll.0.as_fd(), Errno::EINVAL),
        ("a timer", timer.as_fd(), Errno::EINVAL),
        ("a memfd", client.memory.file().as_fd(), Errno::EINVAL),
        ("an attribute of ours", own_attribute.as_fd(), Errno::EINVAL),
        ("a directory of ours", own_directory.as_fd(), Errno::EINVAL),
        ("a container of ours", own_container.as_fd(), Errno::EINVAL),
        ("the client's own group", group.as_fd(), Errno::EINVAL),
        ("the vhost file itself", client.vhost.as_fd(), Errno::EINVAL),
    ];
    let closed = null.try_clone().unwrap().as_fd().as_raw_fd();
    for cmd in NOTIFIERS {
        for (what, fd, errno) in &table {
            assert_eq!(refused(set(&client, cmd, fd.as_raw_fd())), *errno, "{what} for {cmd:#x}");
        }
        for number in [closed, 999, i32::MAX] {
            assert_eq!(refused(set(&client, cmd, number)), Errno::EBADF, "{number} for {cmd:#x}");
        }
    }
    // What was refused replaced nothing.
    client.exchange(&FRAME).unwrap();
    recovers(&mut client);
}

#[test]
fn f27_negative_numbers_are_no_descriptor_and_minus_one_takes_a_notifier_away() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    for cmd in [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR] {
        for number in [-2, i32::MIN] {
            assert_eq!(refused(set(&client, cmd, number)), Errno::EBADF, "{number} for {cmd:#x}");
        }
        client.exchange(&FRAME).unwrap();
    }
    let taken = client.tx.call.as_fd().as_raw_fd();
    set(&client, VHOST_SET_VRING_CALL, -1).unwrap();
    let _ = client.tx.call.read();
    client.exchange(&FRAME).unwrap();
    assert_eq!(client.tx.call.read(), Err(Errno::EAGAIN), "no interrupt comes where none is wanted");
    set(&client, VHOST_SET_VRING_CALL, taken).unwrap();
    client.exchange(&FRAME).unwrap();
    recovers(&mut client);
}

#[test]
fn f27_a_kick_that_is_full_or_read_by_others_harms_nobody_else() {
    let mut daemon = Daemon::start();
    let (uuid, mut client) = client(&daemon);
    let (_, mut bystander) = super::client(&daemon);
    let kick = full();
    client.queue(&FRAME);
    set_event(&client, VHOST_SET_VRING_KICK, &kick);
    assert!(eventually(PATIENCE, || client.rx.used_idx() == 2), "a kick that counted before is a kick");
    // Whoever else reads the counter makes the device's own read find nothing: on a descriptor that blocks.
    let thief = kick.as_fd().try_clone_to_owned().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stealing = scope.spawn(|| {
            let mut fds = [PollFd::new(thief.as_fd(), PollFlags::POLLIN)];
            while !done.load(Ordering::Relaxed) {
                if nix::poll::poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
                    // Waits for the next kick if the device was faster.
                    let _ = nix::unistd::read(&thief, &mut [0; 8]);
                }
            }
        });
        for _ in 0..200 {
            kick.write(1).unwrap();
            bystander.exchange(&FRAME).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        while !stealing.is_finished() {
            kick.write(1).unwrap();
            std::thread::yield_now();
        }
    });
    recovers(&mut client);
    assert_eq!(daemon.attribute(&uuid, "state"), "running");
    assert!(daemon.is_alive());
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
fn f27_notifiers_that_are_full_and_block_do_not_hold_up_a_device_that_fails() {
    let mut daemon = Daemon::start();
    let (uuid, mut client) = client(&daemon);
    let (_, mut bystander) = super::client(&daemon);
    let full = full();
    for cmd in [VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR, VHOST_VDPA_SET_CONFIG_CALL] {
        set_event(&client, cmd, &full);
    }
    // The ring is told to be faulty, and the configuration to have changed.
    let beyond = client.tx.avail_idx.wrapping_add(client.tx.size + 1);
    client.tx.publish(beyond);
    client.tx.notify().unwrap();
    daemon.wait_for(&uuid, "state", "needs_reset");
    bystander.exchange(&FRAME).unwrap();
    recovers(&mut client);
    drop(client);
    daemon.wait_for(&uuid, "state", "idle");
    daemon.remove(&uuid, "1").unwrap();
    assert!(daemon.is_alive());
}

#[test]
fn f27_a_log_whose_eventfd_is_full_and_blocks_is_written_all_the_same() {
    let mut daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let (_, mut bystander) = super::client(&daemon);
    let bitmap = Map::private(NonZeroUsize::new(4096).unwrap()).unwrap();
    set_event(&client, VHOST_SET_LOG_FD, &full());
    client.vhost.set_log_base(bitmap.address()).unwrap();
    client.vhost.set_features(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | VHOST_F_LOG_ALL).unwrap();
    for _ in 0..5 {
        client.exchange(&FRAME).unwrap();
        bystander.exchange(&FRAME).unwrap();
    }
    let mut bytes = [0; 4096];
    bitmap.read(0, &mut bytes);
    assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 5, "a page a frame");
    recovers(&mut client);
    assert!(daemon.is_alive());
}

#[test]
fn f27_semaphores_serve_as_any_notifier() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    for flags in [EfdFlags::EFD_NONBLOCK, EfdFlags::empty()] {
        let semaphore = || EventFd::from_flags(EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_CLOEXEC | flags).unwrap();
        client.tx.kick = semaphore();
        let (call, err, config) = (semaphore(), semaphore(), semaphore());
        set_event(&client, VHOST_SET_VRING_KICK, &client.tx.kick);
        for (cmd, event) in
            [(VHOST_SET_VRING_CALL, &call), (VHOST_SET_VRING_ERR, &err), (VHOST_VDPA_SET_CONFIG_CALL, &config)]
        {
            set_event(&client, cmd, event);
        }
        (0..20).for_each(|_| client.exchange(&FRAME).unwrap());
        assert_eq!(call.read(), Ok(1), "one at a time");
    }
    recovers(&mut client);
}

#[test]
fn f27_a_semaphore_at_its_maximum_is_a_kick_like_any_other() {
    let mut daemon = Daemon::start();
    let (uuid, mut client) = client(&daemon);
    let (_, mut bystander) = super::client(&daemon);
    let endless = EventFd::from_flags(EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_CLOEXEC).unwrap();
    endless.write(u64::MAX - 1).unwrap();
    client.queue(&FRAME);
    set_event(&client, VHOST_SET_VRING_KICK, &endless);
    assert!(eventually(PATIENCE, || client.rx.used_idx() == 2));
    (0..20).for_each(|_| bystander.exchange(&FRAME).unwrap());
    let begun = Instant::now();
    client.vhost.set_status(0).unwrap();
    assert!(begun.elapsed() < PATIENCE, "a reset took {:?}", begun.elapsed());
    recovers(&mut client);
    assert_eq!(daemon.attribute(&uuid, "state"), "running");
    assert!(daemon.is_alive());
}

#[test]
fn f27_one_eventfd_can_be_every_notifier_of_both_queues() {
    let mut daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let (_, mut bystander) = super::client(&daemon);
    let one = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
    for cmd in NOTIFIERS {
        set_event(&client, cmd, &one);
    }
    for cmd in [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL] {
        client.vhost.set_vring_fd(cmd, 0, &one).unwrap();
    }
    client.tx.kick = one;
    for _ in 0..20 {
        client.exchange(&FRAME).unwrap();
        bystander.exchange(&FRAME).unwrap();
    }
    let fresh = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
    (client.tx.kick, client.tx.call) = (fresh(), fresh());
    recovers(&mut client);
    assert!(daemon.is_alive());
}

/// Each is taken while another thread makes its number now an eventfd, now another file, now nothing.
#[test]
fn f27_a_number_that_is_reused_meanwhile_gives_an_eventfd_or_a_refusal() {
    let mut daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let null = File::open("/dev/null").unwrap();
    let mut target = null.try_clone().map(OwnedFd::from).unwrap();
    let number = target.as_raw_fd();
    let done = AtomicBool::new(false);
    let mut answers = [0_u32; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                nix::unistd::dup2(&event, &mut target).unwrap();
                nix::unistd::dup2(&null, &mut target).unwrap();
            }
        });
        for round in 0..4000 {
            match set(&client, NOTIFIERS[round % NOTIFIERS.len()], number) {
                Ok(()) => answers[0] += 1,
                Err(error) => {
                    assert!(matches!(error.errno(), Some(Errno::EINVAL | Errno::EBADF)), "{error}");
                    answers[1] += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(answers.iter().all(|count| *count > 0), "taken and refused: {answers:?}");
    recovers(&mut client);
    assert!(daemon.is_alive());
}
