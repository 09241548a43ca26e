//! A driver chooses among what the switch has for it, by receive modes, addresses and VLANs.

use crate::lab::{BROADCAST, Lab, Port, frame, mac, tagged};
use virtio_mdev_api::features::REQUIRED;
use virtio_net::features::{CONTROL, RECEPTION, VIRTIO_NET_F_MQ};
use virtio_net::testing::Station;

/// VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_VLAN.
const MODES: u8 = 0;
const TABLE: u8 = 1;
const VLAN: u8 = 2;
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];

/// A driver that chooses.
struct Chooser {
    station: Station,
    mac: [u8; 6],
}

impl Chooser {
    fn new(lab: &mut Lab, kind: &str, parameters: &[(&str, &str)]) -> Self {
        let (device, _, uuid) = lab.card(kind, &[parameters, &[("pairs", "2")]].concat());
        let mut station = Station::start(device, REQUIRED | CONTROL | RECEPTION | VIRTIO_NET_F_MQ);
        (0..16).for_each(|_| station.post(0));
        Self { station, mac: mac(uuid.as_bytes()[15]) }
    }

    fn command(&mut self, class: u8, number: u8, data: &[u8]) {
        assert_eq!(self.station.command(4, &[&[class, number], data].concat()), 0, "{class} {number} {data:?}");
    }

    /// Which of these frames, sent one after the other and a wanted one behind them, it is given.
    fn choice(&mut self, sender: &mut Port, frames: &[Vec<u8>], wanted: &[u8]) -> Vec<bool> {
        frames.iter().for_each(|frame| sender.send(frame));
        sender.send(wanted);
        let mut chosen = vec![false; frames.len()];
        loop {
            let came = self.station.wait(0);
            self.station.post(0);
            if came == wanted {
                return chosen;
            }
            let which = frames.iter().position(|frame| *frame == came).expect("a frame that was sent");
            chosen[which] = true;
        }
    }

    fn filtered(&mut self) -> u64 {
        self.station.device.show_attribute("statistics/rx_filtered").unwrap().parse().unwrap()
    }
}

#[test]
fn receive_modes_and_addresses_of_a_port_are_its_drivers() {
    let mut lab = Lab::new();
    let [mut a] = lab.access();
    let mut chooser = Chooser::new(&mut lab, "access", &[]);
    let wanted = frame(chooser.mac, a.mac, 0xee);
    // Its own address is known; the others are flooded.
    let sent = [BROADCAST, GROUP, mac(0x70), mac(0x71)].map(|to| frame(to, a.mac, 1));
    let mut choice = |chooser: &mut Chooser| chooser.choice(&mut a, &sent, &wanted);
    assert_eq!(choice(&mut chooser), [true; 4], "promiscuous at first");
    chooser.command(MODES, 0, &[0]);
    assert_eq!(choice(&mut chooser), [true, false, false, false]);
    let table = [&[1, 0, 0, 0][..], &mac(0x70), &[1, 0, 0, 0], &GROUP].concat();
    chooser.command(TABLE, 0, &table);
    assert_eq!(choice(&mut chooser), [true, true, true, false]);
    chooser.command(MODES, 3, &[1]);
    chooser.command(MODES, 4, &[1]);
    assert_eq!(chooser.filtered(), 3 + 1);
    chooser.command(MODES, 3, &[0]);
    chooser.command(MODES, 4, &[0]);
    chooser.command(MODES, 5, &[1]);
    assert_eq!(choice(&mut chooser), [false, true, true, false], "no broadcast");
    chooser.command(MODES, 5, &[0]);
    chooser.command(TABLE, 0, &[0; 8]);
    chooser.command(MODES, 1, &[1]);
    assert_eq!(choice(&mut chooser), [true, true, false, false], "all groups");
    chooser.command(MODES, 2, &[1]);
    assert_eq!(choice(&mut chooser), [true; 4], "all stations");
    assert_eq!(chooser.filtered(), 4 + 2 + 2);
}

#[test]
fn vlans_of_a_trunk_are_its_drivers_to_choose() {
    let mut lab = Lab::new();
    let mut a = lab.guest("trunk", 0, &[("vlans", "10-12"), ("native", "5")]);
    let mut chooser = Chooser::new(&mut lab, "trunk", &[("vlans", "10-12"), ("native", "5")]);
    let wanted = frame(chooser.mac, a.mac, 0xee);
    let sent = [10, 11, 12].map(|vid| tagged(BROADCAST, a.mac, &[vid], 1));
    let mut choice = |chooser: &mut Chooser| chooser.choice(&mut a, &sent, &wanted);
    assert_eq!(choice(&mut chooser), [true; 3], "promiscuous at first");
    chooser.command(MODES, 0, &[0]);
    assert_eq!(choice(&mut chooser), [false; 3]);
    chooser.command(VLAN, 0, &[11, 0]);
    assert_eq!(choice(&mut chooser), [false, true, false]);
    chooser.command(VLAN, 0, &[12, 0]);
    chooser.command(VLAN, 1, &[11, 0]);
    assert_eq!(choice(&mut chooser), [false, false, true]);
}

#[test]
fn what_one_driver_does_not_want_others_get() {
    let mut lab = Lab::new();
    let [mut a, mut b] = lab.access();
    let mut chooser = Chooser::new(&mut lab, "access", &[]);
    chooser.command(MODES, 0, &[0]);
    let wanted = frame(chooser.mac, a.mac, 0xee);
    let unwanted = [frame(mac(0x70), a.mac, 1)];
    assert_eq!(chooser.choice(&mut a, &unwanted, &wanted), [false]);
    assert_eq!(b.mark(), 1);
    // A port that filters is found by its address all the same, and learns nothing of what it refused.
    b.send(&frame(chooser.mac, b.mac, 2));
    assert_eq!(chooser.station.wait(0)[14], 2);
    assert_eq!(chooser.filtered(), 1);
}
