//! The pages that are reported against the pages that changed.

use crate::lab::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use vfio_container::testing::FakeClient;

const RW: u32 = READ | WRITE;
const PAGES: u64 = 48;
const PAGE: u64 = 0x1000;
const LEN: usize = 0x1000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One thread, so every page is known: those reported are those written since, of what is mapped.
    #[test]
    fn the_pages_reported_are_the_pages_written(
        steps in prop::collection::vec((0u8..8, 0..PAGES, 1u64..12), 1..80),
    ) {
        let lab = Lab::set_up(FakeClient::with_stretches(1, 0x3000), 3);
        let mut devices = [Device::of(&lab), Device::of(&lab)];
        lab.dirty_pages(START).unwrap();
        let mut maps: Vec<(u64, u64)> = Vec::new();
        let mut dirty = BTreeSet::new();
        for (number, (step, page, pages)) in (0u8..).zip(steps) {
            let (iova, size) = (page * PAGE, pages * PAGE);
            let touched = |&(at, len): &(u64, u64)| at < page + pages && page < at + len;
            match step {
                0 | 1 => {
                    if lab.map(RW, RAM + iova, iova, size).is_ok() {
                        maps.push((page, pages));
                    }
                }
                2..5 => {
                    let data = vec![number; usize::try_from(size - PAGE + 2).unwrap()];
                    if devices[usize::from(step % 2)].write(iova + PAGE - 1, &data) {
                        dirty.extend(page..=page + pages);
                    }
                }
                _ => {
                    let cut = |map: &&(u64, u64)| touched(map) && (map.0 < page || map.0 + map.1 > page + pages);
                    let is_cut = maps.iter().any(|map| cut(&map));
                    let expected: Vec<u64> =
                        dirty.range(page..page + pages).map(|at| at - page).collect();
                    let got = if step == 5 {
                        lab.unmap_dirty(iova, size).map(|(_, bits)| bits)
                    } else {
                        lab.get_dirty(iova, size)
                    };
                    prop_assert_eq!(got.is_err(), is_cut);
                    if let Ok(got) = got {
                        prop_assert_eq!(got, expected);
                        dirty.retain(|at| !(page..page + pages).contains(at));
                        if step == 5 {
                            maps.retain(|map| !touched(map));
                        }
                    }
                }
            }
        }
    }
}

/// A client that copies its memory while devices write to it, as a migration does, and takes memory away from them and
/// gives it back meanwhile. The pages of its copy that are wrong: at an unmap, or in the end.
fn copy_while_written(marks: bool) -> usize {
    const BLOCK: u64 = 8;
    let lab = Lab::with_iommu(3);
    let blocks = PAGES / BLOCK;
    let map = |block: u64| {
        lab.map(RW, RAM + block * BLOCK * PAGE, block * BLOCK * PAGE, BLOCK * PAGE).unwrap();
    };
    (0..blocks).for_each(map);
    let space = lab.group.space_for(&lab.client).unwrap();
    let (stop, writes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut wrong = 0;
    let mut copy: Vec<Vec<u8>> = Vec::new();
    std::thread::scope(|scope| {
        for seed in [1, 2] {
            let (stop, writes, space) = (&stop, &writes, &space);
            scope.spawn(move || {
                let mut device = Device::in_space(space);
                device.marks = marks;
                let mut random: u64 = seed;
                while !stop.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    if device.write((random >> 33) % (PAGES * PAGE - 8), &random.to_ne_bytes()[..1]) {
                        writes.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::yield_now();
                }
            });
        }
        let page = |at: u64| lab.client.get(RAM + at * PAGE, LEN);
        lab.dirty_pages(START).unwrap();
        copy = (0..PAGES).map(page).collect();
        for round in 0..120 {
            let before = writes.load(Ordering::Relaxed);
            while writes.load(Ordering::Relaxed) < before + 8 {
                std::thread::yield_now();
            }
            if round % 3 == 0 {
                lab.get_dirty(0, PAGES * PAGE)
                    .unwrap()
                    .into_iter()
                    .for_each(|at| copy[usize::try_from(at).unwrap()] = page(at));
                continue;
            }
            let first = round % blocks * BLOCK;
            let (bytes, dirty) = lab.unmap_dirty(first * PAGE, BLOCK * PAGE).unwrap();
            assert_eq!(bytes, BLOCK * PAGE);
            dirty.into_iter().for_each(|at| copy[usize::try_from(first + at).unwrap()] = page(first + at));
            // Nobody writes it now: the copy is right, or a page was lost.
            wrong += (first..first + BLOCK).filter(|&at| copy[usize::try_from(at).unwrap()] != page(at)).count();
            map(first / BLOCK);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let page = |at: u64| lab.client.get(RAM + at * PAGE, LEN);
    lab.get_dirty(0, PAGES * PAGE).unwrap().into_iter().for_each(|at| copy[usize::try_from(at).unwrap()] = page(at));
    wrong + (0..PAGES).filter(|&at| copy[usize::try_from(at).unwrap()] != page(at)).count()
}

#[test]
fn no_page_is_lost_while_devices_write_and_memory_comes_and_goes() {
    assert_eq!(copy_while_written(true), 0);
}

#[test]
fn a_device_that_does_not_say_what_it_writes_is_found_out() {
    assert!(copy_while_written(false) > 0);
}
