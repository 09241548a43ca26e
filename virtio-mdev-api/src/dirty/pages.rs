//! Written pages of an address space, wherever they are.

use super::{DirtyError, DirtySink, word};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;

/// Words of a chunk: one cache line, 512 pages.
const WORDS: u64 = 8;
const CHUNK: u64 = 64 * WORDS;
type Chunk = [AtomicU64; 8];

/// Which of 64 neighbouring pages were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyWord {
    /// The number of the first page, a multiple of 64: its address divided by the size of a page.
    pub page: u64,
    /// A bit for each page, the first in the lowest.
    pub bits: u64,
}

impl DirtyWord {
    /// The numbers of the pages that were written.
    pub fn pages(self) -> impl Iterator<Item = u64> {
        (0..64).filter(move |at| self.bits >> at & 1 != 0).map(move |at| self.page + at)
    }
}

/// The pages that were written, one bit each, set by many and taken by one.
///
/// Memory is used for what was written and not forgotten since, and collecting takes time for that alone, however large the
/// address space is. Sources share a lock that is held for a chunk of 512 pages when the first of them is written, and
/// while pages are forgotten.
pub struct DirtyPages {
    /// Log2 of the page size.
    shift: u32,
    /// By the number of the first page, divided by [`CHUNK`].
    chunks: RwLock<BTreeMap<u64, Box<Chunk>>>,
}

impl DirtyPages {
    /// A record of pages of `page_size` bytes, all clean.
    pub fn new(page_size: u64) -> Result<Self, DirtyError> {
        if !page_size.is_power_of_two() {
            return Err(DirtyError::PageSize(page_size));
        }
        Ok(Self { shift: page_size.trailing_zeros(), chunks: RwLock::default() })
    }

    /// Which pages of `first..=last` were written since they were last taken, in order, and clears that.
    pub fn take(&self, first: u64, last: u64) -> Vec<DirtyWord> {
        let mut taken = Vec::new();
        if first > last {
            return taken;
        }
        let (from, to) = (first >> self.shift, last >> self.shift);
        for (&number, chunk) in self.chunks.read().range(from / CHUNK..=to / CHUNK) {
            for (page, word) in words_of(number).zip(chunk.iter()) {
                let bits = word::take(word, mask(page, from, to));
                if bits != 0 {
                    taken.push(DirtyWord { page, bits });
                }
            }
        }
        word::taken();
        taken
    }

    /// The pages of `ranges` (first and last address each) are no more: nothing is kept of them.
    pub fn forget(&self, ranges: &[(u64, u64)]) {
        let mut chunks = self.chunks.write();
        for (first, last) in ranges.iter().filter(|(first, last)| first <= last) {
            let (from, to) = (first >> self.shift, last >> self.shift);
            let touched: Vec<u64> = chunks.range(from / CHUNK..=to / CHUNK).map(|(&number, _)| number).collect();
            for number in touched {
                let Some(chunk) = chunks.get_mut(&number) else { continue };
                for (page, word) in words_of(number).zip(chunk.iter_mut()) {
                    *word.get_mut() &= !mask(page, from, to);
                }
                if chunk.iter_mut().all(|word| *word.get_mut() == 0) {
                    chunks.remove(&number);
                }
            }
        }
    }

    /// Marks the pages `from..=to`, all in one chunk.
    fn mark_in_chunk(&self, from: u64, to: u64) {
        let number = from / CHUNK;
        let set = |chunk: &Chunk| {
            for (page, word) in words_of(number).zip(chunk) {
                let mask = mask(page, from, to);
                if mask != 0 {
                    word::set(word, mask);
                }
            }
        };
        if let Some(chunk) = self.chunks.read().get(&number) {
            return set(chunk);
        }
        set(self.chunks.write().entry(number).or_default());
    }
}

impl DirtySink for DirtyPages {
    fn mark(&self, iova: u64, len: u64) {
        let mut from = iova >> self.shift;
        let last = iova.saturating_add(len - 1) >> self.shift;
        loop {
            let to = (from | (CHUNK - 1)).min(last);
            self.mark_in_chunk(from, to);
            if to == last {
                return;
            }
            from = to + 1;
        }
    }
}

impl fmt::Debug for DirtyPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyPages").field("chunks", &self.chunks.read().len()).finish_non_exhaustive()
    }
}

/// The first page of each word of a chunk.
fn words_of(number: u64) -> impl Iterator<Item = u64> {
    (0..WORDS).map(move |at| number * CHUNK + at * 64)
}

/// The bits of the pages `from..=to` in the word that begins with `page`.
fn mask(page: u64, from: u64, to: u64) -> u64 {
    if to < page || from > page + 63 {
        return 0;
    }
    let low = u64::MAX << from.saturating_sub(page);
    let high = u64::MAX >> (page + 63).saturating_sub(to);
    low & high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_takes_no_memory() {
        let pages = DirtyPages::new(4096).unwrap();
        for page in 0..4 * CHUNK {
            pages.mark(page << 12, 1);
        }
        pages.mark(1 << 40, 1);
        assert_eq!(pages.chunks.read().len(), 5);
        pages.forget(&[(0x1000, 3 * (CHUNK << 12) - 1), (1 << 40, u64::MAX)]);
        assert_eq!(pages.chunks.read().len(), 2, "page 0, and the chunk after the range");
        pages.forget(&[(0, u64::MAX)]);
        assert!(pages.chunks.read().is_empty());
    }
}
