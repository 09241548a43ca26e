//! Many ports.

use crate::lab::{BROADCAST, Lab, Port, frame, mac, tagged};
use std::time::{Duration, Instant};

const PORTS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(20);

fn ports(lab: &mut Lab, parameters: impl Fn(usize) -> &'static [(&'static str, &'static str)]) -> Vec<Port> {
    (0..PORTS).map(|number| lab.guest("access", 0, parameters(number))).collect()
}

/// All has been sent, and nothing but `marks` has come, whatever the order.
fn came(ports: &mut [Port], marks: impl Fn(usize) -> Vec<u8>) {
    ports.iter_mut().for_each(Port::settle);
    for (number, port) in ports.iter_mut().enumerate() {
        let mut came: Vec<u8> = std::iter::from_fn(|| port.guest.receive()).map(|(_, frame)| frame[14]).collect();
        port.guest.post(64);
        came.sort_unstable();
        assert_eq!(came, marks(number), "at port {number}");
    }
}

/// The address of the port, where it is the lab's first.
fn own(number: usize) -> [u8; 6] {
    mac(byte(number) + 1)
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).unwrap()
}

#[test]
fn what_64_ports_have_learnt_is_at_the_right_one() {
    let mut lab = Lab::new();
    let mut ports = ports(&mut lab, |_| &[]);
    // Behind each port is another station, which all hear of.
    let station = |number: usize| mac(0x80 + byte(number % PORTS));
    for number in 0..PORTS {
        ports[number].send(&frame(BROADCAST, station(number), byte(number)));
        ports[number].settle();
        if number % 32 == 31 {
            let heard = number / 32 * 32..number + 1;
            came(&mut ports, |port| heard.clone().filter(|other| *other != port).map(byte).collect());
        }
    }
    for step in [1, 7, 63] {
        for (number, port) in ports.iter_mut().enumerate() {
            port.send(&frame(station(number + step), station(number), byte(number)));
        }
        came(&mut ports, |port| vec![byte((port + PORTS - step) % PORTS)]);
    }
    assert_eq!(lab.fdb().lines().count(), 2 * PORTS, "each port's own address and one that it learnt");
    assert!(ports.iter_mut().all(|port| port.show("learned") == "1"));
}

#[test]
fn a_flood_reaches_all_of_its_vlan_and_nobody_else() {
    let mut lab = Lab::new();
    let vlans: [&[_]; 4] = [&[("vlan", "1")], &[("vlan", "2")], &[("vlan", "3")], &[("vlan", "4")]];
    let mut ports = ports(&mut lab, |number| vlans[number % 4]);
    for (number, to) in [(0, BROADCAST), (1, mac(0xf0)), (2, [1, 0, 0x5e, 0, 0, 1])] {
        ports[number].send(&frame(to, own(number), byte(number)));
    }
    let heard = |port: usize| if port > 2 && port % 4 < 3 { vec![byte(port % 4)] } else { vec![] };
    came(&mut ports, heard);
    assert_eq!(ports[3].count("rx_packets"), 0);
}

/// What it may send in vain it has sent; what is above its limit is dropped, and costs its neighbours nothing.
#[test]
fn a_guest_that_floods_is_one_among_64() {
    let mut lab = Lab::new();
    let limit = |number| -> &[_] { if number == 0 { &[("tx-pps", "1000:20")] } else { &[] } };
    let mut neighbours = ports(&mut lab, limit);
    let mut flood = neighbours.remove(0);
    let noise = frame(BROADCAST, flood.mac, 0xff);
    let done = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(move || {
            let mut sent = 0u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || sent < 5000 {
                flood.send(&noise);
                sent += 1;
            }
            flood.settle();
            (flood.count("tx_limited"), sent)
        });
        let begun = Instant::now();
        for round in 0..20 {
            for pair in neighbours.chunks_mut(2) {
                let [one, other] = pair else { continue };
                one.send(&frame(other.mac, one.mac, round));
                let mark = std::iter::repeat_with(|| other.mark()).find(|mark| *mark != 0xff);
                assert_eq!(mark, Some(round), "nothing of a neighbour's is lost");
            }
            assert!(begun.elapsed() < PATIENCE, "neighbours wait for the flood");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let (limited, sent) = flooding.join().unwrap();
        assert_eq!(limited, sent - 20, "it has what it was given");
    });
    assert!(neighbours.iter_mut().all(|port| port.count("rx_no_buffers") == 0));
}

/// Without a limit it takes buffers of all, but nobody's turn.
#[test]
fn a_guest_that_floods_without_limit_takes_no_turn_of_others() {
    let mut lab = Lab::new();
    let mut neighbours = ports(&mut lab, |_| &[]);
    let mut flood = neighbours.remove(0);
    let noise = frame(BROADCAST, flood.mac, 0xff);
    let done = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                flood.send(&noise);
            }
        });
        let begun = Instant::now();
        for pair in neighbours.chunks_mut(2) {
            let [one, other] = pair else { continue };
            // Its buffers may be full of noise: then what is sent is lost, and sent again.
            let mut arrived = false;
            while !arrived {
                one.send(&frame(other.mac, one.mac, 1));
                one.settle();
                arrived = std::iter::from_fn(|| other.guest.receive()).any(|(_, frame)| frame[14] == 1);
                other.guest.post(64);
                assert!(begun.elapsed() < PATIENCE, "neighbours wait for the flood");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_port_whose_queue_is_full_holds_up_nobody_else() {
    let mut lab = Lab::new();
    let mut ports = ports(&mut lab, |_| &[]);
    // Port 0 takes nothing: after its 64 buffers what is for it is dropped.
    let to = ports[0].mac;
    for round in 0..4 {
        for port in &mut ports[1..] {
            port.send(&frame(to, port.mac, round));
        }
    }
    for number in (2..PORTS).step_by(2) {
        ports[number].send(&frame(own(number - 1), own(number), byte(number)));
        assert_eq!(ports[number - 1].mark(), byte(number));
    }
    ports.iter_mut().for_each(Port::settle);
    assert_eq!(ports[0].count("rx_no_buffers"), 4 * 63 - 64);
}

#[test]
fn a_trunk_among_64_ports_hears_each_vlan_with_its_tag() {
    let mut lab = Lab::new();
    let mut trunk = lab.guest("trunk", 0, &[("vlans", "1-2")]);
    let vlans: [&[_]; 4] = [&[("vlan", "1")], &[("vlan", "2")], &[("vlan", "3")], &[("vlan", "4")]];
    let mut ports = ports(&mut lab, |number| vlans[number % 4]);
    for (number, port) in ports.iter_mut().enumerate() {
        port.call(byte(number));
        port.settle();
        if number % 4 < 2 {
            let vid = u16::from(byte(number % 4)) + 1;
            assert_eq!(trunk.wait(), tagged(BROADCAST, port.mac, &[vid], byte(number)));
        }
    }
    assert!(trunk.guest.receive().is_none());
}
