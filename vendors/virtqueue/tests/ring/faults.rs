//! What a hostile driver does to a ring ends in DEVICE_NEEDS_RESET of its own device, or does nothing at all. Every
//! test ends with a reset that brings the device back.

use crate::rig::{DATA, EVENT_IDX, INDIRECT, MEMORY, Rig, SIZE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::{QueueConfig, QueueState};
use virtqueue::RingError;
use virtqueue::testing::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, Ram};

const TABLE: u64 = 0x10000;

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { addr, len, flags, next }
}

/// Makes descriptor 0 of the table `first`, and chain 0 available.
fn offer(rig: &mut Rig, first: Desc) {
    rig.driver.set_desc(0, first);
    rig.driver.push(0);
    rig.driver.publish();
}

/// The same with an indirect table.
fn offer_indirect(rig: &mut Rig, table: &[Desc]) {
    let bytes: Vec<u8> = table.iter().flat_map(Desc::bytes).collect();
    rig.driver.ram.write(TABLE, &bytes);
    let len = u32::try_from(bytes.len()).unwrap();
    offer(rig, desc(TABLE, len, DESC_INDIRECT, 0));
}

#[test]
fn f01_an_available_index_beyond_the_ring_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.driver.set_avail_idx(SIZE + 1);
    rig.expect_fault("available index 9 follows 0 on a ring of 8");
}

#[test]
fn f01_chains_that_were_not_given_back_yet_count_too() {
    let mut rig = Rig::new(0);
    for _ in 0..SIZE {
        rig.driver.add(&[(DATA, 1, false)]);
    }
    let driver = rig.driver.clone();
    let _ = rig.queue.as_mut().unwrap().burst(|io| {
        while let Some(chain) = io.take()? {
            io.complete(&chain, 0);
            io.commit();
            // The driver has not seen one of them used, and goes on all the same.
            driver.set_avail_idx(SIZE + 1);
        }
        Ok(())
    });
    assert_eq!(rig.driver.used_idx(), SIZE);
    rig.expect_fault("available index 9 follows 8 on a ring of 8");
}

#[test]
fn f02_an_available_index_that_goes_back_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.exchange(b"one");
    rig.driver.set_avail_idx(0);
    rig.expect_fault("available index 0 follows 1");
}

#[test]
fn f03_a_head_that_is_no_descriptor_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.driver.push(SIZE);
    rig.driver.publish();
    rig.expect_fault("head 8 in a table of 8");
}

#[test]
fn f04_a_next_that_is_no_descriptor_stops_the_device() {
    let mut rig = Rig::new(0);
    offer(&mut rig, desc(DATA, 4, DESC_NEXT, SIZE));
    rig.expect_fault("next 8 in a table of 8");
}

#[test]
fn f05_a_descriptor_loop_stops_only_its_own_device() {
    let (mut rig, mut neighbour) = (Rig::new(0), Rig::new(0));
    offer(&mut rig, desc(DATA, 4, DESC_NEXT, 0));
    rig.expect_fault("more than 8 descriptors, or a loop");
    rig.driver.set_desc(1, desc(DATA, 4, DESC_NEXT, 0));
    rig.reset();
    rig.driver.set_desc(1, desc(DATA, 4, DESC_NEXT, 0));
    offer(&mut rig, desc(DATA, 4, DESC_NEXT, 1));
    neighbour.exchange(b"next door");
    rig.expect_fault("more than 8 descriptors, or a loop");
    neighbour.exchange(b"next door");
    assert!(!neighbour.link.needs_reset());
}

#[test]
fn f06_a_chain_longer_than_the_ring_stops_the_device() {
    let mut rig = Rig::new(INDIRECT);
    let chain = |len: u16| -> Vec<Desc> {
        (0..len).map(|n| desc(DATA, 1, if n + 1 < len { DESC_NEXT } else { 0 }, n + 1)).collect()
    };
    offer_indirect(&mut rig, &chain(SIZE));
    rig.serve();
    assert_eq!(rig.driver.take_used(), Some((0, 0)));
    offer_indirect(&mut rig, &chain(SIZE + 1));
    rig.expect_fault("more than 8 descriptors");
}

#[test]
fn f07_an_indirect_table_in_an_indirect_table_stops_the_device() {
    let mut rig = Rig::new(INDIRECT);
    offer_indirect(&mut rig, &[desc(TABLE, 16, DESC_INDIRECT, 0)]);
    rig.expect_fault("inside the indirect table");
}

#[test]
fn f08_an_indirect_descriptor_with_a_next_stops_the_device() {
    let mut rig = Rig::new(INDIRECT);
    offer(&mut rig, desc(TABLE, 16, DESC_INDIRECT | DESC_NEXT, 1));
    rig.expect_fault("is indirect and has a next one");
}

#[test]
fn f08_an_indirect_descriptor_that_was_not_negotiated_stops_the_device() {
    let mut rig = Rig::new(0);
    offer(&mut rig, desc(TABLE, 16, DESC_INDIRECT, 0));
    rig.expect_fault("was not negotiated");
}

#[test]
fn f09_an_indirect_table_of_no_possible_length_stops_the_device() {
    for len in [0, 15, 17, 16 * 65_536, u32::MAX] {
        let mut rig = Rig::new(INDIRECT);
        offer(&mut rig, desc(TABLE, len, DESC_INDIRECT, 0));
        rig.expect_fault(&format!("indirect table of {len} bytes"));
    }
}

#[test]
fn f10_an_indirect_table_that_crosses_into_unmapped_memory_stops_the_device() {
    let mut rig = Rig::new(INDIRECT);
    // Its first entry is mapped and ends the chain; the second one is not.
    let last = MEMORY as u64 - 16;
    rig.driver.ram.write(last, &desc(DATA, 4, 0, 0).bytes());
    offer(&mut rig, desc(last, 32, DESC_INDIRECT, 0));
    rig.expect_fault("indirect table: no mapping at 0x20000");
}

#[test]
fn f11_an_empty_buffer_stops_the_device() {
    let mut rig = Rig::new(0);
    offer(&mut rig, desc(DATA, 0, 0, 0));
    rig.expect_fault("empty buffer in chain 0");
}

#[test]
fn f12_a_buffer_that_wraps_stops_the_device() {
    let mut rig = Rig::new(0);
    offer(&mut rig, desc(u64::MAX - 3, 5, DESC_WRITE, 0));
    rig.expect_fault("wraps around");
}

#[test]
fn f12_a_buffer_that_is_not_mapped_stops_the_device() {
    for flags in [0, DESC_WRITE] {
        let mut rig = Rig::new(0);
        rig.driver.set_desc(1, desc(MEMORY as u64 - 4, 8, flags, 0));
        offer(&mut rig, desc(DATA, 8, DESC_NEXT, 1));
        rig.expect_fault("buffer: no mapping at 0x20000");
    }
}

#[test]
fn f13_a_chain_of_more_than_4_gib_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.driver.set_desc(1, desc(DATA, 2, 0, 0));
    offer(&mut rig, desc(DATA, u32::MAX, DESC_NEXT, 1));
    rig.expect_fault("more than 4 GiB");
}

#[test]
fn f14_a_readable_buffer_after_a_writable_one_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.driver.set_desc(1, desc(DATA, 4, 0, 0));
    offer(&mut rig, desc(DATA, 4, DESC_WRITE | DESC_NEXT, 1));
    rig.expect_fault("readable buffer after a writable one");
}

#[test]
fn f15_a_device_can_refuse_a_chain_of_the_wrong_direction() {
    let mut rig = Rig::new(0);
    offer(&mut rig, desc(DATA, 4, DESC_WRITE, 0));
    let _ = rig.queue.as_mut().unwrap().burst(|io| {
        let chain = io.take()?.unwrap();
        assert_eq!((chain.readable, chain.writable), (0, 4));
        Err::<(), _>(io.refuse(&chain, "nothing to read"))
    });
    rig.expect_fault("chain 0: nothing to read");
}

#[test]
fn f16_a_writable_buffer_over_the_ring_stops_the_device() {
    let areas = |rig: &Rig| [rig.driver.desc, rig.driver.avail, rig.driver.used + 6 + 8 * u64::from(SIZE) - 1];
    for area in 0..3 {
        let mut rig = Rig::new(0);
        let addr = areas(&rig)[area];
        offer(&mut rig, desc(addr, 1, DESC_WRITE, 0));
        rig.expect_fault("of its own queue");
    }
}

#[test]
fn f16_a_readable_buffer_over_the_ring_is_a_copy_like_any_other() {
    let mut rig = Rig::new(0);
    let head = rig.driver.add(&[(rig.driver.desc, 16, false), (DATA, 16, true)]);
    rig.serve();
    assert_eq!(rig.driver.take_used(), Some((head, 16)));
    assert_eq!(rig.driver.ram.read(DATA, 16), rig.driver.ram.read(rig.driver.desc, 16));
}

#[test]
fn f17_a_misaligned_or_wrapping_area_is_no_ring() {
    let rig = Rig::new(0);
    let good = rig.driver.config();
    let refused = |config: QueueConfig| {
        let mut other = Rig::new(0);
        let start = virtio_mdev_api::QueueStart { config, ..other.queue_start(0) };
        let error = virtqueue::Queue::start(0, start, 1024, Arc::clone(&other.health), Arc::clone(&other.waker));
        other.exchange(b"unharmed");
        error.unwrap_err()
    };
    for config in [
        QueueConfig { desc: good.desc + 8, ..good },
        QueueConfig { driver: good.driver + 1, ..good },
        QueueConfig { device: good.device + 2, ..good },
    ] {
        assert!(matches!(refused(config), RingError::Misaligned { .. }), "{config:?}");
    }
    for config in [
        QueueConfig { desc: 0u64.wrapping_sub(64), ..good },
        QueueConfig { driver: 0u64.wrapping_sub(4), ..good },
        QueueConfig { device: 0u64.wrapping_sub(8), ..good },
    ] {
        assert!(matches!(refused(config), RingError::Wraps { .. }), "{config:?}");
    }
}

#[test]
fn f17_a_half_mapped_ring_stops_the_device() {
    let ram = Ram::shared(MEMORY);
    let space = AddressSpace::new(Limits::NONE);
    let mut rig = Rig::unstarted(&ram, Arc::clone(&space), 0);
    let half = usize::try_from(rig.driver.used).unwrap() + 8;
    space.map(ram.region(0, 0, half)).unwrap();
    rig.start().unwrap();
    rig.driver.add(&[(DATA, 4, false)]);
    rig.serve();
    assert!(rig.link.last_fault().unwrap().contains("used ring: no mapping"), "{:?}", rig.link.last_fault());
    space.map(ram.region(half as u64, half, MEMORY - half)).unwrap();
    rig.reset();
    rig.exchange(b"after the reset");
}

#[test]
fn a_ring_that_lies_in_two_mappings_works() {
    let ram = Ram::shared(MEMORY);
    let space = AddressSpace::new(Limits::NONE);
    let mut rig = Rig::unstarted(&ram, Arc::clone(&space), EVENT_IDX);
    let half = usize::try_from(rig.driver.used).unwrap() + 8;
    space.map(ram.region(0, 0, half)).unwrap();
    space.map(ram.region(half as u64, half, MEMORY - half)).unwrap();
    rig.start().unwrap();
    (0..20).for_each(|_| rig.exchange(b"over the border"));
}

#[test]
fn f18_a_size_no_split_ring_can_have_is_refused() {
    for size in [0, 3, 12, 2048, 32_768, 65_535] {
        let mut rig = Rig::new(0);
        let good = rig.driver.config();
        let start = virtio_mdev_api::QueueStart { config: QueueConfig { size, ..good }, ..rig.queue_start(0) };
        let error = virtqueue::Queue::start(0, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker));
        assert_eq!(error.unwrap_err(), RingError::Size { size, max: 1024 });
        rig.exchange(b"unharmed");
    }
}

#[test]
fn f19_a_descriptor_that_changes_all_the_time_is_used_as_it_was_read() {
    let mut rig = Rig::new(0);
    // Good: 16 bytes of data. Bad: 64 KiB that begin in the last mapped bytes.
    let good = desc(DATA, 16, DESC_NEXT, 1);
    let bad = desc(MEMORY as u64 - 16, 0x10000, DESC_NEXT, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let flipper = {
        let (driver, stop) = (rig.driver.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                driver.set_desc(0, bad);
                driver.set_desc(0, good);
            }
        })
    };
    let (mut fine, mut faults) = (0, 0);
    let begun = std::time::Instant::now();
    while (fine < 100 || faults < 100) && begun.elapsed() < std::time::Duration::from_secs(20) {
        rig.driver.set_desc(1, desc(DATA + 0x1000, 16, DESC_WRITE, 0));
        rig.driver.push(0);
        rig.driver.publish();
        rig.serve();
        match rig.driver.take_used() {
            // What was used was read once: never more than what the good one has.
            Some(used) => {
                assert_eq!(used, (0, 16));
                fine += 1;
            }
            None => {
                assert!(rig.health.is_stopped());
                rig.reset();
                faults += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    flipper.join().unwrap();
    assert!(fine >= 100 && faults >= 100, "{fine} fine, {faults} faults");
    rig.reset();
    rig.exchange(b"after the reset");
}

#[test]
fn f20_garbage_in_the_event_indices_harms_nobody() {
    let mut rig = Rig::new(EVENT_IDX);
    for n in 0..2000u16 {
        rig.driver.set_used_event(n.wrapping_mul(40_503));
        let avail_event = rig.driver.used + 4 + 8 * u64::from(SIZE);
        rig.driver.ram.store(avail_event, n.wrapping_mul(25_717));
        rig.exchange(&n.to_le_bytes());
    }
    assert!(!rig.link.needs_reset());
}

#[test]
fn f41_a_start_in_a_state_that_cannot_be_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.start_at(SIZE + 1).unwrap();
    rig.expect_fault("used index 0 does not fit the available index 9");
    let packed = virtio_mdev_api::QueueStart { state: QueueState::initial(true), ..rig.queue_start(0) };
    let error = virtqueue::Queue::start(0, packed, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker));
    assert_eq!(error.unwrap_err(), RingError::State);
}

#[test]
fn f33_a_ring_whose_memory_was_taken_away_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.exchange(b"before");
    let Ram::Shared(window) = rig.driver.ram.clone() else { unreachable!() };
    window.faults.store(1, Ordering::Relaxed);
    rig.serve();
    assert!(rig.link.needs_reset());
    window.faults.store(0, Ordering::Relaxed);
    rig.reset();
    rig.exchange(b"after the reset");
}
