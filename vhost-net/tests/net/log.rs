//! The dirty log, against what the device truly wrote.

use crate::lab::*;
use libc::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use nix::errno::Errno;
use std::net::UdpSocket;
use std::sync::Arc;
use virtio_mdev_api::notify::EventFd;

/// Where the used rings are in the log, in pages.
const RX_LOG: u64 = 100;
const TX_LOG: u64 = 101;

fn features(lab: &Lab, features: u64) -> Result<(), Errno> {
    lab.call(SET_FEATURES, &features.to_ne_bytes()).map(drop)
}

fn log_ring(lab: &Lab, index: u32, page: u64) -> Result<(), Errno> {
    let [desc, used, avail, _] = ring(index);
    lab.addr(index, 1, [desc, used, avail, page * 4096])
}

/// The pages of the log, which is as new then.
fn taken(lab: &Lab) -> Vec<u64> {
    let bytes = lab.client.get(LOG, 64);
    lab.client.put(LOG, &[0; 64]);
    (0..512).filter(|page| bytes[usize::try_from(page / 8).unwrap()] & 1 << (page % 8) != 0).collect()
}

fn set_base(lab: &Lab, base: u64) -> Result<(), Errno> {
    lab.call(SET_LOG_BASE, &base.to_ne_bytes()).map(drop)
}

#[test]
fn f36_a_log_that_is_too_small_is_refused() {
    let lab = Lab::ready();
    let end = vfio_container::testing::BASE + vfio_container::testing::SIZE as u64;
    set_base(&lab, end - 4).unwrap();
    assert_eq!(features(&lab, VERSION_1 | LOG_ALL), Err(Errno::EFAULT), "eight bytes are needed");
    set_base(&lab, end - 8).unwrap();
    features(&lab, VERSION_1 | LOG_ALL).unwrap();
    assert_eq!(set_base(&lab, end - 4), Err(Errno::EFAULT));
    assert_eq!(log_ring(&lab, TX, TX_LOG), Err(Errno::EINVAL), "beyond the end");
    let ring_and_more = [[0, RAM_SIZE, RAM], [1 << 30, 0x1000, RAM]];
    assert_eq!(lab.table(&ring_and_more), Err(Errno::EFAULT), "memory the log has no bit for");
    features(&lab, VERSION_1).unwrap();
    lab.table(&ring_and_more).unwrap();
}

#[test]
fn a_device_that_starts_to_log_before_it_knows_where_does_not_run_until_it_does() {
    // In the order of a QEMU whose guest starts its driver during a migration.
    let lab = Lab::new();
    lab.give_interface(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    features(&lab, VERSION_1 | LOG_ALL).unwrap();
    lab.table(&[[0, RAM_SIZE, RAM]]).unwrap();
    lab.vring(SET_VRING_NUM, TX, SIZE.into()).unwrap();
    log_ring(&lab, TX, TX_LOG).unwrap();
    lab.fd(SET_VRING_KICK, TX, KICK).unwrap();
    assert_eq!(lab.backend(TX, TAP), Err(Errno::EFAULT), "no log");
    set_base(&lab, LOG).unwrap();
    lab.backend(TX, TAP).unwrap();
    lab.transmit(0);
    lab.until_used(1);
    eventually("the page of the used ring is logged", || taken(&lab) == [TX_LOG]);
}

#[test]
fn rings_that_run_are_not_logged_to_nowhere() {
    let lab = Lab::ready();
    lab.backend(TX, TAP).unwrap();
    assert_eq!(features(&lab, VERSION_1 | LOG_ALL), Err(Errno::EFAULT));
    set_base(&lab, LOG).unwrap();
    features(&lab, VERSION_1 | LOG_ALL).unwrap();
}

#[test]
fn a_log_that_moved_stays_where_it_is_whatever_else_was_under_way() {
    const MOVED: u64 = LOG + 0x100;
    let calls: [fn(&Lab); 3] = [
        |lab| features(lab, VERSION_1 | LOG_ALL).unwrap(),
        |lab| lab.table(&[[0, RAM_SIZE, RAM]]).unwrap(),
        |lab| log_ring(lab, TX, TX_LOG).unwrap(),
    ];
    for call in calls {
        let lab = Arc::new(Lab::ready());
        set_base(&lab, LOG).unwrap();
        features(&lab, VERSION_1 | LOG_ALL).unwrap();
        log_ring(&lab, TX, TX_LOG).unwrap();
        lab.backend(TX, TAP).unwrap();
        let other = Arc::clone(&lab);
        lab.client.meanwhile(move || set_base(&other, MOVED).unwrap());
        call(&lab);
        taken(&lab);
        lab.transmit(0);
        lab.until_used(1);
        let byte = usize::try_from(TX_LOG / 8).unwrap();
        eventually("it is logged there", || lab.client.get(MOVED, 64)[byte] == 1 << (TX_LOG % 8));
    }
}

#[test]
fn f36_what_is_written_is_logged_and_nothing_else() {
    let lab = Lab::ready();
    let told = EventFd::new().unwrap();
    lab.client.install(30, vfio_container::testing::Descriptor::Event(told.clone()));
    lab.call(SET_LOG_FD, &30i32.to_ne_bytes()).unwrap();
    set_base(&lab, LOG).unwrap();
    lab.backend(RX, TAP).unwrap();
    lab.backend(TX, TAP).unwrap();
    lab.transmit(0);
    lab.until_used(1);
    assert_eq!(taken(&lab), [0u64; 0], "not asked for");

    // As QEMU does, under rings that run.
    features(&lab, VERSION_1 | LOG_ALL).unwrap();
    lab.transmit(1);
    lab.until_used(2);
    assert_eq!(taken(&lab), [0u64; 0], "a used ring is logged where that is asked for");
    log_ring(&lab, RX, RX_LOG).unwrap();
    log_ring(&lab, TX, TX_LOG).unwrap();
    taken(&lab);
    lab.transmit(2);
    lab.until_used(3);
    eventually("the page of the used ring is logged", || taken(&lab).contains(&TX_LOG));
    eventually("who reads the log is told", || told.drain() != Ok(None));

    // A frame of the host, at 0x3_0ff8: over the border of two pages.
    let [desc, used, avail, _] = ring(RX);
    let words = [0x3_0ff8u64.to_le_bytes().to_vec(), 2048u32.to_le_bytes().to_vec(), vec![2, 0, 0, 0]].concat();
    lab.client.put(desc, &words);
    lab.client.put(avail + 2, &1u16.to_le_bytes());
    ip("addr add 10.9.0.1/24 dev given0");
    ip("neigh add 10.9.0.2 lladdr 52:54:00:00:00:02 dev given0");
    UdpSocket::bind("10.9.0.1:0").unwrap().send_to(&[7; 100], "10.9.0.2:7000").unwrap();
    lab.rx_kick.signal().unwrap();
    eventually("the frame is received", || lab.client.get(used + 2, 2) == [1, 0]);
    let mut pages = Vec::new();
    eventually("the pages of the frame are logged", || {
        pages.extend(taken(&lab));
        [0x30, 0x31, RX_LOG].iter().all(|page| pages.contains(page))
    });
    assert!(pages.iter().all(|page| [0x30, 0x31, RX_LOG, TX_LOG].contains(page)), "{pages:x?}");

    features(&lab, VERSION_1).unwrap();
    taken(&lab);
    lab.transmit(3);
    lab.until_used(4);
    assert_eq!(taken(&lab), [0u64; 0], "no more");
}
