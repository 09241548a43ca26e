//! Chains fetched ahead: descriptors are copied for many chains at once.

use crate::chain::{Buffer, Chain};

/// Most chains fetched at once.
pub const BATCH: usize = 64;
/// Buffers of a chain that are kept with it: header and data.
pub const INLINE: usize = 2;

/// A chain, checked.
#[derive(Clone, Copy, Default)]
pub struct Entry {
    pub id: u16,
    /// Descriptors of the ring that it takes up.
    pub slots: u16,
    /// Where the ring goes on behind it.
    pub after: u16,
    /// Its buffers, and how many of them the device may read; the rest it may write.
    pub count: u16,
    pub readable_count: u16,
    pub readable: u64,
    pub writable: u64,
    /// Its buffers, if they are few.
    pub inline: [Buffer; INLINE],
}

impl Entry {
    fn is_long(&self) -> bool {
        usize::from(self.count) > INLINE
    }
}

/// Chains in the order of the ring. Only the last one can be long.
pub struct Batch {
    entries: Box<[Entry; BATCH]>,
    len: usize,
    /// How many of them were taken.
    taken: usize,
    /// How many were taken for good; `None` when taken ones are among those of an earlier batch.
    kept: Option<usize>,
    /// The buffers of the last one, if it is long.
    more: Vec<Buffer>,
}

impl Batch {
    /// For chains of at most `size` buffers.
    pub fn new(size: u16) -> Self {
        Self {
            entries: Box::new([Entry::default(); BATCH]),
            len: 0,
            taken: 0,
            kept: Some(0),
            more: Vec::with_capacity(usize::from(size)),
        }
    }

    /// Takes the next chain, and says where the ring goes on behind it.
    #[inline]
    pub fn take(&mut self) -> Option<(Chain, u16)> {
        let &Entry { id: head, slots, after, readable, writable, .. } = self.entries[..self.len].get(self.taken)?;
        // No more than a batch.
        let at = u16::try_from(self.taken).unwrap_or(u16::MAX);
        self.taken += 1;
        Some((Chain { head, readable, writable, slots, at }, after))
    }

    /// Whether there is a chain to take.
    pub fn has_next(&self) -> bool {
        self.taken < self.len
    }

    /// What was taken stays so.
    #[inline]
    pub fn commit(&mut self) {
        self.kept = Some(self.taken);
    }

    /// What was taken and not kept was never taken.
    pub fn rewind(&mut self) {
        match self.kept {
            Some(kept) => self.taken = kept,
            None => self.renew(true),
        }
    }

    /// Begins a new batch where all of this one was taken. `committed`: for good.
    pub fn renew(&mut self, committed: bool) {
        (self.len, self.taken, self.kept) = (0, 0, committed.then_some(0));
        self.more.clear();
    }

    /// Room for another chain, and for those of its buffers that it has no room for. It is added by [`push`](Self::push);
    /// what is given up instead is cleared by [`give_up`](Self::give_up).
    #[inline]
    pub fn room(&mut self) -> Option<(&mut Entry, &mut Vec<Buffer>)> {
        // The last one is long.
        if !self.more.is_empty() {
            return None;
        }
        Some((self.entries.get_mut(self.len)?, &mut self.more))
    }

    #[inline]
    pub fn push(&mut self) -> &Entry {
        self.len += 1;
        &self.entries[self.len - 1]
    }

    pub fn give_up(&mut self) {
        self.more.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers of `chain` that the device may read, and those it may write.
    #[inline]
    pub fn buffers(&self, chain: &Chain) -> (&[Buffer], &[Buffer]) {
        let Some(entry) = self.entries.get(usize::from(chain.at)) else { return (&[], &[]) };
        let all = if entry.is_long() { &self.more[..] } else { &entry.inline[..usize::from(entry.count)] };
        all.split_at(usize::from(entry.readable_count).min(all.len()))
    }
}
