//! DMA logging: START, STOP, REPORT (F36).

use crate::lab::*;
use crate::mover::*;
use nix::errno::Errno;
use std::collections::BTreeSet;
use vfio_container::testing::{BASE, FakeClient, SIZE};

const IOVA: u64 = 0x10_0000;
const LEN: u64 = 0x1_0000;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

impl Side {
    /// The page size that is logged.
    fn log_with(&self, page_size: u64, count: u32, at: u64) -> Result<u64, Errno> {
        let control = words(&[page_size, count.into(), at]);
        let after = self.feature(SET_FEATURE | LOGGING_START, &control)?;
        Ok(u64::from_ne_bytes(after[..8].try_into().unwrap()))
    }

    fn log(&self, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64, Errno> {
        let bytes: Vec<u64> = ranges.iter().flat_map(|&(iova, len)| [iova, len]).collect();
        self.lab.client.put(RAM, &words(&bytes));
        self.log_with(page_size, u32::try_from(ranges.len()).unwrap(), RAM)
    }

    fn stop_log(&self) -> Result<(), Errno> {
        self.feature(SET_FEATURE | LOGGING_STOP, &[]).map(drop)
    }

    fn report_at(&self, iova: u64, len: u64, page_size: u64, at: u64) -> Result<(), Errno> {
        self.feature(GET_FEATURE | LOGGING_REPORT, &words(&[iova, len, page_size, at])).map(drop)
    }

    /// The bits that are set afterwards in a bitmap that was clear.
    fn report_with(&self, iova: u64, len: u64, page_size: u64) -> Result<Vec<u64>, Errno> {
        self.lab.client.put(BITMAP, &[0; BITMAP_LEN]);
        self.report_at(iova, len, page_size, BITMAP)?;
        let bytes = self.lab.client.get(BITMAP, BITMAP_LEN);
        let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        Ok((0..).zip(bits).filter_map(|(at, is_set)| is_set.then_some(at)).collect())
    }

    fn report(&self) -> Result<Vec<u64>, Errno> {
        self.report_with(IOVA, LEN, 0x1000)
    }
}

fn logged() -> Side {
    let side = Side::new();
    assert_eq!(side.log(0x1000, &[(IOVA, LEN)]), Ok(0x1000));
    side
}

#[test]
fn f36_what_is_nothing_to_log_is_refused_as_the_kernel_does() {
    let side = Side::new();
    for (what, page_size, ranges, errno) in [
        ("no range", 0x1000, vec![], Errno::EINVAL),
        ("unaligned address", 0x1000, vec![(0x800, 0x1000)], Errno::EINVAL),
        ("unaligned length", 0x1000, vec![(0x1000, 0x800)], Errno::EINVAL),
        ("not aligned to larger pages", 0x4000, vec![(0x1000, 0x4000)], Errno::EINVAL),
        ("no page size", 0, vec![(0, 0x1000)], Errno::EINVAL),
        ("pages of no power of two", 0x3000, vec![(0, 0x3000)], Errno::EINVAL),
        ("an empty range", 0x1000, vec![(0x1000, 0)], Errno::EINVAL),
        ("a range that wraps", 0x1000, vec![(!0xfff, 0x2000)], Errno::EOVERFLOW),
        ("a range whose end is beyond 64 bits", 0x1000, vec![(!0xfff, 0x1000)], Errno::EOVERFLOW),
        ("ranges that overlap", 0x1000, vec![(0x3000, 0x2000), (0x1000, 0x3000)], Errno::EINVAL),
        ("a range twice", 0x1000, vec![(0x1000, 0x1000), (0x1000, 0x1000)], Errno::EINVAL),
        ("too many ranges", 0x1000, (0..257).map(|at| (at * 0x2000, 0x1000)).collect(), Errno::E2BIG),
    ] {
        assert_eq!(side.log(page_size, &ranges), Err(errno), "{what}");
    }
    assert_eq!(side.log_with(0x1000, u32::MAX, RAM), Err(Errno::E2BIG));
    assert_eq!(side.log_with(0x1000, 1, 0x10), Err(Errno::EFAULT));
    assert_eq!(side.log_with(0x1000, 2, BASE + SIZE as u64 - 16), Err(Errno::EFAULT), "half the ranges");
    assert_eq!(side.feature(SET_FEATURE | LOGGING_START, &[0; 23]), Err(Errno::EINVAL), "argsz");
    assert_eq!(side.feature(GET_FEATURE | LOGGING_START, &[0; 24]), Err(Errno::EINVAL), "nothing to get");
    assert!(!side.mover.record.is_active(), "nothing is logged");
    assert_eq!(side.report(), Err(Errno::EINVAL));
    let most: Vec<_> = (0..256).map(|at| (at * 0x2000, 0x1000)).collect();
    assert_eq!(side.log(0x1000, &most), Ok(0x1000));
}

#[test]
fn f36_what_is_no_report_is_refused_as_the_kernel_does() {
    let side = logged();
    side.mover.record.mark(IOVA, 1);
    for (what, iova, len, page_size, at, errno) in [
        ("smaller pages", IOVA, LEN, 0x800, BITMAP, Errno::EINVAL),
        ("pages of no power of two", IOVA, LEN, 0x3000, BITMAP, Errno::EINVAL),
        ("no page size", IOVA, LEN, 0, BITMAP, Errno::EINVAL),
        ("unaligned address", IOVA + 1, LEN, 0x1000, BITMAP, Errno::EINVAL),
        ("unaligned length", IOVA, LEN - 1, 0x1000, BITMAP, Errno::EINVAL),
        ("nothing", IOVA, 0, 0x1000, BITMAP, Errno::EINVAL),
        ("a range that wraps", !0xfff, 0x2000, 0x1000, BITMAP, Errno::EOVERFLOW),
        ("a bitmap that is not there", IOVA, LEN, 0x1000, 0x10, Errno::EFAULT),
        ("half a bitmap", IOVA, LEN, 0x1000, BASE + SIZE as u64 - 4, Errno::EFAULT),
        ("a bitmap that wraps", 0, IOVA + LEN, 0x1000, u64::MAX - 8, Errno::EFAULT),
    ] {
        assert_eq!(side.report_at(iova, len, page_size, at), Err(errno), "{what}");
    }
    assert_eq!(side.feature(SET_FEATURE | LOGGING_REPORT, &[0; 32]), Err(Errno::EINVAL), "nothing to set");
    assert_eq!(side.feature(GET_FEATURE | LOGGING_REPORT, &[0; 31]), Err(Errno::EINVAL), "argsz");
    assert_eq!(side.report(), Ok(vec![0]), "no refusal takes a page");
}

#[test]
fn pages_are_logged_between_start_and_stop() {
    let side = Side::new();
    side.mover.record.mark(IOVA, 1);
    assert_eq!(side.report(), Err(Errno::EINVAL), "nothing is logged");
    assert_eq!(side.stop_log(), Ok(()), "what does not run can be stopped");
    side.log(0x1000, &[(IOVA, LEN)]).unwrap();
    assert_eq!(side.log(0x1000, &[(0, 0x1000)]), Err(Errno::EINVAL), "a second start");
    side.mover.record.mark(IOVA + 0x1fff, 2);
    assert_eq!(side.report(), Ok(vec![1, 2]));
    assert_eq!(side.report(), Ok(vec![]), "once for every time that it is written");
    side.mover.record.mark(IOVA + 0x3000, 1);
    side.stop_log().unwrap();
    assert!(!side.mover.record.is_active());
    assert_eq!(side.report(), Err(Errno::EINVAL));
    side.log(0x1000, &[(IOVA, LEN)]).unwrap();
    assert_eq!(side.report(), Ok(vec![]), "a new log is empty");
}

#[test]
fn only_what_is_in_the_ranges_is_logged() {
    let side = Side::new();
    side.log(0x1000, &[(IOVA + 0x8000, 0x2000), (IOVA + 0x2000, 0x1000), (IOVA + 0x3000, 0x1000)]).unwrap();
    side.mover.record.mark(IOVA, LEN);
    assert_eq!(side.report(), Ok(vec![2, 3, 8, 9]));
    side.mover.record.mark(IOVA + 0x4000, 0x4000);
    side.mover.record.mark(0, IOVA);
    side.mover.record.mark(IOVA + LEN, u64::MAX);
    assert_eq!(side.report(), Ok(vec![]));
}

#[test]
fn bits_are_set_and_none_is_cleared() {
    let side = logged();
    side.mover.record.mark(IOVA + 0x1000, 1);
    side.lab.client.put(BITMAP, &[0x80; BITMAP_LEN]);
    side.report_at(IOVA, LEN, 0x1000, BITMAP).unwrap();
    let mut expected = [0x80; BITMAP_LEN];
    expected[0] |= 2;
    assert_eq!(side.lab.client.get(BITMAP, BITMAP_LEN), expected);
}

#[test]
fn a_bit_may_stand_for_more_than_a_page() {
    let side = logged();
    for page in [1, 4, 5, 15] {
        side.mover.record.mark(IOVA + page * 0x1000, 1);
    }
    assert_eq!(side.report_with(IOVA, LEN, 0x4000), Ok(vec![0, 1, 3]));
    side.mover.record.mark(IOVA, LEN);
    assert_eq!(side.report_with(IOVA + 0x3000, 0x2000, 0x1_0000), Ok(vec![0]));
    let others: Vec<u64> = (0..16).filter(|page| !(3..5).contains(page)).collect();
    assert_eq!(side.report(), Ok(others), "what lies beyond was not told");
}

#[test]
fn a_report_far_from_the_last_one_writes_only_what_it_must() {
    let side = Side::new();
    side.log(0x1000, &[(0, 1 << 47)]).unwrap();
    side.mover.record.mark(0x1000, 1);
    side.mover.record.mark((1 << 32) - 0x1000, 0x2000);
    let bytes = (1usize << 20) / 8;
    side.lab.client.put(RAM, &vec![0; bytes + 8]);
    side.report_at(0, 1 << 47, 0x1000, RAM).unwrap();
    let bitmap = side.lab.client.get(RAM, bytes + 8);
    let set: Vec<usize> = (0..bitmap.len()).filter(|&at| bitmap[at] != 0).collect();
    assert_eq!(set, [0, bytes - 1, bytes]);
    assert_eq!((bitmap[0], bitmap[bytes - 1], bitmap[bytes]), (2, 0x80, 1));
}

#[test]
fn m3_only_the_address_space_that_gave_the_memory_logs() {
    let side = logged();
    let heir = FakeClient::new(2);
    for (flags, len) in
        [(SET_FEATURE | LOGGING_START, 24), (SET_FEATURE | LOGGING_STOP, 0), (GET_FEATURE | LOGGING_REPORT, 32)]
    {
        assert_eq!(side.feature_of(&heir, flags, &vec![0; len]), Err(Errno::EPERM));
    }
    assert_eq!(side.report(), Ok(vec![]), "it is logged still");
}

#[test]
fn a_log_ends_with_the_last_file_of_its_device() {
    let side = logged();
    side.reset();
    assert!(side.mover.record.is_active(), "a reset does not end it");
    side.close();
    assert!(!side.mover.record.is_active());
}

#[test]
fn a_log_and_the_pages_of_the_container_are_told_apart() {
    let side = Side::new();
    side.lab.map(READ | WRITE, RAM, IOVA, LEN).unwrap();
    let space = side.lab.group.space_for(&side.lab.client).unwrap();
    let _writer = space.writers().join(&side.mover.record);
    side.lab.dirty_pages(START).unwrap();
    side.lab.client.put(RAM, &words(&[IOVA, LEN]));
    side.log_with(0x1000, 1, RAM).unwrap();
    side.mover.record.mark(IOVA + 0x5000, 1);
    assert_eq!(side.lab.get_dirty(IOVA, LEN), Ok(vec![5]));
    assert_eq!(side.report(), Ok(vec![5]));
    side.mover.record.mark(IOVA + 0x6000, 1);
    assert_eq!(side.lab.unmap_dirty(IOVA, LEN), Ok((LEN, vec![6])));
    assert_eq!(side.report(), Ok(vec![6]), "what was unmapped is told too");
}

/// Many threads mark at random while one reports: in the end every page was reported after it was last marked.
#[test]
fn f36_every_page_is_reported_after_it_was_written() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    const PAGES: u64 = 64;
    let side = Side::new();
    side.log(0x1000, &[(0, PAGES * 0x1000)]).unwrap();
    let memory: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut copy = vec![0; memory.len()];
    let take = |copy: &mut Vec<u64>| {
        for page in side.report_with(0, PAGES * 0x1000, 0x1000).unwrap() {
            let page = usize::try_from(page).unwrap();
            copy[page] = memory[page].load(Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for seed in [1u64, 2] {
            let (side, memory, stop, writes) = (&side, &memory, &stop, &writes);
            scope.spawn(move || {
                let mut random = seed;
                while !stop.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let page = (random >> 33) % PAGES;
                    memory[usize::try_from(page).unwrap()].fetch_add(1, Ordering::SeqCst);
                    side.mover.record.mark(page * 0x1000, 1);
                    writes.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
        }
        for round in 1..=200u64 {
            while writes.load(Ordering::Relaxed) < round * 8 {
                std::thread::yield_now();
            }
            take(&mut copy);
        }
        stop.store(true, Ordering::Relaxed);
    });
    take(&mut copy);
    let now: Vec<u64> = memory.iter().map(|page| page.load(Ordering::SeqCst)).collect();
    assert_eq!(copy, now);
    let distinct: BTreeSet<u64> = now.into_iter().collect();
    assert!(distinct.len() > 1, "pages were written");
}
