//! A bitmap of pages in a client's memory.

use crate::Client;
use crate::iommu::PAGE;
use nix::errno::Errno;
use virtio_mdev_api::dirty::DirtyWord;
use zerocopy::IntoBytes;

/// Words that are written at once.
const STRETCH: usize = 1 << 16;

/// Which pages of the mappings were written.
#[derive(Clone, Copy)]
pub(crate) enum Dirty<'a> {
    /// These, in order.
    Words(&'a [DirtyWord]),
    /// Any of them: a reader was cut off, and what it wrote last is not known.
    All,
}

/// A bitmap at `data` of a client, in words of 64 bits; the first bit is the page at `base`.
///
/// As the kernel's, a word is written when a mapping has a bit in it. Bits below the first mapping of a word stay.
pub(crate) struct Bitmap<'c> {
    client: &'c dyn Client,
    data: u64,
    base: u64,
}

impl<'c> Bitmap<'c> {
    pub fn new(client: &'c dyn Client, data: u64, base: u64) -> Self {
        Self { client, data, base }
    }

    /// Writes the bits of the pages of `mappings` (first and last address each, in order): ones for `dirty`, zeros for the
    /// others. Looks into the client.
    pub fn write(&self, mappings: &[(u64, u64)], dirty: Dirty<'_>) -> Result<(), Errno> {
        // In bits.
        let mappings: Vec<_> = mappings.iter().map(|&(first, last)| (self.bit(first), self.bit(last))).collect();
        let mut rest = mappings.as_slice();
        while let Some(&(first, _)) = rest.first() {
            let run =
                rest.iter().zip(rest.iter().skip(1)).take_while(|(one, next)| self.are_close(one.1, next.0)).count();
            let (run, others) = rest.split_at(run + 1);
            let last = run.last().map_or(first, |mapping| mapping.1) / 64;
            for word in (first / 64..=last).step_by(STRETCH) {
                self.write_stretch(word, last.min(word + STRETCH as u64 - 1), run, dirty)?;
            }
            rest = others;
        }
        Ok(())
    }

    /// Sets `bits`, which come in order, and leaves all others as they are. Looks into the client.
    pub fn set(&self, bits: impl IntoIterator<Item = u64>) -> Result<(), Errno> {
        let mut run = Run::default();
        for bit in bits {
            if !run.takes(bit / 64) {
                self.add(&run)?;
                run = Run::default();
            }
            run.set(bit);
        }
        self.add(&run)
    }

    fn add(&self, run: &Run) -> Result<(), Errno> {
        if run.words.is_empty() {
            return Ok(());
        }
        let at = run.first.checked_mul(8).and_then(|from| self.data.checked_add(from)).ok_or(Errno::EFAULT)?;
        let mut words = vec![0; run.words.len()];
        self.client.read(at, words.as_mut_bytes())?;
        words.iter_mut().zip(&run.words).for_each(|(word, bits)| *word |= bits);
        self.client.write(at, words.as_bytes())
    }

    fn bit(&self, iova: u64) -> u64 {
        (iova - self.base) / PAGE
    }

    /// Whether the words of two bits are in one page of the client, or in neighbours.
    fn are_close(&self, one: u64, next: u64) -> bool {
        let page = |bit: u64| self.data.saturating_add(bit / 64 * 8) / 4096;
        page(next).saturating_sub(page(one)) <= 1
    }

    /// Writes the words `first..=last`.
    fn write_stretch(&self, first: u64, last: u64, mappings: &[(u64, u64)], dirty: Dirty<'_>) -> Result<(), Errno> {
        let at = self.data.checked_add(first * 8).ok_or(Errno::EFAULT)?;
        let mut words = vec![0; usize::try_from(last - first + 1).map_err(|_| Errno::EFAULT)?];
        let begin = mappings.partition_point(|mapping| mapping.1 / 64 < first);
        let within = mappings[begin..].iter().take_while(|mapping| mapping.0 / 64 <= last);
        let is_whole = |mapping: &&(u64, u64)| mapping.0 <= first * 64 && mapping.1 / 64 >= last;
        if !within.clone().any(|mapping| is_whole(&mapping)) {
            self.client.read(at, words.as_mut_bytes())?;
        }
        for mapping in within {
            let from = mapping.0.saturating_sub(first * 64);
            clear(&mut words, from, (mapping.1 / 64).min(last) - first);
            if matches!(dirty, Dirty::All) {
                set_all(&mut words, from, mapping.1 - first * 64);
            }
        }
        if let Dirty::Words(dirty) = dirty {
            let zero = self.base / PAGE + first * 64;
            let begin = dirty.partition_point(|word| word.page + 63 < zero);
            dirty[begin..].iter().take_while(|word| set(&mut words, zero, **word)).for_each(drop);
        }
        self.client.write(at, words.as_bytes())
    }
}

/// Bits of neighbouring words.
#[derive(Default)]
struct Run {
    first: u64,
    words: Vec<u64>,
}

impl Run {
    /// Whether a word, not before those that it has, belongs to it: it is near, and there is room.
    fn takes(&self, word: u64) -> bool {
        /// A page of the client's.
        const NEAR: u64 = 512;
        let len = self.words.len() as u64;
        self.words.is_empty() || word < self.first + (len + NEAR).min(STRETCH as u64)
    }

    fn set(&mut self, bit: u64) {
        if self.words.is_empty() {
            self.first = bit / 64;
        }
        let Ok(at) = usize::try_from(bit / 64 - self.first) else { return };
        self.words.resize(self.words.len().max(at + 1), 0);
        self.words[at] |= 1 << (bit % 64);
    }
}

/// Clears bits from bit `from` to the end of word `last`.
fn clear(words: &mut [u64], from: u64, last: u64) {
    let (Ok(word), Ok(last)) = (usize::try_from(from / 64), usize::try_from(last)) else { return };
    if let Some((begin, rest)) = words.get_mut(word..=last).and_then(<[u64]>::split_first_mut) {
        *begin &= !(u64::MAX << (from % 64));
        rest.fill(0);
    }
}

/// Sets the bits `from..=to` as far as they are there.
fn set_all(words: &mut [u64], from: u64, to: u64) {
    let Ok(begin) = usize::try_from(from / 64) else { return };
    for (at, word) in (from / 64..=to / 64).zip(words.iter_mut().skip(begin)) {
        *word |= u64::MAX << from.saturating_sub(at * 64) & u64::MAX >> (at * 64 + 63).saturating_sub(to);
    }
}

/// Sets those bits of `dirty` that are in `words`, whose first bit is page `zero`. False when all are beyond.
fn set(words: &mut [u64], zero: u64, dirty: DirtyWord) -> bool {
    let DirtyWord { page, bits } = dirty;
    let parts = match page.checked_sub(zero) {
        Some(at) if at % 64 == 0 => [Some((at / 64, bits)), None],
        Some(at) => [Some((at / 64, bits << (at % 64))), Some((at / 64 + 1, bits >> (64 - at % 64)))],
        // What is before was told before.
        None => [Some((0, bits >> (zero - page))), None],
    };
    let mut within = false;
    for (at, bits) in parts.into_iter().flatten() {
        if let Some(word) = usize::try_from(at).ok().and_then(|at| words.get_mut(at)) {
            *word |= bits;
            within = true;
        }
    }
    within
}
