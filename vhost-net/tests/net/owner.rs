//! Who may do what, and how many.

use crate::lab::*;
use nix::errno::Errno;
use std::time::Duration;
use vfio_container::testing::FakeClient;
use vhost_net::DEVICES_PER_USER;

fn owner_calls() -> Vec<(u32, Vec<u8>)> {
    let mut addr = pair(0, 0);
    ring(0).iter().for_each(|word| addr.extend(word.to_ne_bytes()));
    let kick = pair(0, KICK.cast_unsigned());
    vec![
        (SET_MEM_TABLE, pair(0, 0)),
        (SET_VRING_NUM, pair(0, 64)),
        (SET_VRING_ADDR, addr),
        (SET_VRING_BASE, pair(0, 0)),
        (GET_VRING_BASE, pair(0, 0)),
        (SET_VRING_KICK, kick.clone()),
        (SET_VRING_CALL, kick.clone()),
        (SET_VRING_ERR, kick),
        (SET_BUSYLOOP, pair(0, 50)),
        (GET_BUSYLOOP, pair(0, 0)),
        (SET_BACKEND, pair(0, u32::MAX)),
        (SET_LOG_BASE, LOG.to_ne_bytes().to_vec()),
        (SET_LOG_FD, (-1i32).to_ne_bytes().to_vec()),
        (RESET_OWNER, vec![]),
    ]
}

#[test]
fn f23_calls_of_the_device_need_an_owner_and_are_the_owners() {
    let lab = Lab::unowned();
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
fn f30_there_is_one_owner_until_it_resets() {
    let lab = Lab::new();
    let other = FakeClient::new(2);
    assert_eq!(lab.call(SET_OWNER, &[]), Err(Errno::EBUSY));
    assert_eq!(lab.call_as(&other, SET_OWNER, &[]), Err(Errno::EBUSY));
    lab.call(RESET_OWNER, &[]).unwrap();
    lab.call_as(&other, SET_OWNER, &[]).unwrap();
    assert_eq!(lab.call(SET_VRING_NUM, &pair(0, 64)), Err(Errno::EPERM));
}

#[test]
fn m3_features_are_not_changed_by_another_address_space() {
    let lab = Lab::new();
    let other = FakeClient::new(2);
    assert_eq!(lab.call_as(&other, SET_FEATURES, &VERSION_1.to_ne_bytes()), Err(Errno::EPERM));
    assert_eq!(lab.call_as(&other, SET_BACKEND_FEATURES, &2u64.to_ne_bytes()), Err(Errno::EPERM));
    assert_eq!(lab.call_as(&other, GET_FEATURES, &[]).unwrap(), OFFERED.to_ne_bytes());
}

#[test]
fn a_reset_of_the_owner_stops_the_rings_and_forgets_everything() {
    let lab = Lab::ready();
    lab.backend(TX, TAP).unwrap();
    lab.transmit(0);
    lab.until_used(1);
    lab.call(RESET_OWNER, &[]).unwrap();
    lab.call(SET_OWNER, &[]).unwrap();
    assert_eq!(lab.base(TX), 0);
    assert_eq!(lab.backend(TX, TAP), Err(Errno::EFAULT), "no memory, no ring");
    lab.vring(SET_VRING_NUM, TX, 4).unwrap();
}

#[test]
fn a_user_has_so_many_devices_and_no_more() {
    let node = vhost_net::VhostNet::new();
    let client = FakeClient::new(1);
    let mut files: Vec<_> = (0..DEVICES_PER_USER).map(|_| node.open_file(&client).unwrap()).collect();
    assert_eq!(node.open_file(&client).unwrap_err(), Errno::EMFILE);
    assert_eq!(node.devices(), DEVICES_PER_USER);
    devnode::OpenFile::release(&*files.pop().unwrap());
    files.push(node.open_file(&client).unwrap());
    files.iter().for_each(|file| devnode::OpenFile::release(&**file));
    drop(files);
    assert_eq!(node.devices(), 0, "a device is counted once, released and dropped");
}

#[test]
fn b1_memory_that_never_comes_costs_a_device_one_thread_a_ring_and_its_place() {
    let lab = Lab::ready();
    let stalled = lab.client.stall();
    // Until the thread looked at its ring before it was asked to stop.
    eventually("the thread is stuck", || {
        lab.backend(TX, TAP).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        lab.backend(TX, -1) == Err(Errno::ETIMEDOUT)
    });
    for _ in 0..2 {
        assert_eq!(lab.backend(TX, TAP), Err(Errno::EBUSY), "its thread is still there");
        lab.call(RESET_OWNER, &[]).unwrap();
        lab.call(SET_OWNER, &[]).unwrap();
    }
    devnode::OpenFile::release(&*lab.file);
    assert_eq!(lab.node.devices(), 1, "closed, and not gone");
    drop(stalled);
    eventually("the thread ends", || lab.node.devices() == 0);
}

#[test]
fn a_closed_file_answers_enodev() {
    let lab = Lab::new();
    devnode::OpenFile::release(&*lab.file);
    assert_eq!(lab.call(GET_BACKEND_FEATURES, &[]), Err(Errno::ENODEV));
}
