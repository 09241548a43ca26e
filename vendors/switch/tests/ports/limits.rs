//! Rate limits. The clock stands still unless a test lets time pass, so what passes is exact.

use crate::lab::{Lab, frame};

#[test]
fn a_port_sends_no_more_packets_than_it_may() {
    let mut lab = Lab::new();
    let mut a = lab.guest("access", 0, &[("tx-pps", "1000:5")]);
    let [mut b, mut c] = lab.access();
    (0..20).for_each(|mark| a.send(&frame(b.mac, a.mac, mark)));
    c.send(&frame(b.mac, c.mac, 99));
    // Two threads send, so either may be first.
    let mut marks: Vec<_> = (0..6).map(|_| b.mark()).collect();
    marks.sort_unstable();
    assert_eq!(marks, [0, 1, 2, 3, 4, 99]);
    a.settle();
    lab.pass_ms(2);
    (20..30).for_each(|mark| a.send(&frame(b.mac, a.mac, mark)));
    assert_eq!([b.mark(), b.mark()], [20, 21]);
    a.settle();
    a.set("tx-pps", "0");
    a.send(&frame(b.mac, a.mac, 50));
    assert_eq!((b.mark(), a.count("tx_limited"), c.count("tx_limited")), (50, 23, 0));
}

#[test]
fn a_port_receives_no_more_bits_than_it_may_and_its_neighbour_all() {
    let mut lab = Lab::new();
    let [mut a] = lab.access();
    // Frames have 60 bytes.
    let mut b = lab.guest("access", 0, &[("rx-bps", "8k:1920")]);
    let [mut c] = lab.access();
    (0..10).for_each(|mark| a.call(mark));
    assert_eq!([(); 10].map(|()| c.mark()), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!([(); 4].map(|()| b.mark()), [0, 1, 2, 3]);
    assert_eq!([b.count("rx_limited"), b.count("rx_dropped"), c.count("rx_limited")], [6, 6, 0]);
    a.settle();
    lab.pass_ms(60);
    a.call(10);
    assert_eq!([b.mark(), c.mark()], [10, 10]);
}

#[test]
fn limits_are_attributes_that_are_shown_as_they_are_written() {
    let mut lab = Lab::new();
    let mut a = lab.guest("access", 0, &[("rx-pps", "10k:64")]);
    assert_eq!(["rx-pps", "rx-bps", "tx-pps", "tx-bps"].map(|name| a.show(name)), ["10000:64", "0", "0", "0"]);
    a.set("tx-bps", "1G");
    assert_eq!(a.show("tx-bps"), "1000000000:100000000");
    let refusal = a.guest.device.store_attribute("tx-bps", "fast").unwrap_err();
    let words = "tx-bps=fast: not RATE[:BURST], each a number from 1 on, with k, M or G for thousands";
    assert_eq!((refusal.errno(), refusal.reason()), (nix::errno::Errno::EINVAL, words));
    assert_eq!(a.show("tx-bps"), "1000000000:100000000");
}
