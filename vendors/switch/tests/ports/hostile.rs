//! What one guest does to others: nothing.

use crate::lab::{BROADCAST, Lab, Port, frame, mac};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use switch::SwitchOptions;
use virtio_mdev_api::features::REQUIRED;
use virtio_net::testing::{Guest, RX, TX};
use virtqueue::testing::{DESC_WRITE, Desc};

/// Both pass frames to each other and to all.
fn are_fine(a: &mut Port, b: &mut Port) {
    for mark in 0..100 {
        a.send(&frame(b.mac, a.mac, mark));
        assert_eq!(b.mark(), mark);
        b.send(&frame(BROADCAST, b.mac, mark));
        assert_eq!(a.mark(), mark);
    }
}

#[test]
fn a_guest_without_buffers_loses_its_own_frames_alone() {
    let mut lab = Lab::new();
    let [mut a, mut b] = lab.access();
    let (device, ..) = lab.card("access", &[]);
    let mut starving = Guest::new(device, REQUIRED, 64);
    starving.start();
    are_fine(&mut a, &mut b);
    let lost: u64 = starving.device.show_attribute("statistics/rx_no_buffers").unwrap().parse().unwrap();
    assert_eq!(lost, 100);
    starving.post(64);
    a.call(7);
    assert_eq!(starving.wait().1[14], 7);
}

#[test]
fn a_guest_that_is_not_there_yet_or_no_longer_harms_nobody() {
    let mut lab = Lab::new();
    let [mut a, mut b, mut c] = lab.access();
    let (_card, ..) = lab.card("access", &[]);
    c.guest.stop();
    are_fine(&mut a, &mut b);
    c.guest.start();
    a.send(&frame(c.mac, a.mac, 3));
    assert_eq!(c.mark(), 3);
}

#[test]
fn f16_a_guest_whose_receive_ring_is_wrong_stops_itself_alone() {
    let mut lab = Lab::new();
    let [mut a, mut b] = lab.access();
    let (device, link, _) = lab.card("access", &[]);
    let mut liar = Guest::new(device, REQUIRED, 64);
    liar.start();
    // A buffer that is the ring.
    liar.rx.set_desc(0, Desc { addr: liar.rx.desc, len: 2048, flags: DESC_WRITE, next: 0 });
    liar.rx.push(0);
    liar.rx.publish();
    liar.kick(RX);
    are_fine(&mut a, &mut b);
    assert!(link.needs_reset(), "it is told so");
    liar.reset();
    liar.post(8);
    a.call(5);
    assert_eq!(liar.wait().1[14], 5);
}

#[test]
fn f34_a_guest_that_unmaps_its_memory_harms_itself_alone() {
    let mut lab = Lab::new();
    let [mut a, mut b, c] = lab.access();
    c.guest.space.unmap_all();
    are_fine(&mut a, &mut b);
}

#[test]
fn a_guest_with_private_memory_is_served_too() {
    let mut lab = Lab::new();
    let [mut a, mut b] = lab.access();
    let (device, ..) = lab.card("access", &[]);
    let mut slow = Guest::with_private_memory(device, REQUIRED, 64);
    slow.start();
    slow.post(64);
    are_fine(&mut a, &mut b);
    // What is sent while its sender moves to a thread that may wait is lost.
    let mut last = 0;
    while last < 19 {
        let (_, frame) = slow.wait();
        assert!(frame[14] > last || last == 0, "{} after {last}", frame[14]);
        last = frame[14];
    }
}

#[test]
fn a_guest_that_floods_sources_displaces_its_own_alone() {
    let mut lab = Lab::with(&SwitchOptions { fdb: 64, ..SwitchOptions::default() });
    let [mut a, mut b, mut flood] = lab.access();
    // A share is 64 by 3.
    for station in 0..20 {
        b.send(&frame(a.mac, mac(0x80 + station), station));
        assert_eq!(a.mark(), station);
    }
    for n in 0..5000u16 {
        let [high, low] = n.to_be_bytes();
        let source = [2, 1, 0, 0, high, low];
        flood.send(&frame(mac(3), source, 0));
    }
    flood.send(&frame(a.mac, flood.mac, 99));
    assert_eq!(a.mark(), 99);
    for station in 0..20 {
        a.send(&frame(mac(0x80 + station), a.mac, station));
        assert_eq!(b.mark(), station);
    }
    assert_eq!(b.show("learned"), "20");
    assert_eq!(flood.show("learned"), "44");
    // What is looked for everywhere, the flood would have seen.
    a.call(1);
    assert_eq!(flood.mark(), 1);
}

/// Four guests send to each other and to all, as fast as they can, while one of them is reset over and over.
#[test]
fn f38_ports_that_send_to_each_other_at_once_never_stand_still() {
    let mut lab = Lab::new();
    let ports: [Port; 4] = lab.access();
    // How many have received something. Until all have, all go on.
    let fed = &AtomicUsize::new(0);
    let received: Vec<u32> = std::thread::scope(|scope| {
        let guests: Vec<_> = ports
            .into_iter()
            .zip(1u8..)
            .map(|(mut port, number)| {
                scope.spawn(move || {
                    let mut received = 0;
                    let begun = Instant::now();
                    let all_fed = || fed.load(Ordering::Relaxed) == 4 || begun.elapsed() > Duration::from_secs(20);
                    for round in (0u32..).take_while(|round| *round < 3000 || !all_fed()) {
                        let to = if round % 8 == 0 { BROADCAST } else { mac(number % 4 + 1) };
                        port.send(&frame(to, port.mac, number));
                        while port.guest.receive().is_some() {
                            fed.fetch_add(usize::from(received == 0), Ordering::Relaxed);
                            received += 1;
                        }
                        port.guest.post(64);
                        if number == 4 && round % 100 == 0 {
                            port.guest.reset();
                            port.guest.post(64);
                        }
                    }
                    port.guest.stop();
                    received
                })
            })
            .collect();
        guests.into_iter().map(|guest| guest.join().unwrap()).collect()
    });
    assert!(received.iter().all(|count| *count > 0), "{received:?}");
}

#[test]
fn f32_a_frame_that_is_out_of_its_senders_memory_in_part_stops_the_sender_alone() {
    let mut lab = Lab::new();
    let [mut a, mut b] = lab.access();
    for to in [a.mac, BROADCAST] {
        let (device, link, _) = lab.card("access", &[]);
        let mut liar = Guest::new(device, REQUIRED, 64);
        liar.start();
        liar.post(64);
        // Its header is there, and so are the addresses.
        let begin = [&[0; 12], &frame(to, mac(3), 9)[..]].concat();
        liar.tx.ram.write(0x40_0000, &begin);
        liar.tx.add(&[(0x40_0000, 72, false), (1 << 40, 100, false)]);
        liar.kick(TX);
        let begun = std::time::Instant::now();
        while !link.needs_reset() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(5), "it is not told so");
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        liar.reset();
        liar.post(64);
        assert!(liar.send(&frame(to, mac(3), 8)));
        assert_eq!(a.mark(), 8, "nothing of the other frame");
        if to == BROADCAST {
            assert_eq!(b.mark(), 8);
        }
    }
    are_fine(&mut a, &mut b);
}
