//! Against lists of mappings: what is mapped where, and what every call answers.

use super::lab::*;
use nix::errno::Errno;
use proptest::prelude::*;
use vfio_container::testing::FakeClient;

/// Pages that calls name; allowed ranges are among them.
const PAGES: u64 = 48;

#[derive(Debug, Clone)]
enum Step {
    Map { ioas: usize, flags: u32, page: u64, pages: u64 },
    Copy { from: (usize, u64), to: (usize, u64), flags: u32, pages: u64 },
    Unmap { ioas: usize, page: u64, pages: u64 },
    UnmapAll { ioas: usize },
    Allow { ioas: usize, choice: usize },
}

/// Allowed ranges, in pages, from the first to before the last.
const ALLOWED: [&[(u64, u64)]; 4] = [&[], &[(8, 16)], &[(20, 24), (4, 8)], &[(30, 31)]];

fn step() -> impl Strategy<Value = Step> {
    let (ioas, page, pages) = (|| 0usize..2, || 0..PAGES, || 1u64..6);
    let flags = || prop_oneof![4 => Just(FIXED | RW), 2 => Just(RW), 1 => Just(FIXED | READ), 1 => Just(READ)];
    prop_oneof![
        4 => (ioas(), flags(), page(), pages()).prop_map(|(ioas, flags, page, pages)| Step::Map { ioas, flags, page, pages }),
        3 => ((ioas(), page()), (ioas(), page()), flags(), pages())
            .prop_map(|(from, to, flags, pages)| Step::Copy { from, to, flags, pages }),
        3 => (ioas(), page(), pages()).prop_map(|(ioas, page, pages)| Step::Unmap { ioas, page, pages }),
        1 => ioas().prop_map(|ioas| Step::UnmapAll { ioas }),
        1 => (ioas(), 0..ALLOWED.len()).prop_map(|(ioas, choice)| Step::Allow { ioas, choice }),
    ]
}

/// A mapping, in pages.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    page: u64,
    pages: u64,
    writable: bool,
}

#[derive(Debug, Default)]
struct Model {
    mappings: Vec<Mapping>,
    allowed: &'static [(u64, u64)],
}

impl Model {
    fn touching(&self, page: u64, pages: u64) -> Vec<Mapping> {
        let touches = |mapping: &&Mapping| mapping.page < page + pages && page < mapping.page + mapping.pages;
        let mut touching: Vec<_> = self.mappings.iter().filter(touches).copied().collect();
        touching.sort_by_key(|mapping| mapping.page);
        touching
    }

    /// Whether `pages` may be put at `page` when the place is not the caller's choice.
    fn is_choice(&self, page: u64, pages: u64, align: u64) -> bool {
        let allowed = self.allowed.is_empty() || self.allowed.iter().any(|&(a, b)| a <= page && page + pages <= b);
        page != 0 && page.is_multiple_of(align) && allowed && self.touching(page, pages).is_empty()
    }

    fn add(&mut self, page: u64, mappings: &[(u64, bool)]) {
        let mut at = page;
        for &(pages, writable) in mappings {
            self.mappings.push(Mapping { page: at, pages, writable });
            at += pages;
        }
    }

    /// Checks where something was put, or that it could not be, and puts it there.
    fn placed(&mut self, flags: u32, page: u64, align: u64, answer: Result<u64, Errno>, mappings: &[(u64, bool)]) {
        let pages = mappings.iter().map(|mapping| mapping.0).sum();
        let expected = if flags & FIXED == 0 {
            match answer {
                Ok(iova) => {
                    assert!(self.is_choice(iova / PAGE, pages, align), "{:#x} in {self:?}", iova / PAGE);
                    answer
                }
                Err(_) => {
                    let bounded = self.allowed.iter().flat_map(|&(a, b)| a..b);
                    assert!(!self.allowed.is_empty(), "anywhere is always room");
                    assert_eq!(bounded.into_iter().find(|&page| self.is_choice(page, pages, align)), None, "{self:?}");
                    Err(Errno::ENOSPC)
                }
            }
        } else if self.touching(page, pages).is_empty() {
            Ok(page * PAGE)
        } else {
            Err(Errno::EEXIST)
        };
        assert_eq!(answer, expected);
        if let Ok(iova) = answer {
            self.add(iova / PAGE, mappings);
        }
    }

    fn unmap(&mut self, page: u64, pages: u64) -> Result<u64, Errno> {
        let touched = self.touching(page, pages);
        let whole = touched.iter().all(|mapping| mapping.page >= page && mapping.page + mapping.pages <= page + pages);
        if touched.is_empty() || !whole {
            return Err(Errno::ENOENT);
        }
        self.mappings.retain(|mapping| !touched.iter().any(|gone| gone.page == mapping.page));
        Ok(touched.iter().map(|mapping| mapping.pages * PAGE).sum())
    }

    /// Length and permission of each piece of what is mapped.
    fn pieces(&self, page: u64, pages: u64) -> Result<Vec<(u64, bool)>, Errno> {
        let mut at = page;
        let mut pieces = Vec::new();
        for mapping in self.touching(page, pages) {
            if mapping.page > at {
                return Err(Errno::ENOENT);
            }
            let end = (mapping.page + mapping.pages).min(page + pages);
            pieces.push((end - at, mapping.writable));
            at = end;
        }
        if at == page + pages { Ok(pieces) } else { Err(Errno::ENOENT) }
    }
}

/// As aligned as it is long, but no more than its memory.
fn alignment(of: u64, pages: u64) -> u64 {
    let own = if of == 0 { u64::MAX } else { 1 << (of.trailing_zeros() - 12) };
    pages.next_power_of_two().min(own)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_ioas_does_what_a_list_of_mappings_does(steps in proptest::collection::vec(step(), 1..80)) {
        let lab = Lab::of(FakeClient::with_stretches(1, 0x2000));
        let ids = [lab.alloc(), lab.alloc()];
        let mut models = [Model::default(), Model::default()];
        for step in steps {
            match step {
                Step::Map { ioas, flags, page, pages } => {
                    let va = RAM + page % 8 * PAGE;
                    let answer = lab.map(ids[ioas], flags, va, page * PAGE, pages * PAGE);
                    let one = [(pages, flags & WRITE != 0)];
                    models[ioas].placed(flags, page, alignment(va, pages), answer, &one);
                }
                Step::Copy { from, to, flags, pages } => {
                    let source = (ids[from.0], from.1 * PAGE);
                    let answer = lab.copy(flags, source, (ids[to.0], to.1 * PAGE), pages * PAGE);
                    let writable = flags & WRITE != 0;
                    match models[from.0].pieces(from.1, pages) {
                        Err(errno) => assert_eq!(answer, Err(errno)),
                        Ok(pieces) => {
                            let free = flags & FIXED == 0 || models[to.0].touching(to.1, pages).is_empty();
                            if writable && pieces.iter().any(|piece| !piece.1) && free {
                                // A place that was not found is told before or after: either is right.
                                assert!(matches!(answer, Err(Errno::EPERM | Errno::ENOSPC)), "{answer:?}");
                                continue;
                            }
                            let pieces: Vec<_> = pieces.iter().map(|&(pages, _)| (pages, writable)).collect();
                            models[to.0].placed(flags, to.1, alignment(source.1, pages), answer, &pieces);
                        }
                    }
                }
                Step::Unmap { ioas, page, pages } => {
                    assert_eq!(lab.unmap(ids[ioas], page * PAGE, pages * PAGE), models[ioas].unmap(page, pages));
                }
                Step::UnmapAll { ioas } => {
                    let all: u64 = models[ioas].mappings.drain(..).map(|mapping| mapping.pages * PAGE).sum();
                    assert_eq!(lab.unmap_all(ids[ioas]), all);
                }
                Step::Allow { ioas, choice } => {
                    let ranges: Vec<_> = ALLOWED[choice].iter().map(|&(a, b)| (a * PAGE, b * PAGE - 1)).collect();
                    lab.allow(ids[ioas], &ranges).unwrap();
                    models[ioas].allowed = ALLOWED[choice];
                }
            }
        }
        for (id, model) in ids.into_iter().zip(models) {
            for mapping in &model.mappings {
                assert_eq!(lab.unmap(id, mapping.page * PAGE, mapping.pages * PAGE), Ok(mapping.pages * PAGE));
            }
            assert_eq!(lab.unmap_all(id), 0);
        }
        assert_eq!(lab.client.holders(), 0, "nothing holds on to the client's memory");
    }

    #[test]
    fn no_argument_makes_a_call_on_an_iommufd_panic(nr in 0u32..0x20, arg in any::<u64>(), bytes in any::<[u8; 64]>()) {
        let lab = Lab::new();
        lab.alloc();
        lab.client.put(ARG, &bytes);
        for arg in [arg, ARG] {
            let _ = lab.call(0x3b80 + nr, arg);
        }
    }
}
