//! The table against a model nobody can get wrong: one entry for every page.

use crate::memory::{RW, Window, shared};
use crate::{PAGE, reader};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use virtio_mdev_api::dma::{AddressSpace, Limits, Lookup, Permissions, Piece, SharedMemory};

/// Pages of the window, and of each of two stretches of the space: at its beginning and at its very end.
const PAGES: u64 = 600;
const TOP: u64 = u64::MAX - PAGES * PAGE + 1;

#[derive(Debug, Clone)]
enum Step {
    Map { at: u64, pages: u64, offset: u64 },
    MapMany { at: u64, each: u64, count: u64 },
    Unmap { first: u64, pages: u64 },
    UnmapWhole { first: u64, pages: u64 },
    Replace { first: u64, pages: u64, at: u64, each: u64, count: u64 },
}

fn address() -> impl Strategy<Value = u64> {
    (0..PAGES, any::<bool>()).prop_map(|(page, top)| page * PAGE + if top { TOP } else { 0 })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (address(), 1..4u64, 0..PAGES).prop_map(|(at, pages, offset)| Step::Map { at, pages, offset }),
        2 => (address(), 1..3u64, 1..200u64).prop_map(|(at, each, count)| Step::MapMany { at, each, count }),
        3 => (address(), 1..60u64).prop_map(|(first, pages)| Step::Unmap { first, pages }),
        2 => (address(), 1..60u64).prop_map(|(first, pages)| Step::UnmapWhole { first, pages }),
        3 => (address(), 1..60u64, -30..30i64, 1..3u64, 1..30u64).prop_map(|(first, pages, shift, each, count)| {
            Step::Replace { first, pages, at: first.saturating_add_signed(shift * 4096), each, count }
        }),
    ]
}

/// By page: where its region begins, how long it is, and the page's offset in the window.
type Model = BTreeMap<u64, (u64, u64, u64)>;

fn last_of(first: u64, pages: u64) -> u64 {
    first.saturating_add(pages * PAGE - 1)
}

/// Whether the region can be added, and if so adds it.
fn add(model: &mut Model, at: u64, pages: u64, offset: u64) -> bool {
    let fits = at.checked_add(pages * PAGE - 1).is_some() && offset + pages <= PAGES;
    if !fits || (0..pages).any(|n| model.contains_key(&(at + n * PAGE))) {
        return false;
    }
    for n in 0..pages {
        model.insert(at + n * PAGE, (at, pages * PAGE, (offset + n) * PAGE));
    }
    true
}

fn touched(model: &Model, first: u64, last: u64) -> Vec<(u64, u64)> {
    let mut regions: Vec<_> = model.range(first..=last).map(|(_, &(iova, len, _))| (iova, len)).collect();
    regions.dedup();
    regions
}

fn drop_regions(model: &mut Model, doomed: &[(u64, u64)]) {
    model.retain(|_, (iova, _, _)| !doomed.iter().any(|(other, _)| other == iova));
}

fn run(space: &Arc<AddressSpace>, window: &Arc<Window>, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    let region = |at, pages, offset: u64| shared(window, at, pages * PAGE, usize::try_from(offset * PAGE).unwrap(), RW);
    match *step {
        Step::Map { at, pages, offset } => {
            let expected = add(model, at, pages, offset);
            prop_assert_eq!(space.map(region(at, pages, offset)).is_ok(), expected);
        }
        Step::MapMany { at, each, count } => {
            let mut changed = model.clone();
            let wraps = at.checked_add(count * each * PAGE - 1).is_none();
            let fits = !wraps && (0..count).all(|n| add(&mut changed, at + n * each * PAGE, each, n));
            let regions = (0..count).map(|n| region(at.wrapping_add(n * each * PAGE), each, n)).collect();
            if !wraps {
                prop_assert_eq!(space.map_all(regions).is_ok(), fits);
            }
            if fits {
                *model = changed;
            }
        }
        Step::Replace { first, pages, at, each, count } => {
            let Some(_) = at.checked_add(count * each * PAGE - 1) else { return Ok(()) };
            let (last, mut changed) = (last_of(first, pages), model.clone());
            drop_regions(&mut changed, &touched(model, first, last));
            let fits = (0..count).all(|n| add(&mut changed, at + n * each * PAGE, each, n));
            let regions = (0..count).map(|n| region(at + n * each * PAGE, each, n)).collect();
            prop_assert_eq!(space.replace(&[(first, last)], regions).is_ok(), fits);
            if fits {
                *model = changed;
            }
        }
        Step::Unmap { first, pages } => {
            let last = last_of(first, pages);
            let doomed = touched(model, first, last);
            let unmapped = space.unmap(first, last);
            prop_assert_eq!(unmapped.regions, doomed.len());
            prop_assert_eq!(unmapped.bytes, doomed.iter().map(|(_, len)| len).sum::<u64>());
            drop_regions(model, &doomed);
        }
        Step::UnmapWhole { first, pages } => {
            let last = last_of(first, pages);
            let doomed = touched(model, first, last);
            let whole = doomed.iter().all(|(iova, len)| *iova >= first && iova + (len - 1) <= last);
            prop_assert_eq!(space.unmap_whole(first, last).is_ok(), whole);
            if whole {
                drop_regions(model, &doomed);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_table_is_what_the_model_says(steps in prop::collection::vec(step(), 1..80)) {
        let window = Window::new(usize::try_from(PAGES * PAGE).unwrap());
        let base = window.slice().ptr_guard().as_ptr().addr();
        let space = AddressSpace::new(Limits::default());
        let mut reader = reader(&space);
        let mut model = Model::new();
        for step in &steps {
            run(&space, &window, &mut model, step)?;
        }
        let listed: Vec<_> = space.regions().iter().map(|region| (region.iova, region.len)).collect();
        prop_assert_eq!(space.highest(), space.regions().last().map(|region| region.iova + (region.len - 1)));
        prop_assert_eq!(listed, touched(&model, 0, u64::MAX));
        let burst = reader.enter();
        let memory = burst.view();
        for start in [0, TOP] {
            for page in 0..PAGES {
                let iova = start + page * PAGE;
                match (memory.lookup(iova + 7, u64::MAX, Permissions::READ), model.get(&iova)) {
                    (Lookup::Fault, None) => {}
                    (Lookup::Hit(Piece::Local(slice)), Some((first, len, offset))) => {
                        let found = slice.ptr_guard().as_ptr().addr() - base;
                        prop_assert_eq!(u64::try_from(found).unwrap(), offset + 7);
                        prop_assert_eq!(slice.len() as u64, first + (len - 1) - (iova + 7) + 1);
                    }
                    (found, expected) => prop_assert!(false, "{:?} at {:#x}, expected {:?}", found, iova, expected),
                }
            }
        }
    }
}
