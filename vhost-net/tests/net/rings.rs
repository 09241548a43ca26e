//! Rings that run.

use crate::lab::*;
use libc::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::testing::Descriptor;

#[test]
fn a_ring_runs_while_it_has_a_back_end() {
    let lab = Lab::ready();
    lab.transmit(0);
    assert_eq!(lab.used(), 0);
    lab.backend(TX, TAP).unwrap();
    lab.until_used(1);
    lab.backend(TX, -1).unwrap();
    lab.transmit(1);
    assert_eq!((lab.base(TX), lab.used()), (1, 1));
    lab.backend(TX, TAP).unwrap();
    lab.until_used(2);
    assert_eq!(lab.base(TX), 2, "also of a ring that runs");
    lab.transmit(2);
    lab.until_used(3);
}

#[test]
fn a_ring_runs_without_a_kick() {
    let lab = Lab::ready();
    lab.fd(SET_VRING_KICK, TX, -1).unwrap();
    lab.transmit(0);
    lab.backend(TX, TAP).unwrap();
    lab.until_used(1);
    lab.transmit(1);
    lab.fd(SET_VRING_KICK, TX, KICK).unwrap();
    lab.until_used(2);
}

#[test]
fn f28_size_and_base_stand_still_while_the_ring_runs() {
    let lab = Lab::ready();
    lab.backend(TX, TAP).unwrap();
    assert_eq!(lab.vring(SET_VRING_NUM, TX, 16), Err(Errno::EBUSY));
    assert_eq!(lab.vring(SET_VRING_BASE, TX, 1), Err(Errno::EBUSY));
    lab.vring(SET_VRING_BASE, RX, 1).unwrap();
    lab.backend(TX, -1).unwrap();
    lab.vring(SET_VRING_NUM, TX, 16).unwrap();
}

#[test]
fn headers_pass_whatever_they_say() {
    let lab = Lab::ready();
    lab.backend(TX, TAP).unwrap();
    let passed = |nth: u16| {
        lab.transmit(nth);
        lab.until_used(nth + 1);
        let told = ip("-s -j link show given0");
        let count = told.split("\"packets\":").nth(1).and_then(|rest| rest.split(',').next());
        count.and_then(|count| count.parse::<u32>().ok()).unwrap_or_else(|| panic!("{told}"))
    };
    assert_eq!(passed(0), 1);
    // A checksum beyond the frame, which the interface finds out: no feature of checksums comes to this file.
    lab.client.put(RAM + 0x2_0000, &[1, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(passed(1), 1);
    lab.client.put(RAM + 0x2_0000, &[0; 12]);
    assert_eq!(passed(2), 2);
}

#[test]
fn a_ring_that_is_reset_begins_anew_with_another_size_while_the_other_runs() {
    let lab = Lab::ready_with(VERSION_1 | MRG_RXBUF | 1 << 40, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    lab.backend(RX, TAP).unwrap();
    lab.backend(TX, TAP).unwrap();
    let [desc, used, avail, _] = ring(TX);
    for (turn, size) in [4u32, 2, 8].into_iter().enumerate() {
        lab.transmit(0);
        lab.until_used(1);
        // What a VMM does when its guest resets one queue, sets its size and enables it.
        lab.backend(TX, -1).unwrap();
        assert_eq!((lab.base(TX), lab.base(RX)), (1, 0), "turn {turn}");
        lab.client.put(avail, &[0; 32]);
        lab.client.put(used, &[0; 128]);
        lab.client.put(desc, &[0; 128]);
        lab.vring(SET_VRING_NUM, TX, size).unwrap();
        lab.vring(SET_VRING_BASE, TX, 0).unwrap();
        lab.addr(TX, 0, ring(TX)).unwrap();
        assert_eq!(lab.vring(SET_VRING_NUM, RX, size), Err(Errno::EBUSY), "it runs all the time");
        lab.backend(TX, TAP).unwrap();
    }
}

#[test]
fn f27_a_back_end_is_a_tap_interface() {
    let lab = Lab::ready();
    let (pipe, _other_end) = nix::unistd::pipe().unwrap();
    lab.client.install(20, Descriptor::File(Arc::new(pipe)));
    lab.client.install(21, Descriptor::File(Arc::new(tap::testing::unattached())));
    assert_eq!(lab.backend(TX, 99), Err(Errno::EBADF));
    assert_eq!(lab.backend(TX, -2), Err(Errno::EBADF));
    assert_eq!(lab.backend(TX, NOT_EVENTFD), Err(Errno::ENOTSOCK));
    assert_eq!(lab.backend(TX, KICK), Err(Errno::ENOTSOCK));
    assert_eq!(lab.backend(TX, 20), Err(Errno::ENOTSOCK));
    assert_eq!(lab.backend(TX, 21), Err(Errno::EBADFD));
    assert_eq!(lab.base(TX), 0, "nothing runs");
    lab.vring(SET_VRING_NUM, TX, SIZE.into()).unwrap();
}

#[test]
fn a_refused_back_end_leaves_the_ring_the_one_it_has() {
    let lab = Lab::ready();
    lab.backend(TX, TAP).unwrap();
    assert_eq!(lab.backend(TX, NOT_EVENTFD), Err(Errno::ENOTSOCK));
    lab.transmit(0);
    lab.until_used(1);
}

#[test]
fn a_header_of_10_bytes_is_not_offered_and_mergeable_buffers_have_12() {
    let lab = Lab::ready_with(0, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    assert_eq!(lab.backend(TX, TAP), Err(Errno::EOPNOTSUPP));
    lab.call(SET_FEATURES, &MRG_RXBUF.to_ne_bytes()).unwrap();
    lab.backend(TX, TAP).unwrap();
}

#[test]
fn an_interface_without_a_header_is_served_if_that_is_negotiated() {
    let lab = Lab::ready_with(VERSION_1, IFF_TAP | IFF_NO_PI);
    assert_eq!(lab.backend(TX, TAP), Err(Errno::EINVAL));
    lab.call(SET_FEATURES, &(VERSION_1 | 1 << 27).to_ne_bytes()).unwrap();
    lab.backend(TX, TAP).unwrap();
    lab.transmit(0);
    lab.until_used(1);
    // Frames that came in: those sent, without their headers.
    let counters = ip("-s link show given0");
    let received = counters.lines().skip_while(|line| !line.contains("RX:")).nth(1).unwrap();
    assert!(received.split_whitespace().take(2).eq(["60", "1"]), "{counters}");
    let changed = lab.call(SET_FEATURES, &VERSION_1.to_ne_bytes());
    assert_eq!(changed, Err(Errno::EBUSY), "not under a ring that runs");
}

#[test]
fn features_change_under_a_running_ring() {
    let lab = Lab::ready();
    lab.backend(TX, TAP).unwrap();
    lab.transmit(0);
    lab.until_used(1);
    lab.call(SET_FEATURES, &(VERSION_1 | 1 << 29).to_ne_bytes()).unwrap();
    lab.transmit(1);
    lab.until_used(2);
}

#[test]
fn a_broken_ring_tells_its_err_and_leaves_the_other_alone() {
    let lab = Lab::ready();
    lab.backend(RX, TAP).unwrap();
    lab.backend(TX, TAP).unwrap();
    let [_, _, avail, _] = ring(RX);
    lab.client.put(avail + 2, &1000u16.to_le_bytes());
    lab.rx_kick.signal().unwrap();
    eventually("the receive ring stops", || lab.err.drain() != Ok(None));
    lab.transmit(0);
    lab.until_used(1);
    // Set right, and given a back end again, it runs again.
    lab.client.put(avail + 2, &0u16.to_le_bytes());
    lab.backend(RX, TAP).unwrap();
    assert_eq!(lab.base(RX), 0);
}

#[test]
fn an_interface_that_goes_takes_nothing_with_it() {
    let lab = Lab::ready();
    lab.backend(RX, TAP).unwrap();
    lab.backend(TX, TAP).unwrap();
    ip("link del given0");
    lab.transmit(0);
    lab.until_used(1);
    lab.backend(RX, -1).unwrap();
    lab.backend(TX, -1).unwrap();
    assert_eq!(lab.backend(TX, TAP), Err(Errno::EBADFD));
}

#[test]
fn a_file_that_is_closed_lets_go_of_the_interface() {
    let lab = Lab::ready();
    lab.backend(RX, TAP).unwrap();
    lab.backend(TX, TAP).unwrap();
    lab.client.install(TAP, Descriptor::Other);
    assert!(ip("link").contains("given0"), "as long as a ring has it");
    devnode::OpenFile::release(&*lab.file);
    assert!(!ip("link").contains("given0"));
}

#[test]
fn f29_back_ends_a_thousand_times_leak_nothing() {
    let lab = Lab::ready();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    lab.backend(TX, TAP).unwrap();
    lab.backend(TX, -1).unwrap();
    let before = (open(), threads());
    for _ in 0..1000 {
        lab.backend(TX, TAP).unwrap();
        lab.table(&[[0, RAM_SIZE, RAM]]).unwrap();
    }
    lab.backend(TX, -1).unwrap();
    assert_eq!((open(), threads()), before);
}
