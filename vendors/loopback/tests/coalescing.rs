//! Interrupts that wait for each other, as a driver asks for it by the control queue.

use loopback::Loopback;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED};
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent};
use virtio_net::features::{COALESCING, CONTROL, VIRTIO_NET_F_MQ, VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_VQ_NOTF_COAL};
use virtio_net::testing::Station;

const OK: u8 = 0;
const ERR: u8 = 1;
const FEATURES: u64 = REQUIRED | CONTROL | VIRTIO_NET_F_MQ | COALESCING;
/// The control queue of a card with two pairs.
const CTRL: usize = 4;
const TX_SET: u8 = 0;
const RX_SET: u8 = 1;
const VQ_SET: u8 = 2;
const VQ_GET: u8 = 3;
const LONG: u32 = u32::MAX;
const PATIENCE: Duration = Duration::from_secs(5);

fn station(features: u64) -> Station {
    let request = CreateRequest {
        uuid: Uuid::from_u128(1),
        type_name: "net-fast".to_owned(),
        parameters: BTreeMap::from([("pairs".to_owned(), "2".to_owned())]),
        doorbell_pages: false,
        owner: None,
        link: DeviceLink::new("test"),
    };
    match Loopback::new("loopback0", 4).create(request).unwrap() {
        Device::Virtio(device) => {
            let mut station = Station::start(device, features);
            assert_eq!(station.command(CTRL, &[4, 0, 2, 0]), OK, "two pairs");
            station
        }
        _ => panic!("not a virtio device"),
    }
}

fn limits(buffers: u32, micros: u32) -> Vec<u8> {
    [buffers.to_le_bytes(), micros.to_le_bytes()].concat()
}

/// Sets the limits of all queues of a direction.
fn set(station: &mut Station, direction: u8, buffers: u32, micros: u32) -> u8 {
    station.command(CTRL, &[&[6, direction][..], &limits(buffers, micros)].concat())
}

fn set_queue(station: &mut Station, queue: u8, buffers: u32, micros: u32) -> u8 {
    station.command(CTRL, &[&[6, VQ_SET, queue, 0, 0, 0][..], &limits(buffers, micros)].concat())
}

fn queue_limits(station: &mut Station, queue: u8) -> Vec<u8> {
    station.ask(CTRL, &[6, VQ_GET, queue, 0, 0, 0], 9)
}

/// Has a frame come back on a pair, which is there when this returns, whether it was told of or not.
fn exchange(station: &mut Station, pair: usize) {
    station.post(pair);
    station.send(pair, &[7; 60]);
    station.wait(pair);
}

/// Interrupts of a queue since the last look, when there is one, or none after a while.
fn interrupts(station: &Station, queue: usize) -> u64 {
    let begun = Instant::now();
    loop {
        match station.calls[queue].drain().unwrap() {
            Some(count) => return count,
            None if begun.elapsed() > Duration::from_millis(20) => return 0,
            None => std::thread::sleep(Duration::from_micros(100)),
        }
    }
}

fn wait_interrupt(station: &Station, queue: usize) {
    let begun = Instant::now();
    while station.calls[queue].drain().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "queue {queue} interrupts nobody");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn every_buffer_is_told_of_until_a_driver_asks_for_less() {
    let mut station = station(FEATURES);
    for _ in 0..3 {
        exchange(&mut station, 0);
        wait_interrupt(&station, 0);
        wait_interrupt(&station, 1);
    }
}

#[test]
fn an_interrupt_waits_for_so_many_frames() {
    for ring in [0, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER] {
        let mut station = station(FEATURES | ring);
        assert_eq!(set(&mut station, RX_SET, 4, LONG), OK);
        for _ in 0..2 {
            (0..3).for_each(|_| exchange(&mut station, 0));
            assert_eq!(interrupts(&station, 0), 0);
            exchange(&mut station, 0);
            wait_interrupt(&station, 0);
            assert_eq!(interrupts(&station, 0), 0, "one for four");
        }
        assert!(interrupts(&station, 1) >= 1, "the other direction is told of as before");
    }
}

#[test]
fn an_interrupt_waits_no_longer_than_it_may() {
    let mut station = station(FEATURES);
    const MICROS: u32 = 30_000;
    assert_eq!(set(&mut station, RX_SET, 0, MICROS), OK);
    assert_eq!(set(&mut station, TX_SET, 1000, MICROS), OK);
    for _ in 0..3 {
        let begun = Instant::now();
        exchange(&mut station, 1);
        wait_interrupt(&station, 2);
        wait_interrupt(&station, 3);
        assert!(begun.elapsed() >= Duration::from_micros(MICROS.into()), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_wait_ends_when_a_driver_asks_for_a_shorter_one() {
    let mut station = station(FEATURES);
    assert_eq!(set(&mut station, RX_SET, 0, LONG), OK);
    exchange(&mut station, 0);
    assert_eq!(interrupts(&station, 0), 0);
    assert_eq!(set(&mut station, RX_SET, 0, 0), OK);
    wait_interrupt(&station, 0);
}

#[test]
fn f38_a_queue_that_stops_tells_of_what_it_held_back() {
    let mut station = station(FEATURES);
    for direction in [RX_SET, TX_SET] {
        assert_eq!(set(&mut station, direction, 0, LONG), OK);
    }
    exchange(&mut station, 1);
    assert_eq!((interrupts(&station, 2), interrupts(&station, 3)), (0, 0));
    for queue in [2, 3] {
        station.device.stop_queue(queue).unwrap();
        assert_eq!(station.calls[usize::from(queue)].drain(), Ok(Some(1)), "before the stop returns");
    }
}

#[test]
fn each_queue_can_have_its_own_limits_and_tells_them() {
    let mut station = station(FEATURES);
    assert_eq!(set(&mut station, TX_SET, 3, 4), OK);
    assert_eq!(set_queue(&mut station, 2, 64, LONG), OK);
    let expected =
        [(0, 0), (3, 4), (64, LONG), (3, 4)].map(|(buffers, micros)| [&[OK][..], &limits(buffers, micros)].concat());
    assert_eq!([0, 1, 2, 3].map(|queue| queue_limits(&mut station, queue)), expected);
    exchange(&mut station, 0);
    wait_interrupt(&station, 0);
    exchange(&mut station, 1);
    assert_eq!(interrupts(&station, 2), 0);
    let state = station.device.save_state().unwrap();
    station.restart();
    assert_eq!(queue_limits(&mut station, 2), [OK, 0, 0, 0, 0, 0, 0, 0, 0], "another driver");
    station.device.restore_state(&state).unwrap();
    assert_eq!([0, 1, 2, 3].map(|queue| queue_limits(&mut station, queue)), expected, "the same driver elsewhere");
}

#[test]
fn f22_limits_that_make_no_sense_are_refused() {
    let mut own = station(FEATURES);
    let good = [&[6, RX_SET][..], &limits(1, 2)].concat();
    for len in 2..good.len() {
        assert_eq!(own.command(CTRL, &good[..len]), ERR, "{len} bytes");
    }
    assert_eq!(own.command(CTRL, &[&good[..], &[0]].concat()), ERR);
    assert_eq!(own.command(CTRL, &[&[6, 4][..], &limits(1, 2)].concat()), ERR, "no such command");
    assert_eq!([4, 5, 255].map(|queue| set_queue(&mut own, queue, 1, 1)), [ERR; 3], "not a queue of frames");
    assert_eq!([4, 5, 255].map(|queue| queue_limits(&mut own, queue)), [[ERR]; 3]);
    assert_eq!(own.command(CTRL, &[6, VQ_GET, 0, 0, 0, 0]), ERR, "no room for the answer");
    assert_eq!(own.ask(CTRL, &[6, VQ_GET, 0], 9), [ERR]);
    for (left, direction, queue) in [(VIRTIO_NET_F_NOTF_COAL, OK, ERR), (VIRTIO_NET_F_VQ_NOTF_COAL, ERR, OK)] {
        let mut station = station(FEATURES & !COALESCING | left);
        assert_eq!(set(&mut station, TX_SET, 1, 1), direction);
        assert_eq!(set_queue(&mut station, 0, 1, 1), queue);
        assert_eq!(queue_limits(&mut station, 0)[0], queue);
    }
}
