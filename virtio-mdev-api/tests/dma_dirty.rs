//! What the dirty record promises to those who copy memory.

use nix::errno::Errno;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dirty::{DirtyPages, DirtyRecord, DirtySink, DirtyWord, RingPart, SinkGuard, Writers};

const PAGE: u64 = 4096;

/// A consumer of `record`, until the guard is dropped.
fn consumer(record: &Arc<DirtyRecord>, page_size: u64) -> (Arc<DirtyPages>, SinkGuard) {
    let pages = Arc::new(DirtyPages::new(page_size).unwrap());
    let guard = record.add_sink(Arc::clone(&pages) as Arc<dyn DirtySink>);
    (pages, guard)
}

fn take(pages: &DirtyPages, first: u64, last: u64) -> Vec<u64> {
    pages.take(first, last).into_iter().flat_map(DirtyWord::pages).collect()
}

#[test]
fn a_write_that_spans_pages_marks_all_of_them() {
    let record = DirtyRecord::new();
    let (pages, _guard) = consumer(&record, PAGE);
    record.mark(0x1fff, 2);
    record.mark(0x5000, 0x1000);
    record.mark(511 * PAGE, 2 * PAGE);
    assert_eq!(take(&pages, 0, u64::MAX), [1, 2, 5, 511, 512]);
}

#[test]
fn taking_clears_what_was_taken_and_only_that() {
    let record = DirtyRecord::new();
    let (pages, _guard) = consumer(&record, PAGE);
    record.mark(0, 0x3000);
    assert_eq!(take(&pages, 0x1000, 0x1fff), [1]);
    assert_eq!(take(&pages, 0, u64::MAX), [0, 2]);
    assert!(take(&pages, 0, u64::MAX).is_empty());
    assert!(take(&pages, 1, 0).is_empty());
}

#[test]
fn every_consumer_has_its_own_clear_and_its_own_pages() {
    let record = DirtyRecord::new();
    let ((fine, _one), (coarse, _other)) = (consumer(&record, PAGE), consumer(&record, 0x1_0000));
    record.mark(0x1_2000, 1);
    assert_eq!(take(&fine, 0, 0xf_ffff), [0x12]);
    assert_eq!(take(&coarse, 0, 0xf_ffff), [1]);
}

#[test]
fn nobody_listens_before_the_first_and_after_the_last_consumer() {
    let record = DirtyRecord::new();
    assert!(!record.is_active());
    let (pages, guard) = consumer(&record, PAGE);
    assert!(record.is_active());
    drop(guard);
    assert!(!record.is_active());
    record.mark(0, 1);
    assert!(take(&pages, 0, u64::MAX).is_empty());
}

#[test]
fn marks_at_the_end_of_the_space_stay_there() {
    let record = DirtyRecord::new();
    let (pages, _guard) = consumer(&record, PAGE);
    let last = u64::MAX / PAGE;
    record.mark(u64::MAX, 1);
    assert_eq!(take(&pages, u64::MAX - 0x1fff, u64::MAX), [last]);
    record.mark(u64::MAX - 0x1000, u64::MAX);
    record.mark(0, 0);
    assert_eq!(take(&pages, 0, u64::MAX), [last - 1, last]);
}

#[test]
fn nonsense_is_refused() {
    for size in [0, 3000] {
        assert_eq!(DirtyPages::new(size).unwrap_err().errno(), Errno::EINVAL, "pages of {size}");
    }
}

#[test]
fn all_who_write_to_a_memory_tell_the_one_who_tracks_it() {
    let writers = Arc::new(Writers::default());
    let [early, late] = [(); 2].map(|()| DirtyRecord::new());
    let _early = writers.join(&early);
    let pages = Arc::new(DirtyPages::new(PAGE).unwrap());
    assert!(!early.is_active());
    writers.track(Some(Arc::clone(&pages) as Arc<dyn DirtySink>));
    let guard = writers.join(&late);
    early.mark(0, 1);
    late.mark(0x1000, 1);
    late.mark_ring(RingPart { queue: 0, elsewhere: true }, [(0x2000, 1)]);
    assert_eq!(take(&pages, 0, u64::MAX), [0, 1]);
    drop(guard);
    assert!(!late.is_active());
    writers.track(None);
    assert!(!early.is_active());
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
        marks in prop::collection::vec((0..0x40_0000u64, 0..0x2_0000u64), 0..20),
        takes in prop::collection::vec((0..1100u64, 1..900u64, any::<bool>()), 1..6),
    ) {
        let record = DirtyRecord::new();
        let (pages, _guard) = consumer(&record, PAGE);
        let mut model = BTreeSet::new();
        for (iova, len) in marks {
            record.mark(iova, len);
            if len > 0 {
                model.extend(iova / PAGE..=(iova + len - 1) / PAGE);
            }
        }
        for (from, count, forget) in takes {
            let (first, last) = (from * PAGE, (from + count) * PAGE - 1);
            if forget {
                pages.forget(&[(first, last)]);
            } else {
                let expected: Vec<u64> = model.range(from..from + count).copied().collect();
                prop_assert_eq!(take(&pages, first, last), expected);
            }
            model.retain(|page| !(from..from + count).contains(page));
        }
        prop_assert_eq!(take(&pages, 0, u64::MAX), model.into_iter().collect::<Vec<_>>());
    }
}
