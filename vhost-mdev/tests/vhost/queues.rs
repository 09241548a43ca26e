//! Status, features and rings by ioctl.

use crate::lab::*;
use nix::errno::Errno;
use proptest::prelude::*;
use vfio_container::testing::Descriptor;
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::notify::EventFd;

#[test]
fn the_orders_of_real_clients_start_the_queues() {
    type Step = fn(&Lab) -> Result<(), Errno>;
    let enable: Step = |lab| (0..QUEUES).try_for_each(|index| lab.vring(SET_VRING_ENABLE, index, 1).map(drop));
    let features: Step = |lab| lab.set_features(REQUIRED);
    let orders: [(&str, &[Step]); 4] = [
        (
            "QEMU 7.2",
            &[|lab| lab.set_status(3), features, |lab| lab.set_status(0xb), enable, |lab| lab.set_status(0xf)],
        ),
        ("QEMU 10", &[features, |lab| lab.set_status(8), |lab| lab.set_status(0xc), enable]),
        ("QEMU 11", &[enable, features, |lab| lab.set_status(8), |lab| lab.set_status(0xc)]),
        ("cloud-hypervisor", &[features, enable, |lab| lab.set_status(0xf)]),
    ];
    for (client, order) in orders {
        let lab = Lab::new();
        order.iter().for_each(|step| step(&lab).unwrap());
        assert_eq!(lab.running(), 2, "{client}");
    }
}

#[test]
fn features_before_the_owner_are_legal() {
    let lab = Lab::unowned(Kind::default());
    lab.set_features(REQUIRED).unwrap();
    lab.call(SET_OWNER, &[]).unwrap();
    lab.set_status(0xb).unwrap();
}

#[test]
fn f24_status_writes_that_are_illegal_are_einval() {
    let lab = Lab::new();
    lab.set_features(REQUIRED).unwrap();
    lab.set_status(0xb).unwrap();
    for status in [3, 0x13, 0x4b] {
        assert_eq!(lab.set_status(status), Err(Errno::EINVAL), "{status:#x}");
    }
    assert_eq!(lab.status(), 0xb);
    lab.set_status(0).unwrap();
    assert_eq!(lab.set_status(7), Err(Errno::EINVAL), "DRIVER_OK without FEATURES_OK");
}

#[test]
fn f25_features_are_fixed_by_features_ok_and_within_the_offer() {
    let lab = Lab::new();
    assert_eq!(lab.set_features(REQUIRED | 2), Err(Errno::EINVAL));
    lab.set_features(REQUIRED).unwrap();
    lab.set_status(0xb).unwrap();
    assert_eq!(lab.set_features(REQUIRED), Err(Errno::EBUSY));
}

#[test]
fn f17_ring_addresses_are_checked() {
    let lab = Lab::new();
    // desc, used, avail, log
    assert_eq!(lab.addr(0, 0, [0x1000, 0x2000, 0x3000, 0]), Ok(vec![]));
    for words in [[8, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]] {
        assert_eq!(lab.addr(0, 0, words), Err(Errno::EINVAL), "{words:?}");
    }
    assert_eq!(lab.addr(0, 1, [0; 4]), Ok(vec![]), "the log flag may be set");
    assert_eq!(lab.addr(0, 2, [0; 4]), Err(Errno::EOPNOTSUPP));
}

#[test]
fn the_used_ring_comes_before_the_available_ring() {
    let lab = Lab::new();
    lab.addr(0, 0, [0x1000, 0x2000, 0x3000, 0]).unwrap();
    lab.start().unwrap();
    let config = lab.seen.lock().running[&0].config;
    assert_eq!((config.desc, config.device, config.driver), (0x1000, 0x2000, 0x3000));
}

#[test]
fn f18_ring_sizes_are_checked() {
    let lab = Lab::new();
    for size in [0, 3, 512, 0x1_0000, u32::MAX] {
        assert_eq!(lab.vring(SET_VRING_NUM, 0, size), Err(Errno::EINVAL), "{size}");
    }
    assert_eq!(lab.vring(SET_VRING_NUM, 0, 256), Ok(vec![]));
}

#[test]
fn f23_no_queue_has_that_index() {
    let lab = Lab::new();
    let calls = [SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE, SET_VRING_KICK, SET_VRING_CALL];
    for cmd in calls.into_iter().chain([SET_VRING_ERR, GET_VRING_GROUP, SET_GROUP_ASID, GET_VRING_SIZE]) {
        for index in [QUEUES, u32::MAX] {
            assert_eq!(lab.vring(cmd, index, 1), Err(Errno::ENOBUFS), "{cmd:#x} {index}");
        }
    }
    assert_eq!(lab.addr(QUEUES, 0, [0; 4]), Err(Errno::ENOBUFS));
}

#[test]
fn f23_f28_rings_stand_still_while_the_driver_runs() {
    let lab = Lab::new();
    lab.start().unwrap();
    assert_eq!(lab.addr(0, 0, [0; 4]), Err(Errno::EINVAL));
    assert_eq!(lab.vring(SET_VRING_BASE, 0, 7), Err(Errno::EINVAL));
    assert_eq!(lab.vring(SET_VRING_NUM, 0, 64), Err(Errno::EBUSY));
    assert_eq!(lab.vring(GET_VRING_BASE, 0, 0), Err(Errno::EBUSY));
}

#[test]
fn suspend_opens_the_rings_and_resume_goes_on() {
    let lab = Lab::new();
    assert_eq!(lab.call(SUSPEND, &[]), Ok(vec![]), "nothing runs: nothing to do");
    lab.start().unwrap();
    lab.call(SUSPEND, &[]).unwrap();
    assert_eq!(lab.running(), 0);
    assert_eq!(lab.vring(GET_VRING_BASE, 1, 0), Ok(pair(1, 5)));
    assert_eq!(lab.vring(SET_VRING_BASE, 1, 9), Ok(vec![]));
    assert_eq!(lab.vring(SET_VRING_BASE, 1, 0x1_0000), Err(Errno::EINVAL), "a split ring has 16 bits");
    lab.call(RESUME, &[]).unwrap();
    assert_eq!(lab.running(), 2);
}

#[test]
fn f23_kick_and_call_change_at_any_time() {
    let lab = Lab::new();
    let set = |cmd, fd| lab.file_call(cmd, 0, fd).map(drop);
    for cmd in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert_eq!(set(cmd, KICK), Ok(()), "before features");
    }
    lab.start().unwrap();
    for cmd in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert_eq!(set(cmd, KICK), Ok(()), "while running");
        assert_eq!(set(cmd, -1), Ok(()), "unbound");
    }
}

#[test]
fn f27_descriptors_that_are_no_eventfds_are_refused() {
    let lab = Lab::new();
    for cmd in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert_eq!(lab.file_call(cmd, 0, 99), Err(Errno::EBADF), "closed");
        assert_eq!(lab.file_call(cmd, 0, -2), Err(Errno::EBADF), "negative");
        assert_eq!(lab.file_call(cmd, 0, NOT_EVENTFD), Err(Errno::EINVAL), "another kind of file");
        assert_eq!(lab.file_call(cmd, 9, 99), Err(Errno::ENOBUFS), "the index is looked at first");
    }
    let config = |fd: i32| lab.call(SET_CONFIG_CALL, &fd.to_ne_bytes()).map(drop);
    assert_eq!((config(99), config(NOT_EVENTFD)), (Err(Errno::EBADF), Err(Errno::EINVAL)));
    assert_eq!((config(KICK), config(-1)), (Ok(()), Ok(())));
}

#[test]
fn f27_one_eventfd_can_be_kick_and_call() {
    let lab = Lab::new();
    lab.file_call(SET_VRING_KICK, 0, KICK).unwrap();
    lab.file_call(SET_VRING_CALL, 0, KICK).unwrap();
    lab.start().unwrap();
    let queue = lab.seen.lock().running[&0].clone();
    queue.call.signal().unwrap();
    assert_eq!(queue.kick.unwrap().drain(), Ok(Some(1)));
}

#[test]
fn a_new_call_gets_the_next_interrupt_of_a_running_queue() {
    let lab = Lab::new();
    lab.file_call(SET_VRING_CALL, 0, KICK).unwrap();
    lab.start().unwrap();
    let second = EventFd::new().unwrap();
    lab.client.install(20, Descriptor::Event(second.clone()));
    lab.file_call(SET_VRING_CALL, 0, 20).unwrap();
    let call = lab.seen.lock().running[&0].call.clone();
    call.signal().unwrap();
    assert_eq!(second.drain(), Ok(Some(1)));
}

#[test]
fn a_fault_interrupts_by_the_config_call() {
    let lab = Lab::new();
    let event = EventFd::new().unwrap();
    lab.client.install(20, Descriptor::Event(event.clone()));
    lab.call(SET_CONFIG_CALL, &20i32.to_ne_bytes()).unwrap();
    lab.start().unwrap();
    lab.session.link().fault(Some(0), "descriptor loop");
    assert_eq!(event.drain(), Ok(Some(1)));
    assert_eq!(lab.status(), 0x4f);
}

#[test]
fn there_is_one_group_in_one_address_space() {
    let lab = Lab::new();
    assert_eq!(lab.vring(GET_VRING_GROUP, 1, 77), Ok(pair(1, 0)));
    assert_eq!(lab.vring(GET_VRING_SIZE, 1, 77), Ok(pair(1, 256)));
    assert_eq!(lab.vring(SET_GROUP_ASID, 0, 0), Ok(vec![]));
    assert_eq!(lab.vring(SET_GROUP_ASID, 0, 1), Err(Errno::EINVAL), "no such address space");
    assert_eq!(lab.vring(SET_GROUP_ASID, 1, 0), Err(Errno::EINVAL), "no such group");
}

#[test]
fn reset_forgets_the_rings() {
    let lab = Lab::new();
    lab.start().unwrap();
    lab.set_status(0).unwrap();
    assert_eq!((lab.status(), lab.running()), (0, 0));
    assert_eq!(lab.vring(GET_VRING_BASE, 0, 0), Ok(pair(0, 0)));
}

#[test]
fn a_short_argument_is_efault() {
    let lab = Lab::new();
    assert_eq!(lab.call(SET_VRING_NUM, &[0; 7]), Err(Errno::EFAULT));
    assert_eq!(lab.call(SET_STATUS, &[]), Err(Errno::EFAULT));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_call_with_any_bytes_makes_the_file_panic(
        calls in proptest::collection::vec((any::<u8>(), 0usize..4, any::<[u8; 40]>()), 1..8),
    ) {
        let lab = Lab::new();
        for (nr, direction, bytes) in calls {
            for size in [0usize, 1, 2, 4, 8, 16, 40] {
                let cmd = u32::try_from(direction << 30 | size << 16).unwrap() | 0xaf00 | u32::from(nr);
                lab.client.put(ARG, &bytes);
                let input = if direction & 1 == 1 { &bytes[..size] } else { &[] };
                let _ = lab.call(cmd, input);
            }
        }
        lab.set_status(0).unwrap();
        lab.start().unwrap();
    }
}
