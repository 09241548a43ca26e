//! Sources and sinks, driven as a guest drives them.

use loopback::Loopback;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use uuid::Uuid;
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_EVENT_IDX};
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent, Refusal, VirtioMdev};
use virtio_net::features::{CONTROL, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF};
use virtio_net::testing::{Guest, RX, Station};

fn create(kind: &str, parameters: &[(&str, &str)]) -> Result<Box<dyn VirtioMdev>, Refusal> {
    let request = CreateRequest {
        uuid: Uuid::from_u128(1),
        type_name: kind.to_owned(),
        parameters: parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        doorbell_pages: false,
        owner: None,
        link: DeviceLink::new("test"),
    };
    match Loopback::new("loopback0", 4).create(request)? {
        Device::Virtio(device) => Ok(device),
        _ => panic!("not a virtio device"),
    }
}

fn guest(kind: &str, parameters: &[(&str, &str)], features: u64) -> Guest {
    Guest::new(create(kind, parameters).unwrap(), REQUIRED | features, 64)
}

fn refusal(kind: &str, parameters: &[(&str, &str)]) -> String {
    let refusal = create(kind, parameters).err().expect("a refusal");
    assert_eq!(refusal.errno(), Errno::EINVAL);
    refusal.reason().to_owned()
}

fn counter(guest: &mut Guest, name: &str) -> u64 {
    guest.device.show_attribute(&format!("statistics/{name}")).unwrap().parse().unwrap()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(5), "{what} did not happen");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Whether a kick of the receive queue has been taken: a thread that is busy does not look for any.
fn wait_until_it_rests(guest: &Guest) {
    guest.kick(RX);
    wait_for("a rest", || {
        let mut kick = [PollFd::new(guest.kicks[usize::from(RX)].as_fd(), PollFlags::POLLIN)];
        poll(&mut kick, PollTimeout::ZERO).unwrap() == 0
    });
}

/// The number that a frame of a source carries.
fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(*frame[14..].first_chunk().unwrap())
}

#[test]
fn a_source_fills_every_buffer_with_the_next_frame() {
    for (kind, features) in [("source", 0), ("source-fast", VIRTIO_F_EVENT_IDX | VIRTIO_NET_F_MRG_RXBUF)] {
        let mut guest = guest(kind, &[("frame", "128"), ("mac", "02:00:00:00:00:09")], features);
        guest.start();
        for n in 0..1000 {
            guest.post(64);
            let (header, frame) = guest.wait();
            assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            assert_eq!((frame.len(), number(&frame)), (128, n), "{kind}");
            assert_eq!(frame[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        }
        wait_for("the last of them", || guest.rx.used_idx() == guest.rx.next_avail());
        assert_eq!(counter(&mut guest, "rx_packets"), u64::from(guest.rx.next_avail()));
    }
}

#[test]
fn a_source_rests_while_there_is_no_buffer() {
    let mut guest = guest("source", &[], 0);
    guest.start();
    wait_until_it_rests(&guest);
    guest.post(3);
    wait_for("three frames", || guest.rx.used_idx() == 3);
    wait_until_it_rests(&guest);
    guest.post(1);
    wait_for("another", || guest.rx.used_idx() == 4);
}

#[test]
fn a_source_whose_frames_fit_no_buffer_rests() {
    let mut guest = guest("source", &[("frame", "1514")], 0);
    guest.rx_len = 1024;
    guest.start();
    guest.post(8);
    wait_for("a frame that is too long", || counter(&mut guest, "rx_too_long") > 0);
    wait_until_it_rests(&guest);
    assert_eq!(guest.rx.used_idx(), 0);
}

#[test]
fn long_frames_of_a_source_are_spread_over_buffers_that_merge() {
    let mut guest = guest("source", &[("frame", "9000"), ("mtu", "9000")], VIRTIO_NET_F_MRG_RXBUF);
    guest.start();
    for n in 0..20 {
        guest.post(10);
        let (header, frame) = guest.wait();
        assert_eq!((header[10], frame.len(), number(&frame)), (5, 9000, n));
    }
}

#[test]
fn pairs_of_a_source_take_turns() {
    let device = create("source", &[("pairs", "2")]).unwrap();
    let mut station = Station::start(device, REQUIRED | CONTROL | VIRTIO_NET_F_MQ);
    assert_eq!(station.command(4, &[4, 0, 2, 0]), 0);
    for n in 0..100 {
        for pair in [0, 1] {
            station.post(pair);
        }
        for pair in [0, 1] {
            assert_eq!(number(&station.wait(pair)), n, "pair {pair}");
        }
    }
}

#[test]
fn what_a_source_is_sent_is_dropped_and_counted() {
    let mut guest = guest("source", &[], 0);
    guest.start();
    assert!(guest.send(&[1; 60]));
    wait_for("a used buffer", || guest.tx.used_idx() == 1);
    assert_eq!((counter(&mut guest, "tx_errors"), counter(&mut guest, "tx_packets")), (1, 0));
}

#[test]
fn a_sink_takes_every_frame_and_gives_none() {
    for kind in ["sink", "sink-fast"] {
        let mut guest = guest(kind, &[], 0);
        guest.start();
        guest.post(64);
        for sent in 1..=1000_u16 {
            assert!(guest.send(&[1; 100]));
            wait_for("a used buffer", || guest.tx.used_idx() == sent);
        }
        assert_eq!((counter(&mut guest, "tx_packets"), counter(&mut guest, "tx_bytes")), (1000, 100_000));
        assert_eq!((guest.rx.used_idx(), counter(&mut guest, "rx_packets")), (0, 0));
    }
}

#[test]
fn frame_is_a_parameter_of_sources_alone_and_within_the_mtu() {
    assert_eq!(guest("source", &[], 0).device.show_attribute("frame").unwrap(), "64");
    assert_eq!(guest("source", &[("frame", "1522")], 0).device.show_attribute("frame").unwrap(), "1522");
    assert_eq!(refusal("source", &[("frame", "1523")]), "frame=1523: longer than mtu=1500 allows");
    assert_eq!(refusal("source", &[("frame", "59")]), "frame=59: not a number in 60..65535");
    assert!(refusal("sink", &[("frame", "64")]).starts_with("unknown parameter frame; known are: mac, mtu,"));
    assert!(refusal("net", &[("frame", "64")]).starts_with("unknown parameter frame"));
}
