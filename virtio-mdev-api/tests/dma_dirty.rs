//! What the dirty record promises to those who copy memory.

use nix::errno::Errno;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dirty::{DirtyRecord, DirtySink, MAX_PAGES};

const PAGE: u64 = 4096;

#[test]
fn a_write_that_spans_pages_marks_all_of_them() {
    let record = DirtyRecord::new();
    let consumer = record.consumer(0, 0xf_ffff, PAGE).unwrap();
    record.mark(0x1fff, 2);
    record.mark(0x5000, 0x1000);
    assert_eq!(consumer.take(0, 0xf_ffff).unwrap(), [0b10_0110, 0, 0, 0]);
}

#[test]
fn taking_clears_what_was_taken_and_only_that() {
    let record = DirtyRecord::new();
    let consumer = record.consumer(0, 0xf_ffff, PAGE).unwrap();
    record.mark(0, 0x3000);
    assert_eq!(consumer.take(0x1000, 0x1fff).unwrap(), [1]);
    assert_eq!(consumer.take(0, 0xf_ffff).unwrap()[0], 0b101);
    assert_eq!(consumer.take(0, 0xf_ffff).unwrap(), [0; 4]);
}

#[test]
fn every_consumer_has_its_own_clear_and_its_own_pages() {
    let record = DirtyRecord::new();
    let fine = record.consumer(0, 0xf_ffff, PAGE).unwrap();
    let coarse = record.consumer(0, 0xf_ffff, 0x1_0000).unwrap();
    record.mark(0x1_2000, 1);
    assert_eq!(fine.take(0, 0xf_ffff).unwrap()[0], 1 << 0x12);
    assert_eq!(coarse.take(0, 0xf_ffff).unwrap(), [0b10]);
}

#[test]
fn nobody_listens_before_the_first_and_after_the_last_consumer() {
    let record = DirtyRecord::new();
    assert!(!record.is_active());
    let consumer = record.consumer(0, 0xfff, PAGE).unwrap();
    assert!(record.is_active());
    drop(consumer);
    assert!(!record.is_active());
    record.mark(0, 1);
}

#[test]
fn marks_at_the_end_of_the_space_stay_there() {
    let record = DirtyRecord::new();
    let low = record.consumer(0, 0xfff, PAGE).unwrap();
    let high = record.consumer(u64::MAX - 0x1fff, u64::MAX, PAGE).unwrap();
    record.mark(u64::MAX, 1);
    assert_eq!(high.take(u64::MAX - 0x1fff, u64::MAX).unwrap(), [0b10]);
    record.mark(u64::MAX - 0x1000, u64::MAX);
    assert_eq!(high.take(u64::MAX - 0x1fff, u64::MAX).unwrap(), [0b11]);
    assert_eq!(low.take(0, 0xfff).unwrap(), [0]);
    record.mark(0, u64::MAX);
    record.mark(0, 0);
    assert_eq!(low.take(0, 0xfff).unwrap(), [1]);
}

#[test]
fn f36_ranges_that_are_no_pages_or_not_recorded_are_refused() {
    let record = DirtyRecord::new();
    let refused = |first, last, page| record.consumer(first, last, page).err().map(|error| error.errno());
    assert_eq!(refused(0, 0xfff, 0), Some(Errno::EINVAL));
    assert_eq!(refused(0, 0xfff, 3000), Some(Errno::EINVAL));
    assert_eq!(refused(0, 0x1000, PAGE), Some(Errno::EINVAL));
    assert_eq!(refused(0x1000, 0xfff, PAGE), Some(Errno::EINVAL));
    assert_eq!(refused(0x800, 0xfff, PAGE), Some(Errno::EINVAL));
    assert_eq!(refused(0, u64::MAX, PAGE), Some(Errno::E2BIG));
    assert_eq!(refused(0, u64::MAX, 1), Some(Errno::E2BIG));
    assert_eq!(refused(0, MAX_PAGES * PAGE - 1, PAGE), None);
    assert!(!record.is_active());
    let consumer = record.consumer(0x1000, 0x2fff, PAGE).unwrap();
    for (first, last) in [(0, 0x1fff), (0x1000, 0x3fff), (0x1000, 0x1001), (0x2000, 0x1fff)] {
        assert_eq!(consumer.take(first, last).unwrap_err().errno(), Errno::EINVAL, "{first:#x}..={last:#x}");
    }
}

#[test]
fn a_sink_is_told_at_once_and_never_a_range_that_wraps() {
    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, u64)>>);
    impl DirtySink for Log {
        fn mark(&self, iova: u64, len: u64) {
            self.0.lock().push((iova, len));
        }
    }
    let record = DirtyRecord::new();
    let log = Arc::new(Log::default());
    let guard = record.add_sink(Arc::clone(&log) as Arc<dyn DirtySink>);
    record.mark_all([(0x1000, 4), (5, 0), (u64::MAX - 1, 100)]);
    assert_eq!(*log.0.lock(), [(0x1000, 4), (u64::MAX - 1, 2)]);
    drop(guard);
    record.mark(0, 1);
    assert_eq!(log.0.lock().len(), 2);
}

proptest! {
    #[test]
    fn what_is_taken_is_what_was_marked(
        start in 0..40u64,
        marks in prop::collection::vec((0..0x40_0000u64, 0..0x2_0000u64), 0..20),
        takes in prop::collection::vec((0..900u64, 1..900u64), 1..6),
    ) {
        let record = DirtyRecord::new();
        let (first, last) = (start * PAGE, (start + 900) * PAGE - 1);
        let consumer = record.consumer(first, last, PAGE).unwrap();
        let mut model = BTreeSet::new();
        for (iova, len) in marks {
            record.mark(iova, len);
            if len > 0 {
                model.extend(iova / PAGE..=(iova + len - 1) / PAGE);
            }
        }
        for (from, pages) in takes {
            let (from, to) = (start + from, (start + from + pages).min(start + 900) - 1);
            let taken = consumer.take(from * PAGE, (to + 1) * PAGE - 1).unwrap();
            prop_assert_eq!(taken.len() as u64, (to - from) / 64 + 1);
            for page in from..from + taken.len() as u64 * 64 {
                let bit = taken[usize::try_from((page - from) / 64).unwrap()] >> ((page - from) % 64) & 1;
                prop_assert_eq!(bit == 1, page <= to && model.remove(&page), "page {}", page);
            }
        }
    }
}
