//! Who gets a frame.

use crate::lab::{BROADCAST, Lab, frame, mac};
use switch::SwitchOptions;

#[test]
fn a_frame_for_an_instance_goes_there_and_nowhere_else() {
    let [mut a, mut b, mut c] = Lab::new().access();
    a.send(&frame(b.mac, a.mac, 1));
    a.call(2);
    assert_eq!([b.mark(), b.mark(), c.mark()], [1, 2, 2]);
}

#[test]
fn a_frame_for_all_reaches_every_port_once_but_its_own() {
    let [mut a, mut b, mut c] = Lab::new().access();
    a.call(1);
    assert_eq!([b.mark(), c.mark()], [1, 1]);
    b.call(2);
    // The first that its sender gets is another's, and nobody has anything twice.
    assert_eq!([a.mark(), c.mark()], [2, 2]);
    c.call(3);
    assert_eq!([a.mark(), b.mark()], [3, 3]);
}

#[test]
fn a_station_is_looked_for_everywhere_until_it_was_a_source() {
    let [mut a, mut b, mut c] = Lab::new().access();
    let station = mac(0x77);
    a.send(&frame(station, a.mac, 1));
    assert_eq!([b.mark(), c.mark()], [1, 1]);
    b.send(&frame(a.mac, station, 2));
    assert_eq!(a.mark(), 2);
    a.send(&frame(station, a.mac, 3));
    a.call(4);
    assert_eq!([b.mark(), b.mark(), c.mark()], [3, 4, 4]);
    // It goes elsewhere.
    c.send(&frame(a.mac, station, 5));
    assert_eq!(a.mark(), 5);
    a.send(&frame(station, a.mac, 6));
    a.call(7);
    assert_eq!([c.mark(), c.mark(), b.mark()], [6, 7, 7]);
}

#[test]
fn a_station_that_is_silent_is_forgotten() {
    let mut lab = Lab::with(&SwitchOptions { ageing: 30, ..SwitchOptions::default() });
    let [mut a, mut b, mut c] = lab.access();
    let station = mac(0x77);
    b.send(&frame(a.mac, station, 1));
    assert_eq!(a.mark(), 1);
    b.settle();
    lab.pass_ms(29_000);
    a.send(&frame(station, a.mac, 2));
    a.call(3);
    assert_eq!([b.mark(), b.mark(), c.mark()], [2, 3, 3]);
    a.settle();
    lab.pass_ms(1_000);
    a.send(&frame(station, a.mac, 4));
    assert_eq!([b.mark(), c.mark()], [4, 4]);
    // Those of instances are not.
    a.send(&frame(b.mac, a.mac, 5));
    a.call(6);
    assert_eq!([b.mark(), b.mark(), c.mark()], [5, 6, 6]);
}

#[test]
fn an_instances_address_stays_its_own_whoever_claims_it() {
    let [mut a, mut b, mut c] = Lab::new().access();
    c.send(&frame(a.mac, b.mac, 1));
    assert_eq!(a.mark(), 1);
    a.send(&frame(b.mac, a.mac, 2));
    a.call(3);
    assert_eq!([b.mark(), b.mark(), c.mark()], [2, 3, 3]);
}

#[test]
fn nothing_goes_back_to_its_own_port_and_some_goes_nowhere() {
    let [mut a, mut b] = Lab::new().access();
    let station = mac(0x77);
    a.send(&frame(BROADCAST, station, 1));
    a.send(&frame(station, a.mac, 2));
    a.send(&frame(a.mac, a.mac, 3));
    a.send(&frame([1, 0x80, 0xc2, 0, 0, 0], a.mac, 4));
    a.send(&frame([1, 0x80, 0xc2, 0, 0, 0xf], a.mac, 5));
    a.send(&frame(b.mac, BROADCAST, 6));
    a.send(&frame(b.mac, [0; 6], 7));
    a.send(&frame([1, 0x80, 0xc2, 0, 0, 0x10], a.mac, 8));
    assert_eq!([b.mark(), b.mark()], [1, 8]);
    a.wait_count("tx_packets", 2);
    let counts = ["tx_no_port", "tx_reserved", "tx_bad_source", "tx_dropped"].map(|name| a.count(name));
    assert_eq!(counts, [2, 2, 2, 6]);
    b.call(9);
    assert_eq!(a.mark(), 9);
}

#[test]
fn a_port_that_checks_sources_lets_only_its_own_through() {
    let mut lab = Lab::new();
    let mut a = lab.guest("access", 0, &[("spoofchk", "on")]);
    let [mut b] = lab.access();
    a.send(&frame(b.mac, mac(0x77), 1));
    a.call(2);
    assert_eq!((b.mark(), a.count("tx_spoofed")), (2, 1));
    a.set("spoofchk", "off");
    a.send(&frame(b.mac, mac(0x77), 3));
    assert_eq!(b.mark(), 3);
}

#[test]
fn the_table_is_shown_as_bridge_fdb_shows_it() {
    let mut lab = Lab::new();
    let [mut a, mut b] = lab.access();
    let c = lab.guest("trunk", 0, &[("vlans", "7")]);
    b.send(&frame(a.mac, mac(0x77), 1));
    assert_eq!(a.mark(), 1);
    b.settle();
    lab.pass_ms(4_000);
    let expected = format!(
        "02:00:00:00:00:01 dev {} vlan 1 master sw0 permanent\n02:00:00:00:00:02 dev {} vlan 1 master sw0 permanent\n\
         02:00:00:00:00:03 dev {} master sw0 permanent\n02:00:00:00:00:77 dev {} vlan 1 used 4 master sw0\n",
        a.name, b.name, c.name, b.name
    );
    assert_eq!(lab.fdb(), expected);
    assert_eq!([a.show("learned"), b.show("learned")], ["0", "1"]);
}

#[test]
fn a_port_that_is_gone_is_forgotten_and_one_that_comes_is_found() {
    let mut lab = Lab::new();
    let [mut a, mut b, c] = lab.access();
    b.send(&frame(a.mac, mac(0x77), 1));
    assert_eq!(a.mark(), 1);
    drop(b);
    assert!(!lab.fdb().contains("00:77"), "{}", lab.fdb());
    let [mut d] = lab.access();
    a.send(&frame(mac(0x77), a.mac, 2));
    assert_eq!(d.mark(), 2);
    a.send(&frame(d.mac, a.mac, 3));
    assert_eq!(d.mark(), 3);
    drop(c);
    a.call(4);
    assert_eq!(d.mark(), 4);
}

#[test]
fn an_address_that_the_operator_changes_is_the_ports_from_then_on() {
    let mut lab = Lab::new();
    let [mut a, mut b, mut c] = lab.access();
    b.guest.stop();
    b.set("mac", "02:00:00:00:00:99");
    b.guest.start();
    a.send(&frame(mac(0x99), a.mac, 1));
    a.send(&frame(mac(2), a.mac, 2));
    assert_eq!([b.mark(), b.mark(), c.mark()], [1, 2, 2]);
}

#[test]
fn of_two_instances_with_one_address_the_one_started_last_has_it() {
    let mut lab = Lab::new();
    let [mut a, mut b] = lab.access();
    // As while a guest moves from one to the other.
    let (device, ..) = lab.card("access", &[]);
    let mut other = virtio_net::testing::Guest::new(device, virtio_mdev_api::features::REQUIRED, 64);
    other.device.store_attribute("mac", "02:00:00:00:00:02").unwrap();
    a.send(&frame(b.mac, a.mac, 1));
    assert_eq!(b.mark(), 1);
    b.guest.stop();
    other.start();
    other.post(64);
    a.send(&frame(b.mac, a.mac, 2));
    assert_eq!(other.wait().1[14], 2);
}

#[test]
fn several_pairs_are_several_lanes() {
    use virtio_net::features::{CONTROL, VIRTIO_NET_F_MQ};
    use virtio_net::testing::Station;
    let mut lab = Lab::new();
    let features = virtio_mdev_api::features::REQUIRED | CONTROL | VIRTIO_NET_F_MQ;
    let [mut a, mut b] = [(); 2].map(|()| {
        let (device, ..) = lab.card("access-fast", &[("pairs", "2")]);
        let mut station = Station::start(device, features);
        assert_eq!(station.command(4, &[4, 0, 2, 0]), 0, "two pairs");
        for pair in [0, 1] {
            (0..8).for_each(|_| station.post(pair));
        }
        station
    });
    for (pair, mark) in [(0, 1), (1, 2), (1, 3), (0, 4)] {
        a.send(pair, &frame(mac(2), mac(1), mark));
        assert_eq!(b.wait(pair)[14], mark);
    }
    b.send(1, &frame(BROADCAST, mac(2), 5));
    assert_eq!(a.wait(1)[14], 5);
}
