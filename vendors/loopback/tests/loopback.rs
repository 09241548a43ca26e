//! Instances of the loopback parent, driven as a guest drives them.

use loopback::Loopback;
use nix::errno::Errno;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;
use virtio_mdev_api::executor::DEFAULT_DEADLINE;
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_EVENT_IDX};
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Guarded, Parent, Refusal, VirtioMdev};
use virtio_net::features::{VIRTIO_NET_F_CSUM, VIRTIO_NET_F_MRG_RXBUF};
use virtio_net::testing::{Guest, RX, TX};
use virtqueue::testing::Ram;

fn create_with(
    parent: &Loopback,
    kind: &str,
    link: &DeviceLink,
    parameters: &[(&str, &str)],
) -> Result<Device, Refusal> {
    let parameters: BTreeMap<String, String> =
        parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    parent.create(CreateRequest {
        uuid: Uuid::from_u128(1),
        type_name: kind.to_owned(),
        parameters,
        doorbell_pages: false,
        owner: None,
        link: link.clone(),
    })
}

fn device(kind: &str, link: &DeviceLink) -> Box<dyn VirtioMdev> {
    match create_with(&Loopback::new("loopback0", 4), kind, link, &[]).unwrap() {
        Device::Virtio(device) => device,
        _ => panic!("not a virtio device"),
    }
}

fn guest(kind: &str, features: u64) -> (Guest, DeviceLink) {
    let link = DeviceLink::new("test");
    let mut guest = Guest::new(device(kind, &link), REQUIRED | features, 64);
    guest.start();
    (guest, link)
}

fn frame(n: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| (n as usize * 31 + at * 7).to_le_bytes()[0]).collect()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(5), "{what} did not happen");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn counter(guest: &mut Guest, name: &str) -> u64 {
    guest.device.show_attribute(&format!("statistics/{name}")).unwrap().parse().unwrap()
}

/// The device stops for `reason`, and is back after a reset.
fn expect_fault(guest: &mut Guest, link: &DeviceLink, reason: &str) {
    wait_for(reason, || link.needs_reset());
    let found = link.last_fault().unwrap();
    assert!(found.contains(reason), "{found} is not: {reason}");
    guest.reset();
    guest.post(8);
    assert!(guest.send(&frame(1, 60)));
    assert_eq!(guest.wait().1, frame(1, 60));
}

#[test]
fn frames_come_back_in_order_and_unchanged() {
    for (kind, features) in
        [("net", 0), ("net", VIRTIO_F_EVENT_IDX), ("net-fast", VIRTIO_F_EVENT_IDX), ("net-iommu", 0)]
    {
        let (mut guest, link) = guest(kind, features);
        for n in 0..1000 {
            guest.post(2);
            let sent = frame(n, 14 + n as usize % 1500);
            assert!(guest.send(&sent));
            let (header, received) = guest.wait();
            assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            assert_eq!(received, sent, "{kind} {n}");
        }
        assert!(!link.needs_reset());
        assert_eq!((counter(&mut guest, "tx_packets"), counter(&mut guest, "rx_packets")), (1000, 1000));
    }
}

#[test]
fn private_memory_works_too() {
    let link = DeviceLink::new("private");
    let mut guest = Guest::with_private_memory(device("net", &link), REQUIRED, 64);
    guest.start();
    for n in 0..100 {
        guest.post(2);
        assert!(guest.send(&frame(n, 100)));
        assert_eq!(guest.wait().1, frame(n, 100));
    }
}

#[test]
fn without_receive_buffers_frames_wait_in_the_transmit_ring_and_none_is_lost() {
    let (mut guest, _) = guest("net", 0);
    let mut sent = 0;
    while guest.send(&frame(sent, 64)) {
        sent += 1;
    }
    assert_eq!(sent, 64);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(guest.tx.used_idx(), 0, "a frame was taken with nowhere to go");
    for n in 0..sent {
        guest.post(1);
        assert_eq!(guest.wait().1, frame(n, 64));
    }
    assert_eq!(counter(&mut guest, "tx_dropped"), 0);
}

#[test]
fn a_device_that_waits_for_buffers_sleeps() {
    let (mut guest, _) = guest("net", 0);
    assert!(guest.send(&frame(0, 64)));
    std::thread::sleep(Duration::from_millis(50));
    let spent = || {
        let mine = |task: &std::path::PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == "loopback0/0")
        };
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        tasks.into_iter().filter(mine).count()
    };
    assert_eq!(spent(), 1, "threads are called after their parent");
    guest.stop();
    let link = DeviceLink::new("sleeper");
    let mut sleeper = Guest::new(device("net", &link), REQUIRED, 64);
    sleeper.start();
    let begun = Instant::now();
    while spent() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "no thread while a device runs");
        std::thread::yield_now();
    }
    assert_eq!(spent(), 1, "one thread while a device runs");
    assert!(sleeper.send(&frame(0, 64)));
    std::thread::sleep(Duration::from_millis(50));
    let task = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == "loopback0/0"))
        .unwrap();
    let time = || -> u64 {
        let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
        stat.split_whitespace().next().unwrap().parse().unwrap()
    };
    let before = time();
    std::thread::sleep(Duration::from_millis(300));
    assert!(time() - before < 30_000_000, "{} ns while there was nothing to do", time() - before);
    sleeper.stop();
    assert_eq!(spent(), 0, "the thread goes with the last queue");
}

/// What the thread called `name` spends in 300 ms.
fn spent_by(name: &str) -> Duration {
    let task = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name))
        .unwrap();
    let time = || -> u64 {
        let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
        stat.split_whitespace().next().unwrap().parse().unwrap()
    };
    let before = time();
    std::thread::sleep(Duration::from_millis(300));
    Duration::from_nanos(time() - before)
}

#[test]
fn a_device_that_has_some_of_the_buffers_a_frame_needs_sleeps_until_there_are_enough() {
    for (name, features) in [("some", 0), ("some-event", VIRTIO_F_EVENT_IDX)] {
        let link = DeviceLink::new(name);
        let features = REQUIRED | VIRTIO_NET_F_MRG_RXBUF | features;
        let mut guest = Guest::new(device("net", &link), features, 64);
        guest.rx_len = 100;
        guest.start();
        guest.post(3);
        assert!(guest.send(&frame(5, 1500)));
        std::thread::sleep(Duration::from_millis(50));
        let spent = spent_by("loopback0/0");
        assert!(spent < Duration::from_millis(30), "{name}: {spent:?} while there was nothing to do");
        // Asked for: a driver that heeds VIRTIO_F_EVENT_IDX kicks for the buffer after those it had posted.
        if features & VIRTIO_F_EVENT_IDX == 0 {
            assert_eq!(guest.rx.used_flags() & 1, 0);
        } else {
            assert_eq!(guest.rx.avail_event(), 3);
        }
        guest.post(12);
        std::thread::sleep(Duration::from_millis(20));
        assert!(guest.receive().is_none());
        guest.post(1);
        assert_eq!(guest.wait().1, frame(5, 1500));
    }
}

#[test]
fn a_driver_that_posts_buffers_one_by_one_and_kicks_only_when_asked_is_never_forgotten() {
    for features in [0, VIRTIO_F_EVENT_IDX] {
        let (mut guest, _) = guest("net", VIRTIO_NET_F_MRG_RXBUF | features);
        guest.rx_len = 100;
        for n in 0..5000 {
            assert!(guest.send(&frame(n, 250)));
            // Header and frame take three buffers; nothing but these wakes the device.
            for _ in 0..3 {
                let old = guest.rx.next_avail();
                let new = old.wrapping_add(1);
                guest.rx.add(&[(0x20_0000 + 100 * u64::from(guest.rx.next_head()), 100, true)]);
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                let asked = if features == 0 {
                    guest.rx.used_flags() & 1 == 0
                } else {
                    new.wrapping_sub(guest.rx.avail_event()).wrapping_sub(1) < new.wrapping_sub(old)
                };
                if asked {
                    guest.kick(RX);
                }
            }
            assert_eq!(guest.wait().1, frame(n, 250), "{n}");
        }
    }
}

#[test]
fn stopping_and_starting_in_the_middle_loses_and_repeats_nothing() {
    let (mut guest, link) = guest("net", VIRTIO_F_EVENT_IDX);
    let (mut sent, mut received) = (0, 0);
    while received < 20_000 {
        for _ in 0..sent % 37 + 1 {
            if sent < 20_000 && guest.send(&frame(sent, 60)) {
                sent += 1;
            }
        }
        guest.post(u16::try_from(received % 29 + 1).unwrap());
        if received % 13 == 0 {
            guest.stop();
            guest.start();
        }
        while let Some((_, bytes)) = guest.receive() {
            assert_eq!(bytes, frame(received, 60), "{received}");
            received += 1;
        }
    }
    guest.stop();
    assert!(guest.receive().is_none());
    assert!(!link.needs_reset());
}

#[test]
fn a_frame_larger_than_a_buffer_is_spread_or_dropped() {
    let (mut merging, _) = guest("net", VIRTIO_NET_F_MRG_RXBUF);
    merging.rx_len = 100;
    merging.post(64);
    assert!(merging.send(&frame(5, 1500)));
    let (header, received) = merging.wait();
    assert_eq!(header[10..], [16, 0]);
    assert_eq!(received, frame(5, 1500));

    let (mut plain, _) = guest("net", 0);
    plain.rx_len = 100;
    plain.post(64);
    assert!(plain.send(&frame(5, 1500)));
    assert!(plain.send(&frame(6, 88)));
    assert_eq!(plain.wait().1, frame(6, 88));
    assert_eq!(counter(&mut plain, "rx_too_long"), 1);
}

#[test]
fn a_frame_that_fits_no_ring_of_buffers_is_dropped_instead_of_waited_for() {
    let (mut guest, _) = guest("net", VIRTIO_NET_F_MRG_RXBUF);
    guest.rx_len = 16;
    guest.post(64);
    assert!(guest.send(&frame(5, 1500)));
    assert!(guest.send(&frame(6, 60)));
    assert_eq!(guest.wait().1, frame(6, 60));
    assert_eq!(counter(&mut guest, "rx_too_long"), 1);
}

#[test]
fn f22_a_header_in_many_descriptors_is_read_and_written_whole() {
    let (mut guest, _) = guest("net", VIRTIO_NET_F_MRG_RXBUF);
    let (inbox, outbox) = (0x30_0000, 0x50_0000);
    guest.rx.add(&[(inbox, 5, true), (inbox + 5, 6, true), (inbox + 11, 1, true), (inbox + 12, 20, true)]);
    guest.rx.add(&[(inbox + 0x1000, 100, true)]);
    guest.kick(RX);
    let bytes = [vec![0; 12], frame(3, 60)].concat();
    guest.tx.ram.write(outbox, &bytes);
    guest.tx.add(&[(outbox, 1, false), (outbox + 1, 4, false), (outbox + 5, 6, false), (outbox + 11, 61, false)]);
    guest.kick(TX);
    wait_for("the frame", || guest.rx.used_idx() == 2);
    assert_eq!((guest.rx.take_used(), guest.rx.take_used()), (Some((0, 32)), Some((4, 40))));
    let header = guest.rx.ram.read(inbox, 12);
    assert_eq!(header[10..], [2, 0]);
    let received = [guest.rx.ram.read(inbox + 12, 20), guest.rx.ram.read(inbox + 0x1000, 40)].concat();
    assert_eq!(received, frame(3, 60));
}

#[test]
fn f22_a_header_that_lies_is_counted_and_its_frame_dropped() {
    let (mut guest, link) = guest("net", VIRTIO_NET_F_CSUM);
    guest.post(8);
    for (at, value) in [(0, 0x80), (1, 1), (1, 0xff)] {
        let mut header = [0; 12];
        header[at] = value;
        assert!(guest.send_with(&header, &frame(0, 60)));
    }
    assert!(guest.send(&frame(1, 13)));
    assert!(guest.send(&frame(1, 1523)));
    let mut lying = [0; 12];
    lying[10..].fill(0xff);
    assert!(guest.send_with(&lying, &frame(2, 60)));
    assert_eq!(guest.wait().1, frame(2, 60));
    let counters = ["tx_bad_header", "tx_too_short", "tx_too_long", "tx_dropped"];
    assert_eq!(counters.map(|name| counter(&mut guest, name)), [3, 1, 1, 5]);
    assert!(!link.needs_reset());
}

#[test]
fn f22_the_header_of_a_driver_that_leaves_nothing_to_do_is_ignored() {
    let (mut guest, link) = guest("net", 0);
    guest.post(8);
    for (n, header) in (0..).zip([[0xff; 12], [1; 12]]) {
        let frame = frame(n, 60);
        assert!(guest.send_with(&header, &frame));
        let (received, data) = guest.wait();
        assert_eq!((&received[..10], data), (&[0; 10][..], frame));
    }
    assert!(!link.needs_reset());
}

#[test]
fn f22_a_chain_shorter_than_the_header_stops_the_device() {
    let (mut guest, link) = guest("net", 0);
    guest.tx.add(&[(0x50_0000, 11, false)]);
    guest.kick(TX);
    expect_fault(&mut guest, &link, "chain shorter than the virtio-net header");
}

#[test]
fn f15_a_writable_buffer_in_the_transmit_queue_stops_the_device() {
    let (mut guest, link) = guest("net", 0);
    guest.tx.add(&[(0x50_0000, 100, true)]);
    guest.kick(TX);
    expect_fault(&mut guest, &link, "queue 1: chain 0: writable buffer in the transmit queue");
}

#[test]
fn f15_a_readable_buffer_in_the_receive_queue_stops_the_device() {
    let (mut guest, link) = guest("net", 0);
    guest.rx.add(&[(0x30_0000, 100, false)]);
    assert!(guest.send(&frame(0, 60)));
    expect_fault(&mut guest, &link, "queue 0: chain 0: readable buffer in the receive queue");
}

#[test]
fn f15_a_receive_buffer_without_room_for_the_header_stops_the_device() {
    let (mut guest, link) = guest("net", VIRTIO_NET_F_MRG_RXBUF);
    guest.rx.add(&[(0x30_0000, 11, true)]);
    assert!(guest.send(&frame(0, 60)));
    expect_fault(&mut guest, &link, "receive buffer smaller than the virtio-net header");
}

#[test]
fn f18_a_queue_of_an_impossible_size_stops_the_device_and_still_has_a_state() {
    let (mut guest, link) = guest("net", 0);
    guest.stop();
    let good = guest.tx.size;
    guest.tx.size = 48;
    guest.start();
    assert!(link.last_fault().unwrap().contains("ring size 48 is not a power of two"));
    guest.tx.size = good;
    expect_fault(&mut guest, &link, "ring size 48");
}

#[test]
fn f05_a_loop_stops_one_instance_while_its_neighbour_passes_frames() {
    let (mut bad, link) = guest("net", 0);
    let (mut good, good_link) = guest("net", 0);
    good.post(64);
    bad.tx.set_desc(0, virtqueue::testing::Desc { addr: 0x50_0000, len: 60, flags: 1, next: 0 });
    bad.tx.push(0);
    bad.tx.publish();
    bad.kick(TX);
    for n in 0..32 {
        assert!(good.send(&frame(n, 60)));
        assert_eq!(good.wait().1, frame(n, 60));
    }
    expect_fault(&mut bad, &link, "or a loop");
    assert!(!good_link.needs_reset());
}

#[test]
fn the_mac_address_a_driver_sets_outlives_the_reset_that_follows() {
    let link = DeviceLink::new("config");
    let parameters = [("mac", "52:54:00:00:00:01"), ("mtu", "9000")];
    let Device::Virtio(mut device) = create_with(&Loopback::new("l", 1), "net", &link, &parameters).unwrap() else {
        panic!("not a virtio device")
    };
    let mut config = [0; 12];
    device.read_config(0, &mut config);
    assert_eq!(config, [0x52, 0x54, 0, 0, 0, 1, 1, 0, 1, 0, 0x28, 0x23]);
    device.write_config(0, &[0x52, 0x54, 0, 0, 0, 2]).unwrap();
    device.reset();
    assert_eq!(device.show_attribute("mac").unwrap(), "52:54:00:00:00:02");
    assert_eq!(device.show_attribute("nothing").unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(device.store_attribute("mtu", "1400").unwrap_err().errno(), Errno::EACCES);
}

#[test]
fn what_the_own_iommu_maps_is_all_its_device_reaches() {
    let (mut guest, link) = guest("net-iommu", 0);
    assert_eq!(guest.device.show_attribute("mappings").unwrap(), "0x0-0x7fffff rw shared\n");
    guest.post(4);
    assert!(guest.send(&frame(0, 60)));
    assert_eq!(guest.wait().1, frame(0, 60));
    guest.device.dma_unmap(0, 0, u64::MAX);
    assert_eq!(guest.device.show_attribute("mappings").unwrap(), "");
    assert!(guest.send(&frame(1, 60)));
    std::thread::sleep(Duration::from_millis(20));
    assert!(guest.receive().is_none());
    guest.device.dma_map(0, &guest.rx.ram.region(0, 0, 8 << 20)).unwrap();
    assert_eq!(guest.wait().1, frame(1, 60));
    let region = guest.rx.ram.region(0x100_0000, 0, 0x1000);
    assert_eq!(guest.device.dma_map(1, &region).unwrap_err().errno(), Errno::EINVAL);
    assert!(!link.needs_reset());
}

#[test]
fn f39_of_many_that_race_for_the_last_instances_exactly_as_many_win() {
    let parent = Loopback::new("race", 3);
    let link = DeviceLink::new("race");
    for _ in 0..50 {
        let results: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| create_with(&parent, "net", &link, &[]))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let refusals: Vec<_> = results.iter().filter_map(|result| result.as_ref().err().map(Refusal::errno)).collect();
        assert_eq!(refusals, [Errno::ENOSPC; 5]);
        assert_eq!(parent.available("net-fast"), 0);
        drop(results);
        assert_eq!(parent.available("net"), 3);
    }
}

#[test]
fn a_refused_create_takes_no_place() {
    let parent = Loopback::new("refuse", 1);
    let link = DeviceLink::new("refuse");
    for parameters in [[("sped", "1")], [("mtu", "1")]] {
        let refused = create_with(&parent, "net", &link, &parameters);
        assert_eq!(refused.err().unwrap().errno(), Errno::EINVAL);
    }
    assert_eq!(create_with(&parent, "disk", &link, &[]).err().unwrap().errno(), Errno::EINVAL);
    assert_eq!(parent.available("net"), 1);
}

#[test]
fn b1_a_client_that_never_answers_breaks_its_own_instance_within_the_deadline() {
    let link = DeviceLink::new("stuck");
    let mut guest = Guest::with_private_memory(device("net", &link), REQUIRED, 64);
    guest.start();
    let Ram::Private(memory) = guest.rx.ram.clone() else { unreachable!() };
    let stalled = memory.stall.lock();
    guest.kick(TX);
    std::thread::sleep(Duration::from_millis(20));
    let guarded = Guarded::new(guest.device, DEFAULT_DEADLINE);
    let refusal = guarded.call("stop_queue", |device| device.stop_queue(TX)).unwrap().unwrap_err();
    assert_eq!(refusal.errno(), Errno::ETIMEDOUT);
    assert!(link.needs_reset());
    let (mut other, _) = self::guest("net", 0);
    other.post(4);
    assert!(other.send(&frame(1, 60)));
    assert_eq!(other.wait().1, frame(1, 60));
    drop(stalled);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_a_driver_sends_arrives_unchanged(
        frames in prop::collection::vec((any::<u32>(), 14usize..1518, 1usize..5), 1..60),
        rx_len in prop::sample::select(vec![64u32, 200, 1530, 2048]),
        event_idx in any::<bool>(),
        posts in 1u16..40,
    ) {
        let event_idx = if event_idx { VIRTIO_F_EVENT_IDX } else { 0 };
        let (mut guest, link) = guest("net", VIRTIO_NET_F_MRG_RXBUF | event_idx);
        guest.rx_len = rx_len;
        let mut expected = std::collections::VecDeque::new();
        for (n, len, pieces) in frames {
            // A chain has up to four of the 64 descriptors.
            while guest.tx.outstanding() > 12 {
                guest.post(posts);
                while guest.tx.take_used().is_some() {}
                while let Some((_, bytes)) = guest.receive() {
                    prop_assert_eq!(Some(bytes), expected.pop_front());
                }
            }
            let bytes = [vec![0; 12], frame(n, len)].concat();
            let addr = 0x40_0000 + 2048 * u64::from(guest.tx.next_head());
            guest.tx.ram.write(addr, &bytes);
            let step = bytes.len().div_ceil(pieces);
            let chain: Vec<_> = (0..bytes.len())
                .step_by(step)
                .map(|at| (addr + at as u64, u32::try_from(step.min(bytes.len() - at)).unwrap(), false))
                .collect();
            guest.tx.add(&chain);
            guest.kick(TX);
            expected.push_back(frame(n, len));
        }
        let begun = Instant::now();
        while !expected.is_empty() {
            prop_assert!(begun.elapsed() < Duration::from_secs(5), "{} frames are missing", expected.len());
            guest.post(posts);
            while let Some((_, bytes)) = guest.receive() {
                prop_assert_eq!(Some(bytes), expected.pop_front());
            }
        }
        prop_assert!(!link.needs_reset());
        guest.stop();
    }
}
