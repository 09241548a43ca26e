//! What VLANs keep apart, and what becomes of tags.

use crate::lab::{BROADCAST, Lab, frame, mac, tagged};

#[test]
fn vlans_know_nothing_of_each_other() {
    let mut lab = Lab::new();
    let [mut a, mut b, mut c] = ["10", "20", "10"].map(|vlan| lab.guest("access", 0, &[("vlan", vlan)]));
    // Neither by the address of the other, nor by one that nobody knows, nor by all.
    a.send(&frame(b.mac, a.mac, 1));
    a.send(&frame(mac(0x77), a.mac, 2));
    a.call(3);
    assert_eq!([c.mark(), c.mark(), c.mark()], [1, 2, 3]);
    // Not by a tag either.
    a.send(&tagged(b.mac, a.mac, &[20], 4));
    b.send(&tagged(BROADCAST, b.mac, &[10], 5));
    a.call(6);
    assert_eq!((c.mark(), a.count("tx_vlan")), (6, 1));
    let mut d = lab.guest("access", 0, &[("vlan", "20")]);
    d.call(7);
    assert_eq!(b.mark(), 7);
}

#[test]
fn one_address_may_be_in_two_vlans() {
    let mut lab = Lab::new();
    let [mut a, mut b, mut c, mut d] = ["10", "20", "10", "20"].map(|vlan| lab.guest("access", 0, &[("vlan", vlan)]));
    let station = mac(0x77);
    c.send(&frame(a.mac, station, 1));
    d.send(&frame(b.mac, station, 2));
    assert_eq!([a.mark(), b.mark()], [1, 2]);
    a.send(&frame(station, a.mac, 3));
    b.send(&frame(station, b.mac, 4));
    assert_eq!([c.mark(), d.mark()], [3, 4]);
}

#[test]
fn a_trunk_sees_tags_and_an_access_port_none() {
    let mut lab = Lab::new();
    let mut trunk = lab.guest("trunk", 0, &[("vlans", "10,20"), ("native", "5")]);
    let [mut a, mut b, mut c, mut d] = ["10", "20", "5", "30"].map(|vlan| lab.guest("access", 0, &[("vlan", vlan)]));
    for (port, tags) in [(&mut a, &[10][..]), (&mut b, &[20]), (&mut c, &[])] {
        port.call(1);
        assert_eq!(trunk.wait(), tagged(BROADCAST, port.mac, tags, 1));
    }
    // The priority is the tag's alone.
    trunk.send(&tagged(BROADCAST, trunk.mac, &[0xa00a], 2));
    assert_eq!(a.wait(), frame(BROADCAST, trunk.mac, 2));
    // One without a VLAN is of the native one.
    trunk.send(&tagged(BROADCAST, trunk.mac, &[0xa000], 3));
    trunk.send(&frame(BROADCAST, trunk.mac, 4));
    assert_eq!([c.wait(), c.wait()], [3, 4].map(|mark| frame(BROADCAST, trunk.mac, mark)));
    // Of one that it is not in there is nothing, either way.
    trunk.send(&tagged(BROADCAST, trunk.mac, &[30], 5));
    d.call(6);
    b.call(7);
    assert_eq!(trunk.wait(), tagged(BROADCAST, b.mac, &[20], 7));
    trunk.wait_count("tx_vlan", 1);
}

#[test]
fn a_priority_passes_between_trunks() {
    let mut lab = Lab::new();
    let [mut one, mut two] = [(); 2].map(|()| lab.guest("trunk", 0, &[("vlans", "10"), ("native", "5")]));
    one.send(&tagged(two.mac, one.mac, &[0x700a], 1));
    assert_eq!(two.wait(), tagged(two.mac, one.mac, &[0x700a], 1));
}

#[test]
fn a_tag_below_passes_and_is_never_taken_for_the_ports() {
    let mut lab = Lab::new();
    let mut trunk = lab.guest("trunk", 0, &[("vlans", "10,20"), ("native", "5")]);
    let [mut a, mut b] = ["10", "5"].map(|vlan| lab.guest("access", 0, &[("vlan", vlan)]));
    trunk.send(&tagged(BROADCAST, trunk.mac, &[10, 99], 1));
    assert_eq!(a.wait(), tagged(BROADCAST, trunk.mac, &[99], 1));
    // Out of the native VLAN it would be a frame of VLAN 20 behind the trunk.
    b.send(&tagged(BROADCAST, b.mac, &[5, 20], 2));
    assert_eq!(trunk.wait(), tagged(BROADCAST, b.mac, &[5, 20], 2));
    b.send(&tagged(BROADCAST, b.mac, &[0, 20], 3));
    assert_eq!(trunk.wait(), tagged(BROADCAST, b.mac, &[5, 20], 3));
    // A provider's tag is payload.
    let mut provider = tagged(BROADCAST, a.mac, &[20], 4);
    provider[12..14].copy_from_slice(&[0x88, 0xa8]);
    a.send(&provider);
    let expected = [&provider[..12], &[0x81, 0, 0, 10], &provider[12..]].concat();
    assert_eq!(trunk.wait(), expected);
}

#[test]
fn an_uplink_is_in_all_vlans() {
    let mut lab = Lab::new();
    let mut uplink = lab.guest("uplink", 0, &[]);
    let [mut a, mut b] = ["1", "20"].map(|vlan| lab.guest("access", 0, &[("vlan", vlan)]));
    // One after the other: each is served by itself.
    a.send(&frame(mac(0x77), a.mac, 1));
    assert_eq!(uplink.wait(), frame(mac(0x77), a.mac, 1));
    b.send(&frame(mac(0x77), b.mac, 2));
    assert_eq!(uplink.wait(), tagged(mac(0x77), b.mac, &[20], 2));
    uplink.send(&tagged(b.mac, mac(0x77), &[20], 3));
    uplink.send(&frame(a.mac, mac(0x77), 4));
    assert_eq!([a.mark(), b.mark()], [4, 3]);
}
