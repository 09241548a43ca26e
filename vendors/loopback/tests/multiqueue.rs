//! Several queue pairs and the control queue, driven as a guest drives them.

use loopback::Loopback;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;
use virtio_mdev_api::executor::DEFAULT_DEADLINE;
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent, Session, Status, VirtioMdev};
use virtio_net::features::{
    CONTROL, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
};
use virtio_net::testing::Station;

const OK: u8 = 0;
const ERR: u8 = 1;
const MQ: u64 = REQUIRED | CONTROL | VIRTIO_NET_F_MQ;
/// The control queue of a card with four pairs.
const CTRL: usize = 8;

fn device(kind: &str, link: &DeviceLink, parameters: &[(&str, &str)]) -> Box<dyn VirtioMdev> {
    let parameters: BTreeMap<String, String> =
        parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let request = CreateRequest {
        uuid: Uuid::from_u128(1),
        type_name: kind.to_owned(),
        parameters,
        doorbell_pages: false,
        owner: None,
        link: link.clone(),
    };
    match Loopback::new("loopback0", 4).create(request).unwrap() {
        Device::Virtio(device) => device,
        _ => panic!("not a virtio device"),
    }
}

fn four_pairs(features: u64) -> (Station, DeviceLink) {
    let link = DeviceLink::new("test");
    let station = Station::start(device("net", &link, &[("pairs", "4")]), features);
    (station, link)
}

fn set_pairs(station: &mut Station, pairs: u16) -> u8 {
    let [low, high] = pairs.to_le_bytes();
    station.command(CTRL, &[4, 0, low, high])
}

fn frame(n: u8) -> Vec<u8> {
    vec![n; 60]
}

fn enabled(station: &mut Station) -> String {
    station.device.show_attribute("pairs_enabled").unwrap()
}

#[test]
fn a_card_has_two_queues_a_pair_and_the_control_queue_in_a_group_of_its_own() {
    let link = DeviceLink::new("test");
    let shape = |kind, parameters: &[_]| {
        let info = device(kind, &link, parameters).info();
        let groups: Vec<_> = info.queues.iter().map(|queue| queue.group).collect();
        (groups, info.queues[0].max_size, info.address_spaces)
    };
    assert_eq!(shape("net", &[]), (vec![0, 0], 1024, 1));
    assert_eq!(shape("net", &[("pairs", "2"), ("queue-size", "64")]), (vec![0, 0, 0, 0, 1], 64, 2));
    assert_eq!(shape("net-cvq", &[]), (vec![0, 0, 1], 1024, 2));
    let rings: Vec<_> = device("net-cvq", &link, &[]).info().queues.iter().map(|queue| queue.desc_group).collect();
    assert_eq!(rings, [Some(2), Some(2), Some(1)]);
    assert_eq!(shape("net-iommu", &[("pairs", "2")]), (vec![0, 0, 0, 0, 1], 1024, 2));
    let mut config = [0; 2];
    device("net", &link, &[("pairs", "4")]).read_config(8, &mut config);
    assert_eq!(config, [4, 0]);
}

#[test]
fn frames_are_counted_at_the_queues_they_went_through() {
    let (mut station, _link) = four_pairs(MQ);
    assert_eq!(set_pairs(&mut station, 2), OK);
    for pair in 0..2 {
        station.post(pair);
    }
    station.post(1);
    // The third pair's queue transmits, and what comes back goes to one that is enabled.
    for (pair, lane) in [(1, 1), (1, 1), (2, 0)] {
        station.send(pair, &frame(7));
        station.wait(lane);
    }
    station.send(3, &[0; 5]);
    let mut count = |name: &str| station.device.show_attribute(&format!("statistics/{name}")).unwrap();
    let begun = Instant::now();
    while count("tx_dropped") == "0" {
        assert!(begun.elapsed() < Duration::from_secs(5), "what is too short was never dropped");
        std::thread::sleep(Duration::from_micros(100));
    }
    let queues = ["rx_queue_0_packets", "rx_queue_1_packets", "tx_queue_1_packets", "tx_queue_2_bytes"];
    assert_eq!(queues.map(&mut count), ["1", "2", "2", "60"]);
    assert_eq!(["rx_packets", "tx_packets", "rx_queue_2_packets"].map(&mut count), ["3", "3", "0"]);
    assert_eq!(["tx_queue_3_too_short", "tx_queue_3_drops", "tx_queue_0_drops"].map(&mut count), ["1", "1", "0"]);
}

#[test]
fn only_the_first_pair_receives_until_the_driver_enables_more() {
    let (mut station, _link) = four_pairs(MQ);
    for pair in 0..4 {
        station.post(pair);
    }
    station.send(2, &frame(2));
    assert_eq!(station.wait(0), frame(2));
    assert_eq!(set_pairs(&mut station, 4), OK);
    for pair in [3, 1, 2] {
        station.send(pair, &frame(9));
        assert_eq!(station.wait(pair), frame(9), "pair {pair}");
    }
    station.post(1);
    assert_eq!(set_pairs(&mut station, 2), OK);
    station.send(3, &frame(3));
    assert_eq!(station.wait(1), frame(3));
}

#[test]
fn a_pair_without_buffers_does_not_stop_the_others() {
    let (mut station, _link) = four_pairs(MQ);
    assert_eq!(set_pairs(&mut station, 4), OK);
    for n in 0..8 {
        station.send(1, &frame(n));
    }
    for n in 0..100 {
        station.post(3);
        station.send(3, &frame(n));
        assert_eq!(station.wait(3), frame(n));
    }
    for n in 0..8 {
        station.post(1);
        assert_eq!(station.wait(1), frame(n));
    }
}

#[test]
fn a_driver_that_posts_only_when_asked_is_asked_whichever_pair_waits() {
    let (mut station, _link) = four_pairs(MQ);
    let rx = station.rings[0].clone();
    for pair in [0, 2, 0, 3] {
        // Its frame goes to the first receive queue, which is empty; no other pair waits for that.
        station.send(pair, &frame(7));
        let begun = Instant::now();
        while rx.used_flags() != 0 {
            assert!(begun.elapsed() < Duration::from_secs(5), "no notification was asked for");
            std::thread::sleep(Duration::from_micros(100));
        }
        // Rounds in which nothing comes must not take it back.
        for other in [1, 2, 3] {
            station.kick(2 * other + 1);
            std::thread::sleep(Duration::from_micros(500));
            assert_eq!(rx.used_flags(), 0, "pair {pair} waits");
        }
        station.post(0);
        assert_eq!(station.wait(0), frame(7));
    }
}

#[test]
fn a_reset_leaves_one_pair_enabled() {
    let (mut station, _link) = four_pairs(MQ);
    assert_eq!(set_pairs(&mut station, 3), OK);
    assert_eq!(enabled(&mut station), "3");
    station.restart();
    assert_eq!(enabled(&mut station), "1");
    station.post(0);
    station.send(0, &frame(1));
    assert_eq!(station.wait(0), frame(1));
}

#[test]
fn the_control_queue_is_the_third_without_multiqueue() {
    let (mut station, _link) = four_pairs(MQ & !VIRTIO_NET_F_MQ);
    assert_eq!(station.command(2, &[1, 1, 2, 0, 0, 0, 0, 9]), OK);
    assert_eq!(station.device.show_attribute("mac").unwrap(), "02:00:00:00:00:09");
    assert_eq!(station.command(2, &[4, 0, 2, 0]), ERR);
}

#[test]
fn the_control_queue_takes_its_group_along_when_features_move_it() {
    let link = DeviceLink::new("test");
    let device = device("net", &link, &[("pairs", "2")]);
    let info = device.info();
    let session = Session::new(device, info, link, DEFAULT_DEADLINE);
    let groups = || (0..5).map(|queue| session.queue_groups(queue).unwrap().0).collect::<Vec<_>>();
    assert_eq!(groups(), [0, 0, 0, 0, 1]);
    session.set_features(MQ & !VIRTIO_NET_F_MQ).unwrap();
    assert_eq!(groups(), [0, 0, 1, 0, 0]);
    session.set_features(REQUIRED).unwrap();
    assert_eq!(groups(), [0; 5]);
    session.set_features(MQ).unwrap();
    assert_eq!(groups(), [0, 0, 0, 0, 1]);
    session.set_features(REQUIRED).unwrap();
    session.reset().unwrap();
    assert_eq!(groups(), [0, 0, 0, 0, 1]);
}

#[test]
fn a_mac_address_that_is_commanded_shows_in_configuration_space_with_a_new_generation() {
    let link = DeviceLink::new("test");
    let mut station = Station::start(device("net-cvq", &link, &[]), REQUIRED | CONTROL | VIRTIO_NET_F_MAC);
    let before = link.generation();
    assert_eq!(station.command(2, &[1, 1, 2, 0, 0, 0, 0, 9]), OK);
    let mut mac = [0; 6];
    station.device.read_config(0, &mut mac);
    assert_eq!(mac, [2, 0, 0, 0, 0, 9]);
    assert_eq!(link.generation(), before + 1);
    assert_eq!(station.command(2, &[1, 1, 2, 0, 0, 0, 0, 9]), OK);
    assert_eq!(link.generation(), before + 1, "nothing changed");
}

#[test]
fn receive_modes_are_taken_and_nothing_is_filtered() {
    let link = DeviceLink::new("test");
    let mut station = Station::start(device("net-cvq", &link, &[]), REQUIRED | CONTROL);
    for command in [&[0, 0, 0][..], &[0, 1, 1], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(station.command(2, command), OK, "{command:?}");
    }
    station.post(0);
    station.send(0, &frame(5));
    assert_eq!(station.wait(0), frame(5));
}

#[test]
fn f22_what_is_no_command_is_answered_with_an_error() {
    let (mut station, link) = four_pairs(MQ);
    let long = [&[1, 0][..], &[0; 5000]].concat();
    let hostile: &[&[u8]] = &[
        &[],
        &[4],
        &[4, 0],
        &[4, 0, 1],
        &[4, 0, 1, 0, 0],
        &[4, 0, 0, 0],
        &[4, 0, 5, 0],
        &[4, 0, 0xff, 0xff],
        &[4, 1, 1, 0],
        &[0, 0, 2],
        &[0, 2, 1],
        &[0, 0],
        &[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &[1, 1, 1, 0, 0, 0, 0, 0],
        &[1, 1, 0, 0, 0, 0, 0, 0],
        &[1, 1, 2, 0, 0, 0, 0],
        &[1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0x33, 0x33],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 1, 0],
        &[3, 0],
        &[4, 1],
        &[5, 0, 0, 0, 0, 0],
        &[6, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[0xff; 64],
        &long,
    ];
    for command in hostile {
        assert_eq!(station.command(CTRL, command), ERR, "{command:02x?}");
    }
    assert!(!link.needs_reset());
    assert_eq!(enabled(&mut station), "1");
    assert_eq!(set_pairs(&mut station, 4), OK);
}

#[test]
fn f25_a_class_that_was_not_negotiated_is_an_error() {
    let (mut station, _link) = four_pairs(REQUIRED | VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_MQ);
    assert_eq!(station.command(CTRL, &[1, 1, 2, 0, 0, 0, 0, 9]), ERR);
    assert_eq!(station.command(CTRL, &[0, 0, 1]), ERR);
    let (mut station, _link) =
        four_pairs(REQUIRED | VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_MAC_ADDR);
    assert_eq!(station.command(2, &[4, 0, 1, 0]), ERR);
}

/// With every feature that a command can need.
fn announcing() -> (Station, DeviceLink) {
    let link = DeviceLink::new("test");
    let station = Station::start(device("net-fast", &link, &[("pairs", "4")]), MQ | VIRTIO_NET_F_GUEST_ANNOUNCE);
    (station, link)
}

fn status(station: &mut Station) -> u8 {
    let mut status = [0; 2];
    station.device.read_config(6, &mut status);
    status[0]
}

#[test]
fn a_driver_that_goes_on_elsewhere_is_asked_to_announce_where_it_is() {
    let (mut station, _link) = announcing();
    assert_eq!(status(&mut station), 1);
    let state = station.device.save_state().unwrap();
    let (mut other, _link) = announcing();
    other.device.restore_state(&state).unwrap();
    assert_eq!(status(&mut other), 3, "VIRTIO_NET_S_ANNOUNCE");
    assert_eq!(other.command(CTRL, &[3, 0, 0]), ERR);
    assert_eq!(status(&mut other), 3);
    assert_eq!(other.command(CTRL, &[3, 0]), OK);
    assert_eq!(status(&mut other), 1);
    other.device.restore_state(&state).unwrap();
    other.restart();
    assert_eq!(status(&mut other), 1, "a driver that begins has announced itself");
    let (mut silent, _link) = four_pairs(MQ);
    silent.device.restore_state(&state).unwrap();
    assert_eq!(status(&mut silent), 1, "not negotiated");
}

#[test]
fn f41_a_state_that_is_refused_changes_nothing() {
    let (mut station, _link) = announcing();
    assert_eq!(set_pairs(&mut station, 2), OK);
    let state = station.device.save_state().unwrap();
    for bad in [&state[..state.len() - 1], &[&state[..], &[0]].concat(), &[]] {
        assert_eq!(station.device.restore_state(bad).unwrap_err().errno(), Errno::EINVAL);
    }
    assert_eq!((enabled(&mut station), status(&mut station)), ("2".to_owned(), 1));
}

/// The largest there can be is taken, in as many buffers as the ring has; one byte more is not.
#[test]
fn f22_commands_may_be_in_many_buffers_up_to_the_longest() {
    let link = DeviceLink::new("test");
    let features = REQUIRED | VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX;
    let mut station = Station::start(device("net-cvq", &link, &[]), features);
    let ring = station.rings[2].clone();
    let addr = ring.desc + 0x8000;
    let answer = addr + 0x4000;
    for (addresses, excess, expected) in [(2, 0, OK), (2, 1, ERR), (10_921, 0, OK), (10_922, 0, ERR)] {
        // The table of addresses is the same memory again and again: only how long it says it is counts.
        let mut command = [1, 0, 0, 0, 0, 0];
        command[2..].copy_from_slice(&u32::to_le_bytes(addresses));
        ring.ram.write(addr, &command);
        ring.ram.write(addr + 8, &[0; 0x2000]);
        let mut left = 6 * addresses + 4 + excess;
        let mut chain: Vec<_> = (0..6).map(|at| (addr + at, 1, false)).collect();
        while left > 0 {
            let len = left.min(if left > 64 { 0x2000 } else { 7 });
            chain.push((addr + 8, len, false));
            left -= len;
            if chain.len() == usize::from(ring.size) - 1 {
                break;
            }
        }
        assert_eq!(left, 0, "it is all in one chain");
        chain.push((answer, 1, true));
        ring.ram.write(answer, &[0xff]);
        station.rings[2].add(&chain);
        station.kick(2);
        let begun = Instant::now();
        while station.rings[2].take_used().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(5), "no answer");
            std::thread::sleep(Duration::from_micros(100));
        }
        assert_eq!(ring.ram.read(answer, 1), [expected], "{addresses} addresses and {excess} bytes");
    }
    assert!(!link.needs_reset());
}

#[test]
fn f15_a_command_without_room_for_its_answer_stops_the_device() {
    let (mut station, link) = four_pairs(MQ);
    let ring = &mut station.rings[CTRL];
    let addr = ring.desc + 0x8000;
    ring.add(&[(addr, 4, false)]);
    station.kick(CTRL);
    let begun = Instant::now();
    while !link.needs_reset() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the device goes on");
        std::thread::sleep(Duration::from_micros(100));
    }
    assert!(link.last_fault().unwrap().contains("queue 8: chain 0: control command without room"));
    station.restart();
}

#[test]
fn a_flood_of_commands_does_not_stop_frames() {
    let (mut station, _link) = four_pairs(MQ);
    station.post(0);
    let ring = &mut station.rings[CTRL];
    let addr = ring.desc + 0x8000;
    ring.ram.write(addr, &[4, 0, 1, 0]);
    // One chain, made available as often as the index goes round: there is always another command.
    let head = ring.add(&[(addr, 4, false), (addr + 64, 1, true)]);
    for _ in 1..ring.size {
        ring.push(head);
    }
    ring.publish();
    station.kick(CTRL);
    station.send(0, &frame(4));
    assert_eq!(station.wait(0), frame(4));
}

#[test]
fn the_mac_address_can_be_changed_while_no_driver_runs() {
    let link = DeviceLink::new("test");
    let mut station = Station::start(device("net", &link, &[]), REQUIRED);
    let mac = |station: &mut Station| station.device.show_attribute("mac").unwrap();
    let before = mac(&mut station);
    let refused = station.device.store_attribute("mac", "02:00:00:00:00:01").unwrap_err();
    assert_eq!(refused.errno(), Errno::EBUSY);
    assert_eq!(mac(&mut station), before);
    station.reset();
    for (bad, why) in [("01:00:00:00:00:01", "group"), ("00:00:00:00:00:00", "nobody"), ("2:0:0:0:0:1", "six pairs")] {
        let refused = station.device.store_attribute("mac", bad).unwrap_err();
        assert_eq!(refused.errno(), Errno::EINVAL);
        assert!(refused.reason().contains(why) && refused.reason().contains(bad), "{}", refused.reason());
    }
    let generation = link.generation();
    station.device.store_attribute("mac", "02:00:00:00:00:01").unwrap();
    assert_eq!(link.generation(), generation + 1);
    station.restart();
    assert_eq!(mac(&mut station), "02:00:00:00:00:01", "it outlives a reset");
    station.reset();
    // Suspended: no queue runs, but its driver is there.
    station.device.status_changed(Status::DRIVER_OK);
    assert_eq!(station.device.store_attribute("mac", "02:00:00:00:00:02").unwrap_err().errno(), Errno::EBUSY);
}
