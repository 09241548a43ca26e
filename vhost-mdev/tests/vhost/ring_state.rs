//! Where rings stand, and how large they are.

use crate::lab::*;
use nix::errno::Errno;
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_RING_PACKED};
use virtio_mdev_api::{QueueInfo, QueueState};

const PACKED: u64 = REQUIRED | VIRTIO_F_RING_PACKED;
/// A packed ring that was never used: both wrap counters are set.
const FRESH: u32 = 0x8000_8000;

fn packed() -> Lab {
    Lab::owned(Kind { features: PACKED, ..Kind::default() })
}

fn base(lab: &Lab, index: u32) -> u32 {
    let answer = lab.vring(GET_VRING_BASE, index, 0).unwrap();
    u32::from_ne_bytes(answer[4..].try_into().unwrap())
}

fn stands(lab: &Lab, index: u16) -> QueueState {
    lab.seen.lock().running[&index].state
}

#[test]
fn a_state_set_while_suspended_is_where_the_queue_goes_on() {
    let lab = Lab::new();
    lab.start().unwrap();
    lab.call(SUSPEND, &[]).unwrap();
    assert_eq!(base(&lab, 0), 5, "where it stopped");
    lab.vring(SET_VRING_BASE, 0, 77).unwrap();
    assert_eq!(base(&lab, 0), 77);
    lab.addr(1, 0, [0x1000, 0x2000, 0x3000, 0]).unwrap();
    lab.call(RESUME, &[]).unwrap();
    assert_eq!((stands(&lab, 0), stands(&lab, 1)), (QueueState::Split { avail: 77 }, QueueState::Split { avail: 5 }));
    assert_eq!(lab.seen.lock().running[&1].config.desc, 0x1000);
}

#[test]
fn a_packed_state_is_two_indices_with_their_wrap_counters() {
    let lab = packed();
    lab.set_features(PACKED).unwrap();
    assert_eq!(base(&lab, 0), FRESH);
    // Available index 9 without its wrap counter, used index 7 with it.
    lab.vring(SET_VRING_BASE, 0, 0x8007_0009).unwrap();
    lab.start_with(PACKED).unwrap();
    let stood = QueueState::Packed { avail: 9, avail_wrap: false, used: 7, used_wrap: true };
    assert_eq!(stands(&lab, 0), stood);
    lab.call(SUSPEND, &[]).unwrap();
    assert_eq!(base(&lab, 0), 0x8003_0005, "as the device says it");
    lab.vring(SET_VRING_BASE, 0, 0x0004_8006).unwrap();
    lab.call(RESUME, &[]).unwrap();
    assert_eq!(stands(&lab, 0), QueueState::Packed { avail: 6, avail_wrap: true, used: 4, used_wrap: false });
}

#[test]
fn a_state_is_packed_only_where_that_was_negotiated() {
    let lab = packed();
    lab.set_features(PACKED).unwrap();
    lab.set_features(REQUIRED).unwrap();
    assert_eq!(base(&lab, 0), 0);
    assert_eq!(lab.vring(SET_VRING_BASE, 0, FRESH), Err(Errno::EINVAL));
    lab.set_features(PACKED).unwrap();
    lab.vring(SET_VRING_BASE, 0, FRESH).unwrap();
    lab.set_status(0).unwrap();
    assert_eq!(base(&lab, 0), 0, "a reset forgets the features too");
}

#[test]
fn f21_a_packed_state_beyond_the_ring_does_not_start() {
    for beyond in [FRESH | 256, FRESH | 256 << 16, u32::MAX] {
        let lab = packed();
        lab.set_features(PACKED).unwrap();
        lab.vring(SET_VRING_BASE, 1, beyond).unwrap();
        assert_eq!(lab.start_with(PACKED), Err(Errno::EINVAL), "{beyond:#x}");
        assert_eq!((lab.running(), lab.status() & 4), (0, 0));
        lab.vring(SET_VRING_BASE, 1, FRESH).unwrap();
        lab.set_status(0xf).unwrap();
    }
}

#[test]
fn f18_packed_rings_have_any_size_up_to_their_limit_once_they_are_accepted() {
    let lab = packed();
    assert_eq!(lab.vring(SET_VRING_NUM, 0, 100), Err(Errno::EINVAL), "it may be a split one");
    lab.set_features(PACKED).unwrap();
    for size in [0, 512, 0x8001] {
        assert_eq!(lab.vring(SET_VRING_NUM, 0, size), Err(Errno::EINVAL), "{size}");
    }
    for size in [1, 3, 100, 128] {
        lab.vring(SET_VRING_NUM, 0, size).unwrap();
    }
}

#[test]
fn each_queue_has_its_own_largest_size() {
    let queue = |max_size| QueueInfo { max_size, group: 0, desc_group: None };
    let lab = Lab::owned(Kind { queues: vec![queue(256), queue(64)], ..Kind::default() });
    assert_eq!(lab.call(GET_VRING_NUM, &[]).unwrap(), 256u16.to_ne_bytes());
    assert_eq!(lab.vring(GET_VRING_SIZE, 0, 0), Ok(pair(0, 256)));
    assert_eq!(lab.vring(GET_VRING_SIZE, 1, 0), Ok(pair(1, 64)));
    lab.vring(SET_VRING_NUM, 0, 256).unwrap();
    assert_eq!(lab.vring(SET_VRING_NUM, 1, 128), Err(Errno::EINVAL));
    lab.start().unwrap();
    assert_eq!(lab.seen.lock().running[&1].config.size, 64);
}

#[test]
fn suspend_and_resume_of_what_does_not_run_do_nothing() {
    let lab = Lab::new();
    for status in [0, 0xb] {
        lab.set_features(REQUIRED).unwrap();
        lab.set_status(status).unwrap();
        lab.call(SUSPEND, &[]).unwrap();
        lab.call(RESUME, &[]).unwrap();
        lab.call(SUSPEND, &[]).unwrap();
    }
    lab.start().unwrap_err();
    lab.set_status(0xf).unwrap();
    (0..QUEUES).for_each(|index| drop(lab.vring(SET_VRING_ENABLE, index, 1).unwrap()));
    assert_eq!(lab.running(), 2, "the suspend before DRIVER_OK left nothing behind");
    lab.call(SUSPEND, &[]).unwrap();
    lab.call(SUSPEND, &[]).unwrap();
    assert_eq!(lab.running(), 0);
    lab.call(RESUME, &[]).unwrap();
    lab.call(RESUME, &[]).unwrap();
    assert_eq!(lab.running(), 2);
}

#[test]
fn queues_come_and_go_after_driver_ok() {
    let lab = Lab::new();
    lab.set_features(REQUIRED).unwrap();
    lab.set_status(0xf).unwrap();
    lab.vring(SET_VRING_ENABLE, 1, 1).unwrap();
    assert_eq!(lab.seen.lock().running.keys().copied().collect::<Vec<_>>(), [1]);
    lab.vring(SET_VRING_ENABLE, 1, 0).unwrap();
    assert_eq!((lab.running(), base(&lab, 1)), (0, 5));
    lab.call(SUSPEND, &[]).unwrap();
    lab.vring(SET_VRING_ENABLE, 0, 1).unwrap();
    assert_eq!(lab.running(), 0, "not while it is suspended");
    lab.call(RESUME, &[]).unwrap();
    assert_eq!(lab.running(), 1);
}
