//! Who may do what, and which calls there are.

use crate::lab::*;
use nix::errno::Errno;
use vfio_container::testing::FakeClient;
use virtio_mdev_api::features::REQUIRED;

/// Every call that goes through the kernel's generic vhost handler, with an argument that is right.
fn owner_calls() -> Vec<(u32, Vec<u8>)> {
    let mut addr = pair(0, 0);
    addr.resize(40, 0);
    let kick = pair(0, KICK.cast_unsigned());
    vec![
        (SET_VRING_NUM, pair(0, 64)),
        (SET_VRING_ADDR, addr),
        (SET_VRING_BASE, pair(0, 0)),
        (GET_VRING_BASE, pair(0, 0)),
        (SET_VRING_KICK, kick.clone()),
        (SET_VRING_CALL, kick.clone()),
        (SET_VRING_ERR, kick),
        (SET_VRING_ENABLE, pair(0, 1)),
        (GET_VRING_GROUP, pair(0, 0)),
        (SET_GROUP_ASID, pair(0, 0)),
        (GET_VRING_SIZE, pair(0, 0)),
    ]
}

/// Calls that change the device without going through it.
fn mutating_calls() -> Vec<(u32, Vec<u8>)> {
    vec![
        (SET_FEATURES, REQUIRED.to_ne_bytes().to_vec()),
        (SET_BACKEND_FEATURES, 2u64.to_ne_bytes().to_vec()),
        (SET_CONFIG, pair(0, 6)),
        (SET_CONFIG_CALL, (-1i32).to_ne_bytes().to_vec()),
        (SUSPEND, vec![]),
        (RESUME, vec![]),
        (SET_STATUS, vec![3]),
    ]
}

#[test]
fn f23_vring_calls_need_an_owner_and_are_the_owners() {
    let lab = Lab::unowned(Kind::default());
    for (cmd, input) in owner_calls() {
        assert_eq!(lab.call(cmd, &input), Err(Errno::EPERM), "{cmd:#x} without an owner");
    }
    lab.call(SET_OWNER, &[]).unwrap();
    for (cmd, input) in owner_calls() {
        assert_eq!(lab.call_as(&FakeClient::new(2), cmd, &input), Err(Errno::EPERM), "{cmd:#x} by another");
        assert!(lab.call_as(&lab.client.thread(), cmd, &input).is_ok(), "{cmd:#x} by a thread of the owner");
    }
}

#[test]
fn m3_an_inherited_file_is_not_changed_by_another_address_space() {
    let lab = Lab::new();
    for (cmd, input) in mutating_calls() {
        assert_eq!(lab.call_as(&FakeClient::new(2), cmd, &input), Err(Errno::EPERM), "{cmd:#x}");
    }
    let update = message(2, 0, [0, 0x1000, RAM], 3, 2);
    assert_eq!(lab.write_as(&FakeClient::new(2), &update), Err(Errno::EPERM));
    assert_eq!(lab.status(), 0);
}

#[test]
fn a_file_without_an_owner_can_be_negotiated_by_whoever_has_it() {
    let lab = Lab::unowned(Kind::default());
    for (cmd, input) in mutating_calls() {
        assert!(lab.call_as(&FakeClient::new(2), cmd, &input).is_ok(), "{cmd:#x}");
    }
    assert_eq!(lab.update(0, 0x1000), Err(Errno::EPERM), "memory is the owner's alone");
}

#[test]
fn f30_there_is_one_owner() {
    let lab = Lab::new();
    assert_eq!(lab.call(SET_OWNER, &[]), Err(Errno::EBUSY));
    assert_eq!(lab.call_as(&FakeClient::new(2), SET_OWNER, &[]), Err(Errno::EBUSY));
}

#[test]
fn what_the_device_is_can_be_asked_by_anybody() {
    let lab = Lab::new();
    let other = FakeClient::new(2);
    let ask = |cmd| lab.call_as(&other, cmd, &[]).unwrap();
    assert_eq!(ask(GET_FEATURES), (REQUIRED | 1 << 29).to_ne_bytes());
    assert_eq!(ask(GET_BACKEND_FEATURES), 0b1_0111_0110u64.to_ne_bytes());
    assert_eq!(ask(GET_DEVICE_ID), 1u32.to_ne_bytes());
    assert_eq!(ask(GET_STATUS), [0]);
    assert_eq!(ask(GET_VRING_NUM), 256u16.to_ne_bytes());
    assert_eq!(ask(GET_CONFIG_SIZE), 12u32.to_ne_bytes());
    assert_eq!(ask(GET_VQS_COUNT), QUEUES.to_ne_bytes());
    assert_eq!((ask(GET_GROUP_NUM), ask(GET_AS_NUM)), (1u32.to_ne_bytes().to_vec(), 1u32.to_ne_bytes().to_vec()));
    assert_eq!(ask(GET_IOVA_RANGE), [0u64.to_ne_bytes(), u64::MAX.to_ne_bytes()].concat());
}

#[test]
fn backend_features_beyond_those_offered_are_refused() {
    let lab = Lab::new();
    let set = |features: u64| lab.call(SET_BACKEND_FEATURES, &features.to_ne_bytes()).map(drop);
    assert_eq!(set(0b1_0111_0110), Ok(()));
    assert_eq!(set(0), Ok(()));
    for bit in [0, 3, 9, 63] {
        assert_eq!(set(1 << bit), Err(Errno::EOPNOTSUPP), "bit {bit}");
    }
}

#[test]
fn known_calls_that_are_not_offered_differ_from_unknown_ones() {
    let lab = Lab::new();
    for cmd in [GET_VRING_DESC_GROUP, 0xaf02, 0x4008_af03, 0x8004_af08, 0x4008_af13, 0x4008_af24, 0x4008_af30] {
        assert_eq!(lab.call(cmd, &[0; 8]), Err(Errno::EOPNOTSUPP), "{cmd:#x}");
    }
    // A wrong size, a wrong direction, numbers of nobody, VFIO.
    for cmd in [0x8010_af00, 0xc008_af00, 0xaf60, 0xafff, 0x3b64, 0x3b6b, 0] {
        assert_eq!(lab.call(cmd, &[0; 16]), Err(Errno::ENOTTY), "{cmd:#x}");
    }
}
