//! Chains go through unchanged, indices and notifications are right.

use crate::rig::{DATA, EVENT_IDX, INDIRECT, MEMORY, Rig, SIZE, echo};
use std::sync::Arc;
use virtio_mdev_api::QueueState;
use virtqueue::testing::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, Ram};

#[test]
fn what_is_sent_comes_back_however_often_the_indices_wrap() {
    for features in [0, EVENT_IDX] {
        let mut rig = Rig::new(features);
        for n in 0..70_000u32 {
            rig.exchange(&n.to_le_bytes());
        }
        assert_eq!(rig.queue.unwrap().state(), QueueState::Split { avail: (70_000u32 % 65_536).try_into().unwrap() });
    }
}

#[test]
fn private_memory_works_and_its_index_is_written_last() {
    let ram = Ram::private(MEMORY);
    for features in [0, EVENT_IDX] {
        let mut rig = Rig::with_ram(&ram, features);
        rig.driver.reset();
        let Ram::Private(private) = &ram else { unreachable!() };
        for n in 0..100u32 {
            private.writes.lock().clear();
            rig.exchange(&n.to_le_bytes());
            let writes = private.writes.lock().clone();
            let index = writes.iter().position(|write| *write == (rig.driver.used + 2, 2)).unwrap();
            let entry = writes.iter().position(|(_, len)| *len == 8).unwrap();
            let data = writes.iter().position(|(addr, _)| *addr == DATA + 0x1000).unwrap();
            assert!(data < index && entry < index, "{writes:?}");
        }
    }
}

#[test]
fn an_indirect_chain_is_a_chain() {
    let mut rig = Rig::new(INDIRECT);
    let table = [
        Desc { addr: DATA, len: 3, flags: DESC_NEXT, next: 2 },
        Desc { addr: DATA + 0x1000, len: 8, flags: DESC_WRITE, next: 0 },
        Desc { addr: DATA + 3, len: 5, flags: DESC_NEXT, next: 1 },
    ];
    let bytes: Vec<u8> = table.iter().flat_map(Desc::bytes).collect();
    rig.driver.ram.write(0x10000, &bytes);
    rig.driver.ram.write(DATA, b"indirect");
    // A device ignores that such a descriptor is writable.
    rig.driver.set_desc(0, Desc { addr: 0x10000, len: 48, flags: DESC_INDIRECT | DESC_WRITE, next: 0 });
    rig.driver.push(0);
    rig.driver.publish();
    rig.serve();
    assert_eq!(rig.driver.take_used(), Some((0, 8)));
    assert_eq!(rig.driver.ram.read(DATA + 0x1000, 8), b"indirect");
}

#[test]
fn reads_and_writes_find_their_way_through_many_buffers() {
    let mut rig = Rig::new(0);
    rig.driver.ram.write(DATA, b"abcdefgh");
    rig.driver.add(&[
        (DATA, 3, false),
        (DATA + 3, 1, false),
        (DATA + 4, 4, false),
        (DATA + 0x100, 2, true),
        (DATA + 0x200, 6, true),
    ]);
    let queue = rig.queue.as_mut().unwrap();
    queue
        .burst(|io| {
            let chain = io.take()?.unwrap();
            assert_eq!((chain.readable, chain.writable), (8, 8));
            let mut middle = [0; 5];
            assert_eq!(io.read(&chain, 2, &mut middle)?, 5);
            assert_eq!(&middle, b"cdefg");
            assert_eq!(io.read(&chain, 7, &mut middle)?, 1);
            assert_eq!(io.read(&chain, 8, &mut middle)?, 0);
            assert_eq!(io.write(&chain, 1, b"ABC")?, 3);
            assert_eq!(io.write(&chain, 6, b"XYZ")?, 2);
            assert_eq!(io.writable_address(&chain, 2), Some(DATA + 0x200));
            assert_eq!(io.writable_address(&chain, 8), None);
            io.complete(&chain, 8);
            io.commit();
            Ok(())
        })
        .unwrap();
    assert_eq!(rig.driver.ram.read(DATA + 0x100, 2), b"\0A");
    assert_eq!(rig.driver.ram.read(DATA + 0x200, 6), b"BC\0\0XY");
}

#[test]
fn what_is_not_committed_was_never_taken() {
    let mut rig = Rig::new(0);
    for n in 0..3 {
        rig.driver.add(&[(DATA, 1 + n, false)]);
    }
    rig.queue
        .as_mut()
        .unwrap()
        .burst(|io| {
            let first = io.take()?.unwrap();
            io.complete(&first, 0);
            io.commit();
            let second = io.take()?.unwrap();
            io.complete(&second, 0);
            io.rewind();
            let again = io.take()?.unwrap();
            assert_eq!(again, second);
            io.complete(&again, 0);
            Ok(())
        })
        .unwrap();
    assert_eq!(rig.driver.used_idx(), 1);
    assert_eq!(rig.queue.as_ref().unwrap().state(), QueueState::Split { avail: 1 });
    rig.serve();
    assert_eq!(rig.driver.used_idx(), 3);
}

#[test]
fn a_queue_continues_where_another_stopped() {
    let mut rig = Rig::new(EVENT_IDX);
    for n in 0..13u16 {
        rig.exchange(&n.to_le_bytes());
        let QueueState::Split { avail } = rig.queue.take().unwrap().state() else { unreachable!() };
        assert_eq!(avail, n + 1);
        rig.start_at(avail).unwrap();
    }
}

#[test]
fn the_driver_is_told_once_a_burst_and_not_at_all_when_it_says_so() {
    let mut rig = Rig::new(0);
    for _ in 0..SIZE {
        rig.driver.add(&[(DATA, 1, false)]);
    }
    rig.serve();
    assert_eq!(rig.call.drain(), Ok(Some(1)));
    rig.serve();
    assert_eq!(rig.call.drain(), Ok(None), "told of nothing");
    rig.driver.set_avail_flags(1);
    rig.driver.add(&[(DATA, 1, false)]);
    rig.serve();
    assert_eq!(rig.call.drain(), Ok(None));
}

#[test]
fn with_event_indices_the_driver_is_told_when_its_index_is_passed() {
    let mut rig = Rig::new(EVENT_IDX);
    rig.exchange(b"the first is always told of");
    assert_eq!(rig.call.drain(), Ok(Some(1)));
    rig.driver.set_used_event(3);
    for told in [false, false, true, false] {
        rig.exchange(b"x");
        assert_eq!(rig.call.drain(), Ok(told.then_some(1)), "at {}", rig.driver.used_idx());
    }
}

#[test]
fn enabling_notifications_finds_what_came_meanwhile() {
    for features in [0, EVENT_IDX] {
        let mut rig = Rig::new(features);
        let mut late = rig.driver.clone();
        rig.queue
            .as_mut()
            .unwrap()
            .burst(|io| {
                io.disable_notifications()?;
                if features == 0 {
                    assert_eq!(late.used_flags(), 1);
                }
                assert_eq!(io.take()?, None);
                late.add(&[(DATA, 1, false)]);
                assert!(io.enable_notifications()?);
                let chain = io.take()?.unwrap();
                io.complete(&chain, 0);
                io.commit();
                assert!(!io.enable_notifications()?);
                Ok(())
            })
            .unwrap();
        assert_eq!(late.used_flags(), 0);
        assert_eq!(late.avail_event(), if features == 0 { 0 } else { 1 });
    }
}

#[test]
fn everything_the_device_writes_is_reported_dirty() {
    let mut rig = Rig::new(EVENT_IDX);
    let written = rig.track();
    rig.exchange(b"dirty");
    let used_page = rig.driver.used >> 12;
    assert_eq!(written.take(), [used_page, (DATA + 0x1000) >> 12]);
    rig.driver.add(&[(DATA, 4, false)]);
    rig.serve();
    assert_eq!(written.take(), [used_page]);
}

#[test]
fn what_was_written_before_the_memory_ended_is_reported_dirty() {
    let mut rig = Rig::new(EVENT_IDX);
    let written = rig.track();
    let end = u64::try_from(MEMORY).unwrap();
    rig.driver.ram.write(DATA, b"dirty");
    rig.driver.add(&[(DATA, 5, false), (end - 2, 5, true)]);
    rig.serve();
    assert!(rig.link.last_fault().is_some());
    assert_eq!(rig.driver.ram.read(end - 2, 2), b"di");
    assert_eq!(written.take(), [(end - 1) >> 12]);
}

#[test]
fn a_notifier_at_its_maximum_does_not_hold_the_device_up() {
    let mut rig = Rig::new(0);
    let full = nix::sys::eventfd::EventFd::new().unwrap();
    full.write(u64::MAX - 1).unwrap();
    let slot = virtio_mdev_api::notify::CallSlot::default();
    slot.set(Some(std::os::fd::OwnedFd::from(full).into()));
    let start = virtio_mdev_api::QueueStart { call: Arc::new(slot), ..rig.queue_start(0) };
    let mut queue = virtqueue::Queue::start(3, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker)).unwrap();
    rig.driver.add(&[(DATA, 1, false)]);
    queue.burst(echo).unwrap();
    queue.interrupt();
    assert_eq!(rig.driver.used_idx(), 1);
}

#[test]
fn a_notifier_that_fails_stops_the_device() {
    let mut rig = Rig::new(0);
    // Stands for a client that makes the write block until it is interrupted: a pipe nobody reads fails at once.
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let slot = virtio_mdev_api::notify::CallSlot::default();
    slot.set(Some(writer.into()));
    let start = virtio_mdev_api::QueueStart { call: Arc::new(slot), ..rig.queue_start(0) };
    rig.queue = Some(virtqueue::Queue::start(3, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker)).unwrap());
    rig.driver.add(&[(DATA, 1, false)]);
    rig.serve();
    assert_eq!(rig.driver.used_idx(), 1);
    assert!(rig.link.last_fault().unwrap().contains("notifier of used buffers: EPIPE"));
    rig.reset();
    rig.exchange(b"after the reset");
}
