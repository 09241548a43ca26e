//! Removals and additions in one step.

use crate::memory::{RW, Window, shared};
use crate::{PAGE, reader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_mdev_api::dma::{AddressSpace, Limits, Permissions, Region, SharedMemory, Unmapped};

/// Pages `0..count` at once, each with `mark` in it.
fn pages(windows: &[Arc<Window>], mark: usize, count: u64) -> Vec<Region> {
    (0..count).map(|n| shared(&windows[mark], n * PAGE, PAGE, 0, RW)).collect()
}

fn marked(count: u8) -> Vec<Arc<Window>> {
    let windows = (0..count).map(|mark| {
        let window = Window::new(0x1000);
        window.slice().subslice(0, 1).unwrap().copy_from(&[mark]);
        window
    });
    windows.collect()
}

#[test]
fn a_page_that_is_mapped_before_and_after_never_faults() {
    const PAGES: u64 = 64;
    let (windows, space) = (marked(2), AddressSpace::new(Limits::default()));
    space.map_all(pages(&windows, 0, PAGES)).unwrap();
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut reader = reader(&space);
            while !done.load(Ordering::Relaxed) {
                let burst = reader.enter();
                let view = burst.view();
                let mut found = [2];
                view.read(0, &mut found).unwrap();
                for page in 1..PAGES {
                    let mut other = [2];
                    view.read(page * PAGE, &mut other).unwrap();
                    assert_eq!(found, other, "a burst sees one version of all pages");
                }
                begun.store(true, Ordering::Relaxed);
            }
        });
        while !begun.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        for round in 1..2000 {
            let replaced = space.replace(&[(0, PAGES * PAGE - 1)], pages(&windows, round % 2, PAGES)).unwrap();
            assert_eq!(replaced, Unmapped { bytes: PAGES * PAGE, regions: 64, revoked: false });
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn u1_when_a_replacement_returned_nobody_uses_what_was_replaced() {
    let (windows, space) = (marked(2), AddressSpace::new(Limits::default()));
    space.map_all(pages(&windows, 0, 1)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    std::thread::scope(|scope| {
        let before = space.generation();
        let replacing = scope.spawn(|| space.replace(&[(0, 0)], pages(&windows, 1, 1)));
        while space.generation() == before {
            std::thread::yield_now();
        }
        assert!(!replacing.is_finished());
        burst.view().write(0, &[7]).unwrap();
        drop(burst);
        replacing.join().unwrap().unwrap();
    });
    assert_eq!((windows[0].bytes(0), windows[1].bytes(0)), ([7], [1]), "the burst was on what it had found");
    let burst = reader.enter();
    let mut found = [0];
    burst.view().read(0, &mut found).unwrap();
    assert_eq!(found, [1]);
}

#[test]
fn one_version_is_published_whatever_is_replaced() {
    let (windows, space) = (marked(1), AddressSpace::new(Limits::default()));
    space.map_all(pages(&windows, 0, 8)).unwrap();
    let before = space.generation();
    let ranges = [(0, 0), (3 * PAGE, 4 * PAGE), (7 * PAGE, u64::MAX)];
    let read_only = Region { permissions: Permissions::READ, ..shared(&windows[0], 3 * PAGE, PAGE, 0, RW) };
    assert_eq!(space.replace(&ranges, vec![read_only]).unwrap().regions, 4);
    assert_eq!(space.generation(), before + 1);
    let left: Vec<_> = space.regions().iter().map(|region| region.iova / PAGE).collect();
    assert_eq!(left, [1, 2, 3, 5, 6]);
    assert_eq!(space.unmap_ranges(&[(PAGE, 2 * PAGE), (2 * PAGE, 3 * PAGE)]).regions, 3, "ranges that share a region");
    assert_eq!(space.generation(), before + 2);
}

#[test]
fn a_replacement_that_is_refused_changes_nothing() {
    let (windows, space) = (marked(2), AddressSpace::new(Limits::default()));
    space.map_all(pages(&windows, 0, 4)).unwrap();
    let before = space.generation();
    let overlaps = pages(&windows, 1, 3);
    assert!(space.replace(&[(0, PAGE)], overlaps).is_err(), "page 2 is in the way");
    assert_eq!(space.generation(), before);
    let mut reader = reader(&space);
    for page in 0..4 {
        let mut found = [9];
        reader.enter().view().read(page * PAGE, &mut found).unwrap();
        assert_eq!(found, [0]);
    }
}
