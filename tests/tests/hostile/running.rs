//! What is changed under a running device: where its groups find memory, and the device itself, reset and removed.

use super::*;
use std::time::{Duration, Instant};

const QUEUES: [u32; 2] = [0, 1];
/// Beside what the driver uses.
const SPACE: u64 = 1 << 40;
const PATIENCE: Duration = Duration::from_secs(10);
const RESETS: usize = 200;

#[test]
fn f35_a_group_or_an_address_space_that_is_not_there_is_refused() {
    let daemon = Daemon::start();
    let uuid = daemon.create_of("loopback-net-cvq");
    let mut client = Client::open(daemon.root(), &uuid, IOTLB).unwrap();
    let asids = VHOST_BACKEND_F_IOTLB_ASID | VHOST_BACKEND_F_DESC_ASID;
    client.vhost.set_backend_features(VHOST_BACKEND_F_IOTLB_MSG_V2 | asids).unwrap();
    let (size, address) = (client.memory.size(), client.memory.address());
    let vhost = &client.vhost;
    let bind = |group, asid| vhost.vring_state("SET_GROUP_ASID", VHOST_VDPA_SET_GROUP_ASID, group, asid);
    for asid in [2, 3, 1 << 16, u32::MAX] {
        for group in [0, 1, 2] {
            assert_eq!(refused(bind(group, asid)), Errno::EINVAL, "group {group} in {asid:#x}");
        }
        assert_eq!(refused(vhost.iotlb_update_in(asid, SPACE, size, address)), Errno::EINVAL, "{asid:#x}");
    }
    for beyond in [3, 4, 1 << 16, u32::MAX] {
        assert_eq!(refused(bind(beyond, 0)), Errno::ENOBUFS, "group {beyond:#x}");
        for cmd in [VHOST_VDPA_GET_VRING_GROUP, VHOST_VDPA_GET_VRING_DESC_GROUP] {
            assert_eq!(refused(vhost.vring_state("GET_VRING_GROUP", cmd, beyond, 0)), Errno::ENOBUFS, "{beyond:#x}");
        }
    }
    // What was refused bound nothing: queues find their rings and buffers where they were.
    client.run().unwrap();
    client.exchange(&FRAME).unwrap();
}

#[test]
fn f35_a_group_is_not_bound_anew_while_the_driver_runs() {
    let daemon = Daemon::start();
    let uuid = daemon.create_of("loopback-net-cvq");
    let mut client = Client::open(daemon.root(), &uuid, IOTLB).unwrap();
    client.vhost.set_backend_features(VHOST_BACKEND_F_IOTLB_MSG_V2 | VHOST_BACKEND_F_IOTLB_ASID).unwrap();
    client.run().unwrap();
    for suspended in [false, true] {
        for (group, asid) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let bound = client.vhost.vring_state("SET_GROUP_ASID", VHOST_VDPA_SET_GROUP_ASID, group, asid);
            assert_eq!(refused(bound), Errno::EBUSY, "group {group} in {asid}, suspended: {suspended}");
        }
        if suspended {
            client.vhost.resume().unwrap();
        } else {
            client.exchange(&FRAME).unwrap();
            client.vhost.suspend().unwrap();
        }
    }
    client.exchange(&FRAME).unwrap();
    // After a reset it may, and then the rings are not where the driver has mapped them.
    client.vhost.set_status(0).unwrap();
    client.vhost.vring_state("SET_GROUP_ASID", VHOST_VDPA_SET_GROUP_ASID, 0, 1).unwrap();
    client.vhost.iotlb_update_in(1, IOVA, client.memory.size(), client.memory.address()).unwrap();
    client.vhost.iotlb_invalidate(IOVA, client.memory.size()).unwrap();
    client.rx.restart();
    client.tx.restart();
    client.run().unwrap();
    client.exchange(&FRAME).unwrap();
}

/// One thread's calls, over and over until `done`: none may take long, or fail otherwise than by a refusal.
fn again_and_again(done: &AtomicBool, mut calls: impl FnMut(u32) -> Vec<CallResult<()>>) {
    for turn in (0..).take_while(|_| !done.load(Ordering::Relaxed)) {
        let begun = Instant::now();
        for errno in calls(turn).into_iter().filter_map(Result::err).map(|error| error.errno()) {
            let fine = [Errno::EINVAL, Errno::EBUSY, Errno::EEXIST, Errno::ENOENT, Errno::ENODEV];
            assert!(errno.is_some_and(|errno| fine.contains(&errno)), "{errno:?}");
        }
        assert!(begun.elapsed() < PATIENCE, "took {:?}", begun.elapsed());
    }
}

/// What the device does when it was reset often enough.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It is left in peace.
    PassesFrames,
    /// It is removed at the height of it.
    IsRemoved,
}

/// Resets and starts a device while other threads of its driver kick, call, map and suspend.
fn reset_under_fire(via: Via, then: Then) {
    let mut daemon = Daemon::start();
    let (_, mut bystander) = client(&daemon);
    let uuid = daemon.create();
    let before = daemon.open_fds();
    let mut client = Client::start(daemon.root(), &uuid, Options { via, ..IOTLB }).unwrap();
    let vhost = Vhost(client.vhost.0.try_clone().unwrap());
    let container = client.vfio.as_ref().map(|(_, container)| Container(container.0.try_clone().unwrap()));
    let (size, address) = (client.memory.size(), client.memory.address());
    let [kick, call] = [0; 2].map(|_| EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = Ended(&done);
        scope.spawn(|| {
            again_and_again(&done, |turn| {
                let index = QUEUES[turn as usize % 2];
                let fd = if turn.is_multiple_of(3) { -1 } else { call.as_fd().as_raw_fd() };
                kick.write(1).unwrap();
                vec![
                    vhost.set_vring_fd(VHOST_SET_VRING_KICK, index, &kick),
                    vhost.set_vring_fd_number(VHOST_SET_VRING_CALL, index, fd),
                ]
            });
        });
        scope.spawn(|| {
            again_and_again(&done, |_| match &container {
                Some(container) => {
                    vec![container.map(SPACE, size, address), container.unmap(SPACE, size).map(drop)]
                }
                None => vec![vhost.iotlb_update(SPACE, size, address), vhost.iotlb_invalidate(SPACE, size)],
            });
        });
        scope.spawn(|| {
            again_and_again(&done, |turn| {
                let index = QUEUES[turn as usize % 2];
                vec![
                    vhost.suspend(),
                    vhost.vring_base(index).map(drop),
                    vhost.set_vring_enable(index, turn % 4 < 2),
                    vhost.resume(),
                ]
            });
        });
        for _ in 0..RESETS {
            client.vhost.set_status(0).unwrap();
            assert_eq!(client.vhost.status().unwrap(), 0);
            client.restart().unwrap();
            bystander.exchange(&FRAME).unwrap();
        }
        if then == Then::IsRemoved {
            let begun = Instant::now();
            daemon.remove(&uuid, "force").unwrap();
            assert!(begun.elapsed() < PATIENCE, "took {:?}", begun.elapsed());
        }
        drop(ended);
    });
    match then {
        Then::PassesFrames => {
            client.restart().unwrap();
            (0..5).for_each(|_| client.exchange(&FRAME).unwrap());
            assert_eq!(daemon.attribute(&uuid, "state"), "running");
        }
        Then::IsRemoved => {
            assert!(!daemon.instance_dir(&uuid).exists());
            assert_eq!(refused(client.vhost.set_status(0)), Errno::ENODEV);
        }
    }
    bystander.exchange(&FRAME).unwrap();
    drop((client, vhost, container));
    // Nothing is left of it.
    assert!(eventually(PATIENCE, || daemon.open_fds() <= before), "{} before, {}", before, daemon.open_fds());
    assert!(daemon.is_alive());
}

/// Ends the other threads, also when an assertion failed here.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn f38_a_device_reset_while_all_else_happens_is_as_new() {
    for via in [Via::Iotlb, Via::Container] {
        reset_under_fire(via, Then::PassesFrames);
    }
}

#[test]
fn f38_a_device_removed_while_all_else_happens_is_gone() {
    for via in [Via::Iotlb, Via::Container] {
        reset_under_fire(via, Then::IsRemoved);
    }
}
