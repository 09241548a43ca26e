//! vhost's dirty log: a bit for every page that was written, in the client's memory and nowhere else.

use crate::memory::{Private, RW, Window, remote, shared};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_mdev_api::dirty::{
    DirtyPages, DirtyRecord, DirtyWord, Log, LogError, LogSetup, LoggedRing, RingLog, RingPart, log_len,
};
use virtio_mdev_api::dma::{Permissions, Region, SharedMemory};
use virtio_mdev_api::notify::{CallSlot, EventFd};

fn part(queue: u16) -> RingPart {
    RingPart { queue, elsewhere: false }
}

const SIZE: usize = 0x1000;

fn setup(bitmap: Vec<Region>) -> LogSetup {
    LogSetup { bitmap, rings: Vec::new(), notify: Arc::new(CallSlot::default()) }
}

/// A log of 4096 pages in two stretches: the first half in place, the second through the client.
fn two_kinds() -> (Arc<Window>, Arc<Private>, Arc<Log>) {
    let (window, private) = (Window::new(SIZE), Private::new(SIZE));
    let bitmap = vec![shared(&window, 0, 256, 16, RW), remote(&private, 256, 256, RW)];
    let log = Log::new(setup(bitmap)).unwrap();
    (window, private, log)
}

fn bits(window: &Window, private: &Private) -> Vec<u64> {
    let bytes = [window.bytes::<256>(16).to_vec(), private.bytes.lock()[..256].to_vec()].concat();
    (0..4096).filter(|page| bytes[page / 8] & 1 << (page % 8) != 0).map(|page| page as u64).collect()
}

#[test]
fn a_write_that_spans_pages_sets_the_bits_of_all_of_them() {
    let (window, private, log) = two_kinds();
    let record = DirtyRecord::new();
    let _guard = record.add_sink(log);
    record.mark(0x1fff, 2);
    record.mark(0x7000, 1);
    // 2048 is the first page whose bit is in the other kind of memory.
    record.mark(2047 * 4096 + 4095, 2);
    record.mark(4095 * 4096, 4096);
    assert_eq!(bits(&window, &private), [1, 2, 7, 2047, 2048, 4095]);
    assert_eq!(record.flush(), Ok(()));
}

#[test]
fn f36_nothing_is_written_beyond_the_end_of_the_log() {
    let (window, private, log) = two_kinds();
    let record = DirtyRecord::new();
    let _guard = record.add_sink(log);
    record.mark(4095 * 4096, 4097);
    assert_eq!(bits(&window, &private), [4095]);
    assert_eq!(record.flush(), Err(LogError::Beyond(4096 * 4096)));
    for at in [u64::MAX, 1 << 40, 4096 * 4096] {
        record.mark(at, u64::MAX);
    }
    assert_eq!(bits(&window, &private), [4095]);
    assert_eq!(window.bytes::<16>(0), [0; 16]);
    assert!(window.bytes::<3000>(16 + 256).iter().all(|byte| *byte == 0));
    assert!(private.bytes.lock()[256..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_log_needs_memory_without_a_gap_that_can_be_written() {
    let window = Window::new(SIZE);
    assert!(Log::new(setup(vec![shared(&window, 0, 8, 0, RW), shared(&window, 9, 8, 9, RW)])).is_err());
    assert!(Log::new(setup(vec![shared(&window, 1, 8, 0, RW)])).is_err());
    assert!(Log::new(setup(vec![shared(&window, 0, 8, 0, Permissions::READ)])).is_err());
    assert_eq!([log_len(0), log_len(0x7fff), log_len(0x8000), log_len(u64::MAX)], [1, 1, 2, 1 << 49]);
}

#[test]
fn memory_that_is_taken_away_ends_the_log_and_is_told() {
    let (window, private, log) = two_kinds();
    let record = DirtyRecord::new();
    let _guard = record.add_sink(log);
    record.mark(0, 1);
    assert_eq!(record.flush(), Ok(()));
    window.faults.store(1, Ordering::Relaxed);
    record.mark(0, 1);
    assert_eq!(record.flush(), Err(LogError::Gone(0)));
    let (_window, other, log) = two_kinds();
    other.revoked.store(true, Ordering::Relaxed);
    let record = DirtyRecord::new();
    let _guard = record.add_sink(log);
    record.mark(2048 * 4096, 1);
    assert_eq!(record.flush(), Err(LogError::Gone(256)));
    assert!(private.bytes.lock().iter().all(|byte| *byte == 0));
}

#[test]
fn the_eventfd_is_signalled_once_a_burst() {
    let window = Window::new(SIZE);
    let log = Log::new(setup(vec![shared(&window, 0, 512, 0, RW)])).unwrap();
    let notify = Arc::new(CallSlot::default());
    let told =
        Log::new(LogSetup { notify: Arc::clone(&notify), ..setup(vec![shared(&window, 0, 512, 0, RW)]) }).unwrap();
    let event = EventFd::new().unwrap();
    notify.set(Some(event.clone()));
    let record = DirtyRecord::new();
    let _guards = (record.add_sink(log), record.add_sink(told));
    record.flush().unwrap();
    assert_eq!(event.drain(), Ok(None));
    record.mark(0, 1);
    record.mark(0x5000, 1);
    assert_eq!(event.drain(), Ok(None), "within a burst nobody is told");
    record.flush().unwrap();
    assert_eq!(event.drain(), Ok(Some(1)));
    // A page that is marked already is a logged write all the same.
    record.mark(0, 1);
    record.flush().unwrap();
    assert_eq!(event.drain(), Ok(Some(1)));
}

#[test]
fn used_rings_are_logged_where_the_client_says_or_not_at_all() {
    let (window, private) = (Window::new(SIZE), Private::new(SIZE));
    let ring = LoggedRing { first: 0x9000, len: 0x1000, log: 0x4ff8 };
    let rings = vec![RingLog::At(ring), RingLog::Unlogged];
    let log = Log::new(LogSetup { rings, ..setup(vec![shared(&window, 0, 256, 16, RW)]) }).unwrap();
    let record = DirtyRecord::new();
    let _guard = record.add_sink(log);
    record.mark_ring(part(0), [(0x9000, 4), (0x9ffe, 2)]);
    record.mark_ring(part(1), [(0x20_0000, 4)]);
    // Another part of a ring, and a queue that nobody said anything of.
    record.mark_ring(part(0), [(0xa000, 2)]);
    record.mark_ring(part(2), [(0xc000, 2)]);
    // What has an address in another space only.
    record.mark_ring(RingPart { queue: 2, elsewhere: true }, [(0xe000, 2)]);
    record.mark_ring(RingPart { queue: 0, elsewhere: true }, [(0x9000, 2)]);
    assert_eq!(bits(&window, &private), [4, 5, 10, 12]);
    assert_eq!(record.flush(), Ok(()));
}

#[test]
fn two_consumers_do_not_clear_each_others_pages() {
    let (window, private, log) = two_kinds();
    let record = DirtyRecord::new();
    let pages = Arc::new(DirtyPages::new(4096).unwrap());
    let _other = record.add_sink(Arc::clone(&pages) as _);
    let _guard = record.add_sink(log);
    record.mark(0x3000, 1);
    assert_eq!(pages.take(0, 0xff_ffff), [DirtyWord { page: 0, bits: 1 << 3 }]);
    assert_eq!(bits(&window, &private), [3]);
    window.slice().subslice(16, 256).unwrap().copy_from(&[0u8; 256]);
    record.mark(0x4000, 1);
    assert_eq!(bits(&window, &private), [4]);
    assert_eq!(pages.take(0, 0xff_ffff), [DirtyWord { page: 0, bits: 1 << 4 }]);
}

#[test]
fn a_log_that_was_replaced_gets_no_bit_any_more() {
    let record = DirtyRecord::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for queue in 0..2u64 {
            let (record, stop) = (&record, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    record.mark(queue * 4096, 1);
                }
            });
        }
        let mut old: Option<(Arc<Window>, _)> = None;
        for _ in 0..200 {
            let window = Window::new(64);
            let guard = record.add_sink(Log::new(setup(vec![shared(&window, 0, 64, 0, RW)])).unwrap());
            if let Some((window, guard)) = old.replace((Arc::clone(&window), guard)) {
                drop(guard);
                window.clear::<64>();
                std::thread::yield_now();
                assert_eq!(window.bytes::<64>(0), [0; 64]);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #[test]
    fn the_log_is_exactly_the_pages_that_were_written(
        writes in prop::collection::vec((0u64..4096 * 4096, 1u64..70_000), 0..40),
    ) {
        let (window, private, log) = two_kinds();
        let record = DirtyRecord::new();
        let _guard = record.add_sink(log);
        let mut pages = std::collections::BTreeSet::new();
        for (at, len) in writes {
            let len = len.min(4096 * 4096 - at);
            record.mark(at, len);
            pages.extend(at / 4096..=(at + len - 1) / 4096);
        }
        prop_assert_eq!(bits(&window, &private), pages.into_iter().collect::<Vec<_>>());
    }
}
