//! Open, close and forced removal.

use crate::lab::*;
use devnode::OpenFile;
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vfio_container::testing::{Descriptor, FakeClient};
use virtio_mdev_api::notify::EventFd;

#[test]
fn f30_a_second_open_is_ebusy_until_the_file_is_closed() {
    let lab = Lab::new();
    assert_eq!(lab.node.open_file(&lab.client).err(), Some(Errno::EBUSY));
    lab.file.release();
    assert!(lab.node.open_file(&FakeClient::new(2)).is_ok());
}

#[test]
fn open_and_close_reset_the_device_and_are_told() {
    let lab = Lab::new();
    assert_eq!(lab.calls(), ["reset"]);
    assert_eq!((lab.opens.load(Ordering::SeqCst), lab.node.is_open()), (1, true));
    lab.start().unwrap();
    lab.file.release();
    assert_eq!(lab.calls(), ["start 0", "start 1", "stop 0", "stop 1", "reset"]);
    assert_eq!((lab.opens.load(Ordering::SeqCst), lab.node.is_open()), (0, false));
}

#[test]
fn the_holder_is_who_opened_and_then_the_owner() {
    let lab = Lab::unowned(Kind::default());
    assert_eq!(lab.node.holder(), Some((1, 1000)));
    lab.call_as(&FakeClient::new(2), SET_OWNER, &[]).unwrap();
    assert_eq!(lab.node.holder(), Some((2, 1000)));
    lab.file.release();
    assert_eq!(lab.node.holder(), None);
}

#[test]
fn nothing_of_one_client_is_there_for_the_next() {
    let lab = Lab::new();
    lab.update(0, 0x1000).unwrap();
    lab.start().unwrap();
    let space = Arc::downgrade(&lab.queue_space());
    lab.file.release();
    let file = lab.node.open_file(&lab.client).unwrap();
    let lab = Lab { file, ..lab };
    assert!(space.upgrade().is_none(), "the old memory is released");
    assert_eq!(lab.vring(SET_VRING_NUM, 0, 64), Err(Errno::EPERM), "the owner is forgotten");
    lab.call(SET_OWNER, &[]).unwrap();
    lab.start().unwrap();
    assert_eq!(lab.regions(), []);
}

#[test]
fn a_closed_file_gets_no_interrupt() {
    let lab = Lab::new();
    let event = EventFd::new().unwrap();
    lab.client.install(20, Descriptor::Event(event.clone()));
    lab.call(SET_CONFIG_CALL, &20i32.to_ne_bytes()).unwrap();
    lab.file.release();
    lab.session.link().config_changed();
    assert_eq!(event.drain(), Ok(None));
}

#[test]
fn a_container_given_up_by_the_device_is_not_kept_in_memory() {
    let lab = Lab::new();
    let (_container, group) = lab.attach();
    lab.start().unwrap();
    let space = Arc::downgrade(&lab.queue_space());
    group.release();
    assert!(space.upgrade().is_none());
}

#[test]
fn a_batch_ends_with_its_file() {
    let lab = Lab::new();
    lab.write(5, 0, 0, 0).unwrap();
    lab.file.release();
    let file = lab.node.open_file(&lab.client).unwrap();
    let lab = Lab { file, ..lab };
    lab.call(SET_OWNER, &[]).unwrap();
    lab.start().unwrap();
    lab.update(0, 0x1000).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000)]);
}

#[test]
fn f37_revoke_takes_the_device_from_whoever_runs_it() {
    let lab = Lab::new();
    lab.update(0, 0x1000).unwrap();
    lab.start().unwrap();
    let space = lab.queue_space();
    lab.node.revoke();
    assert_eq!(lab.running(), 0);
    assert!(space.regions().is_empty());
    assert_eq!(lab.opens.load(Ordering::SeqCst), 0);
    for (cmd, input) in [(GET_STATUS, vec![]), (SET_STATUS, vec![1]), (SET_VRING_NUM, pair(0, 64)), (0xdead, vec![])] {
        assert_eq!(lab.call(cmd, &input), Err(Errno::ENODEV), "{cmd:#x}");
    }
    assert_eq!(lab.update(0x1000, 0x1000), Err(Errno::ENODEV));
    assert_eq!(lab.node.open_file(&lab.client).err(), Some(Errno::ENODEV));
    lab.file.release();
    assert_eq!(lab.opens.load(Ordering::SeqCst), 0, "the close of a revoked file is not told again");
}

#[test]
fn f29_a_repeated_call_leaves_nothing_behind() {
    let lab = Lab::new();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..10_000 {
        lab.file_call(SET_VRING_CALL, 0, KICK).unwrap();
        lab.update(0, 0x1000).unwrap();
        lab.write(3, 0, 0x1000, 0).unwrap();
    }
    // Other tests of this process open and close files meanwhile.
    assert!(open() < before + 500, "{before} descriptors before, {} after", open());
}
