//! Bits for pages, set by many, cleared by one.

use super::{DirtyError, DirtySink, MAX_PAGES, word};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

/// Words of a chunk: 32,768 pages.
const WORDS: u64 = 512;
type Chunk = [AtomicU64; 512];

/// One bit for each page of a range. Memory is used for the parts that were ever marked only.
pub(super) struct Bitmap {
    first: u64,
    last: u64,
    /// Log2 of the page size.
    shift: u32,
    chunks: Box<[OnceLock<Box<Chunk>>]>,
}

impl Bitmap {
    pub fn new(first: u64, last: u64, page_size: u64) -> Result<Self, DirtyError> {
        if !page_size.is_power_of_two() {
            return Err(DirtyError::PageSize(page_size));
        }
        if !whole_pages(first, last, page_size) {
            return Err(DirtyError::Range { first, last, page_size });
        }
        let shift = page_size.trailing_zeros();
        let pages = ((last - first) >> shift).saturating_add(1);
        if pages > MAX_PAGES {
            return Err(DirtyError::TooLarge(pages));
        }
        let chunks = pages.div_ceil(64 * WORDS);
        Ok(Self { first, last, shift, chunks: (0..chunks).map(|_| OnceLock::new()).collect() })
    }

    /// Calls `each(word, mask)` for the words of the bits `from..=to`.
    fn words(from: u64, to: u64, mut each: impl FnMut(u64, u64)) {
        for word in from / 64..=to / 64 {
            let low = if word == from / 64 { u64::MAX << (from % 64) } else { u64::MAX };
            let high = if word == to / 64 { u64::MAX >> (63 - to % 64) } else { u64::MAX };
            each(word, low & high);
        }
    }

    fn chunk(&self, word: u64) -> Option<&OnceLock<Box<Chunk>>> {
        self.chunks.get(usize::try_from(word / WORDS).ok()?)
    }

    pub fn take(&self, first: u64, last: u64) -> Result<Vec<u64>, DirtyError> {
        let page_size = 1u64 << self.shift;
        if !whole_pages(first, last, page_size) {
            return Err(DirtyError::Range { first, last, page_size });
        }
        if first < self.first || last > self.last {
            return Err(DirtyError::NotRecorded { first, last });
        }
        let (from, to) = ((first - self.first) >> self.shift, (last - self.first) >> self.shift);
        let words = usize::try_from((to - from) / 64 + 1).map_err(|_| DirtyError::TooLarge(to - from))?;
        let mut taken = vec![0u64; words];
        Self::words(from, to, |word, mask| {
            let Some(chunk) = self.chunk(word).and_then(OnceLock::get) else { return };
            let bits = word::take(&chunk[index(word)], mask);
            if bits == 0 {
                return;
            }
            // A word straddles two of the result unless the range begins with a word's first page.
            let (low, high) = if word * 64 >= from {
                let at = word * 64 - from;
                (Some((at / 64, bits << (at % 64))), (at % 64 != 0).then(|| (at / 64 + 1, bits >> (64 - at % 64))))
            } else {
                (Some((0, bits >> (from - word * 64))), None)
            };
            for (at, bits) in low.into_iter().chain(high) {
                if let Some(out) = usize::try_from(at).ok().and_then(|at| taken.get_mut(at)) {
                    *out |= bits;
                }
            }
        });
        word::taken();
        Ok(taken)
    }
}

impl DirtySink for Bitmap {
    fn mark(&self, iova: u64, len: u64) {
        let last = iova.saturating_add(len - 1).min(self.last);
        let iova = iova.max(self.first);
        if iova > last {
            return;
        }
        let (from, to) = ((iova - self.first) >> self.shift, (last - self.first) >> self.shift);
        Self::words(from, to, |word, mask| {
            let Some(chunk) = self.chunk(word) else { return };
            let chunk = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; 512]));
            word::set(&chunk[index(word)], mask);
        });
    }
}

/// Where `word` is in its chunk.
fn index(word: u64) -> usize {
    usize::try_from(word % WORDS).unwrap_or(0)
}

fn whole_pages(first: u64, last: u64, page_size: u64) -> bool {
    let mask = page_size - 1;
    first <= last && first & mask == 0 && last & mask == mask
}
