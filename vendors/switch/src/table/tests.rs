use super::*;
use std::collections::BTreeSet;

fn key(vlan: u64, station: u64) -> Key {
    vlan << 48 | 0x5254_0000_0000 | station
}

fn table(entries: u32, ports: PortId, limit: u32) -> Table {
    let table = Table::new(entries, 64, 300);
    (0..ports).for_each(|port| table.join(port, limit));
    table
}

fn at(table: &Table, port: PortId, now: u32) -> usize {
    table.entries(now).iter().filter(|entry| entry.port == port).count()
}

#[test]
fn an_address_is_found_where_it_was_last_a_source_in_its_vlan() {
    let table = table(64, 3, 64);
    assert_eq!(table.find(key(1, 7), 0), None);
    assert!(table.learn(key(1, 7), 0, 0));
    assert!(table.learn(key(2, 7), 1, 0));
    assert_eq!([key(1, 7), key(2, 7), key(3, 7)].map(|key| table.find(key, 0)), [Some(0), Some(1), None]);
    assert!(table.learn(key(1, 7), 2, 1));
    assert_eq!(table.find(key(1, 7), 1), Some(2));
    assert_eq!(table.entries(1).len(), 2);
}

#[test]
fn an_address_that_is_no_source_any_more_is_forgotten_after_a_while() {
    let table = table(64, 2, 64);
    table.learn(key(1, 1), 0, 10);
    table.learn(key(1, 2), 0, 10);
    table.learn(key(1, 1), 0, 200);
    assert_eq!([1, 2].map(|station| table.find(key(1, station), 309)), [Some(0), Some(0)]);
    assert_eq!([1, 2].map(|station| table.find(key(1, station), 310)), [Some(0), None]);
    assert_eq!(table.entries(310), [Learnt { key: key(1, 1), port: 0, age: 110 }]);
    assert_eq!(table.find(key(1, 1), 500), None);
}

#[test]
fn a_port_at_its_limit_gives_up_its_own_oldest() {
    let table = table(64, 2, 4);
    table.learn(key(1, 100), 1, 0);
    for station in 0..1000 {
        assert!(table.learn(key(1, station), 0, 0), "{station}");
    }
    assert_eq!(at(&table, 0, 0), 4);
    assert_eq!(table.find(key(1, 999), 0), Some(0));
    // The flood had 100 in it too, which is an address that moved.
    assert_eq!(table.find(key(1, 100), 0), None);
}

#[test]
fn a_flood_of_sources_takes_nothing_from_who_has_no_more_than_its_share() {
    let table = table(64, 4, 64);
    // A share is 16.
    for station in 0..10 {
        assert!(table.learn(key(1, station), 1, 0));
    }
    for station in 1000..200_000 {
        table.learn(key(1, station), 0, 0);
    }
    let kept: BTreeSet<_> = (0..10).filter_map(|station| table.find(key(1, station), 0)).collect();
    assert_eq!((kept, at(&table, 1, 0)), (BTreeSet::from([1]), 10));
    assert_eq!(table.entries(0).len(), 64);
    // Nor from who comes later.
    for station in 0..16 {
        assert!(table.learn(key(2, station), 2, 0));
    }
    for station in 300_000..400_000 {
        table.learn(key(1, station), 0, 0);
    }
    assert_eq!([1, 2].map(|port| at(&table, port, 0)), [10, 16]);
}

#[test]
fn room_of_what_is_stale_is_used_again() {
    let table = table(64, 2, 64);
    (0..64).for_each(|station| assert!(table.learn(key(1, station), 0, 0)));
    // One port has its share of 32 and more, and keeps what is not stale.
    (0..64).for_each(|station| assert!(table.learn(key(2, station), 1, 300)));
    // Where an address may be is a secret of the table, and now and then a place of a full one is nobody's.
    let [stale, fresh] = [0, 1].map(|port| at(&table, port, 300));
    assert!(stale == 0 && fresh >= 60, "{stale} stale, {fresh} fresh");
}

#[test]
fn what_a_port_learnt_goes_with_it() {
    let table = table(64, 2, 64);
    (0..20).for_each(|station| assert!(table.learn(key(1, station), 0, 0)));
    table.learn(key(2, 1), 1, 0);
    table.leave(0);
    assert_eq!(table.entries(0), [Learnt { key: key(2, 1), port: 1, age: 0 }]);
    assert!(!table.learn(key(1, 1), 0, 0), "there is no such port");
    table.join(0, 1);
    assert!(table.learn(key(1, 1), 0, 0));
}

#[test]
fn nearly_every_address_has_a_place_in_a_table_that_is_just_full() {
    let table = table(8192, 1, 8192);
    let missed = (0..8192).filter(|station| !table.learn(key(1, *station), 0, 0)).count();
    let known = (0..8192).filter(|station| table.find(key(1, *station), 0).is_some()).count();
    assert!(missed == 0 && known > 8150, "{missed} not learnt, {known} known");
}
