//! What a hostile driver can do to a split ring alone.

use crate::rig::{DATA, EVENT_IDX, Rig, SIZE};
use std::sync::Arc;
use virtio_mdev_api::{QueueConfig, QueueState};
use virtqueue::RingError;
use virtqueue::testing::{DESC_NEXT, Desc};

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { addr, len, flags, next }
}

/// Makes descriptor 0 of the table `first`, and chain 0 available.
fn offer(rig: &mut Rig, first: Desc) {
    rig.driver.set_desc(0, first);
    rig.driver.push(0);
    rig.driver.publish();
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
