//! What a hostile driver can do to a packed ring alone (virtio 1.3 §2.8).

use crate::rig::{DATA, EVENT_IDX, INDIRECT, PACKED, Rig, SIZE};
use std::sync::Arc;
use virtio_mdev_api::{QueueConfig, QueueStart, QueueState};
use virtqueue::testing::{DESC_AVAIL, DESC_INDIRECT, DESC_NEXT, DESC_USED, DESC_WRITE, PackedDesc};
use virtqueue::{Queue, RingError};

const TABLE: u64 = 0x10000;

fn readable(id: u16, flags: u16) -> PackedDesc {
    PackedDesc { addr: DATA, len: 4, id, flags }
}

/// The device does nothing, and nothing is wrong with it.
fn expect_nothing(rig: &mut Rig) {
    let before = rig.ring_bytes();
    rig.serve();
    assert_eq!(rig.ring_bytes(), before);
    assert!(!rig.link.needs_reset(), "{:?}", rig.link.last_fault());
}

#[test]
fn f21_a_buffer_id_out_of_range_stops_the_device() {
    for id in [SIZE, 0x7fff, u16::MAX] {
        let mut rig = Rig::new(PACKED);
        // That of the first descriptor means nothing.
        rig.driver.stage_raw(&[readable(1, DESC_NEXT), readable(id, 0)]);
        rig.driver.publish();
        rig.expect_fault(&format!("head {id} in a table of 8 descriptors"));
    }
}

#[test]
fn f21_a_descriptor_of_the_other_turn_is_not_available() {
    for (flags, turn) in [(DESC_USED, "next"), (DESC_AVAIL | DESC_USED, "used"), (0, "last")] {
        let mut rig = Rig::new(PACKED);
        rig.driver.write_slot(0, readable(0, flags));
        expect_nothing(&mut rig);
        // Nor is what would follow it.
        rig.driver.write_slot(1, readable(0, DESC_AVAIL));
        expect_nothing(&mut rig);
        rig.reset();
        rig.exchange(format!("after the {turn} turn's").as_bytes());
    }
}

#[test]
fn f21_a_wrap_counter_that_turns_in_the_middle_of_the_ring_is_waited_for() {
    let mut rig = Rig::new(PACKED);
    (0..3).for_each(|_| rig.exchange(b"good"));
    let (slot, wrap) = rig.driver.next_slot();
    assert_eq!((slot, wrap), (6, true));
    rig.driver.write_slot(6, readable(0, DESC_USED));
    expect_nothing(&mut rig);
    rig.driver.write_slot(6, readable(0, DESC_AVAIL));
    rig.serve();
    assert!(!rig.link.needs_reset());
    assert_eq!(rig.queue.as_ref().unwrap().state().to_vring_base(), 0x8007_8007);
}

#[test]
fn f21_a_driver_that_turns_round_before_its_chains_are_used_gets_no_more_than_the_ring_holds() {
    let mut rig = Rig::new(PACKED);
    let ids: Vec<u16> = (0..SIZE).map(|_| rig.driver.add(&[(DATA, 4, false)])).collect();
    let driver = rig.driver.clone();
    let mut taken = 0;
    rig.queue
        .as_mut()
        .unwrap()
        .burst(|io| {
            while let Some(chain) = io.take()? {
                taken += 1;
                assert!(taken <= SIZE, "the device goes round");
                io.complete(&chain, 0);
                io.commit();
                (0..SIZE).for_each(|slot| driver.write_slot(slot, readable(0, DESC_USED)));
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(taken, SIZE);
    assert_eq!(rig.driver.take_used(), Some((ids[0], 0)), "what the device wrote last stands");
    rig.reset();
    rig.exchange(b"after the reset");
}

#[test]
fn f21_a_chain_that_has_no_end_stops_the_device() {
    for before in 0..3 {
        let mut rig = Rig::new(PACKED);
        (0..before).for_each(|_| rig.exchange(b"good"));
        let chain = [readable(0, DESC_NEXT); SIZE as usize];
        rig.driver.stage_raw(&chain);
        rig.driver.publish();
        rig.expect_fault("more than 8 descriptors, or a loop");
    }
}

#[test]
fn f21_a_chain_that_goes_on_into_what_is_not_given_back_stops_the_device() {
    let mut rig = Rig::new(PACKED);
    // The first has no end but in the second, which the device had before.
    for _ in 0..6 {
        rig.driver.add(&[(DATA, 4, false)]);
    }
    rig.driver.stage_raw(&[readable(0, DESC_NEXT), readable(0, DESC_NEXT)]);
    rig.driver.publish();
    let _ = rig.queue.as_mut().unwrap().burst(|io| {
        while let Some(chain) = io.take()? {
            io.complete(&chain, 0);
            io.commit();
        }
        Ok(())
    });
    rig.expect_fault("more than 8 descriptors, or a loop");
}

#[test]
fn f21_what_is_available_without_its_predecessors_waits_for_them() {
    let mut rig = Rig::new(PACKED);
    for slot in 1..SIZE {
        rig.driver.write_slot(slot, readable(slot, DESC_AVAIL));
    }
    expect_nothing(&mut rig);
    rig.driver.write_slot(0, readable(0, DESC_AVAIL));
    rig.serve();
    assert_eq!(rig.queue.as_ref().unwrap().state().to_vring_base(), 0, "all of them, in one turn");
    for slot in 0..SIZE {
        let desc = rig.driver.ram.read(rig.driver.desc + 16 * u64::from(slot) + 12, 4);
        assert_eq!(
            desc,
            [&slot.to_le_bytes()[..], &(DESC_AVAIL | DESC_USED).to_le_bytes()].concat(),
            "descriptor {slot}"
        );
    }
}

#[test]
fn f21_only_the_first_descriptor_says_whether_a_chain_is_available() {
    let mut rig = Rig::new(PACKED);
    rig.driver.ram.write(DATA, b"head");
    // The rest of it is marked as nothing or as used; a driver makes a chain available by its first.
    rig.driver.write_slot(1, PackedDesc { addr: DATA + 2, len: 2, id: 0, flags: DESC_NEXT | DESC_AVAIL | DESC_USED });
    rig.driver.write_slot(2, PackedDesc { addr: DATA + 0x1000, len: 4, id: 5, flags: DESC_WRITE });
    rig.driver.write_slot(0, PackedDesc { addr: DATA, len: 2, id: 0, flags: DESC_NEXT | DESC_AVAIL });
    rig.serve();
    assert_eq!(rig.driver.ram.read(DATA + 0x1000, 4), b"head");
    assert_eq!(rig.queue.as_ref().unwrap().state().to_vring_base(), 0x8003_8003);
    let used = rig.driver.ram.read(rig.driver.desc + 8, 8);
    assert_eq!(used, [&4u32.to_le_bytes()[..], &5u16.to_le_bytes(), &0x8082_u16.to_le_bytes()].concat());
}

#[test]
fn f08_an_indirect_descriptor_behind_another_stops_the_device() {
    let mut rig = Rig::new(PACKED | INDIRECT);
    rig.driver.ram.write(TABLE, &readable(0, 0).bytes());
    let to_table = PackedDesc { addr: TABLE, len: 16, id: 0, flags: DESC_INDIRECT };
    rig.driver.stage_raw(&[readable(0, DESC_NEXT), to_table]);
    rig.driver.publish();
    rig.expect_fault("indirect");
}

#[test]
fn the_entries_of_an_indirect_table_follow_each_other_whatever_their_flags_and_ids() {
    let mut rig = Rig::new(PACKED | INDIRECT);
    rig.driver.ram.write(DATA, b"abcd");
    let entries = [
        PackedDesc { addr: DATA, len: 2, id: 0xffff, flags: DESC_USED },
        PackedDesc { addr: DATA + 2, len: 2, id: 9, flags: DESC_NEXT },
        PackedDesc { addr: DATA + 0x1000, len: 4, id: 7, flags: DESC_WRITE | DESC_NEXT },
    ];
    entries.iter().zip(0..).for_each(|(entry, n)| rig.driver.ram.write(TABLE + 16 * n, &entry.bytes()));
    let id = rig.driver.stage_table(TABLE, 48, 4);
    rig.driver.publish();
    rig.serve();
    assert_eq!(rig.driver.take_used(), Some((id, 4)), "{:?}", rig.link.last_fault());
    assert_eq!(rig.driver.ram.read(DATA + 0x1000, 4), b"abcd");
}

#[test]
fn f18_a_packed_ring_has_any_size_up_to_the_largest() {
    for size in [1, 2, 3, 12, 100, 1023, 1024] {
        let mut rig = Rig::of_size(PACKED, size);
        for n in 0..3 * u32::from(size) {
            // One descriptor at a time, so that the smallest has room.
            let id = rig.driver.add(&[(DATA, 1 + n % 9, true)]);
            rig.serve();
            assert_eq!(rig.driver.take_used(), Some((id, 0)), "{n} of {size}");
        }
    }
    for size in [0, 1025, 32_768, 32_769, 65_535] {
        let mut rig = Rig::new(PACKED);
        let config = QueueConfig { size, ..rig.driver.config() };
        let start = QueueStart { config, ..rig.queue_start(0) };
        let error = Queue::start(0, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker));
        assert_eq!(error.unwrap_err(), RingError::Size { size, max: 1024 });
        rig.exchange(b"unharmed");
    }
}

#[test]
fn f20_garbage_in_the_event_areas_harms_nobody() {
    for features in [0, EVENT_IDX] {
        let mut rig = Rig::new(PACKED | features);
        for n in 0..2000u16 {
            rig.driver.set_driver_event(n.wrapping_mul(40_503), n.wrapping_mul(25_717));
            rig.driver.set_device_event(n.wrapping_mul(25_717), n.wrapping_mul(40_503));
            rig.exchange(&n.to_le_bytes());
        }
        assert!(!rig.link.needs_reset());
    }
}

#[test]
fn f41_a_start_in_a_state_that_cannot_be_is_refused() {
    let beyond = |avail, used| QueueState::Packed { avail, avail_wrap: true, used, used_wrap: true };
    for state in [beyond(SIZE, 0), beyond(0, SIZE), beyond(0x7fff, 0x7fff), QueueState::initial(false)] {
        let mut rig = Rig::new(PACKED);
        let start = QueueStart { state, ..rig.queue_start(0) };
        let error = Queue::start(0, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker));
        assert_eq!(error.unwrap_err(), RingError::State, "{state:?}");
        rig.exchange(b"unharmed");
    }
}
