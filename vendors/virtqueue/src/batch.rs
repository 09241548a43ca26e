//! Chains fetched ahead: descriptors are copied for many chains at once.

use crate::chain::{Buffer, Chain};
use virtio_mdev_api::dma::{Held, Permissions, View};

/// Most chains fetched at once.
pub const BATCH: usize = 64;
const NONE: usize = usize::MAX;
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

    /// Where its buffer is, if it has one only and that is reached in place.
    #[inline]
    pub fn hold<'b>(&self, memory: &View<'b>) -> Option<Held<'b>> {
        let &Self { count: 1, readable_count, inline: [Buffer { iova, len }, _], .. } = self else { return None };
        let access = if readable_count == 0 { Permissions::WRITE } else { Permissions::READ };
        memory.held(iova, usize::try_from(len).ok()?, access)
    }
}

/// Where the buffers of a batch's chains are, during a burst, each by the place of its chain: those of chains of one
/// buffer, reached in place.
pub type Places<'b> = [Option<Held<'b>>; BATCH];

/// Room for a chain in a batch.
pub struct Room<'r, 'b> {
    pub entry: &'r mut Entry,
    pub held: &'r mut Option<Held<'b>>,
    /// For those of its buffers that the entry has no room for.
    pub more: &'r mut Vec<Buffer>,
}

/// Chains in the order of the ring. Only the last one can be long.
pub struct Batch {
    entries: Box<[Entry; BATCH]>,
    len: usize,
    /// How many of them were taken.
    taken: usize,
    /// How many were taken for good; [`NONE`] when taken ones are among those of an earlier batch.
    kept: usize,
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
            kept: 0,
            more: Vec::with_capacity(usize::from(size)),
        }
    }

    /// Takes the next chain.
    #[inline(always)]
    pub fn take(&mut self) -> Option<Chain> {
        let chain = Chain::new(self.next()?, self.taken);
        self.taken += 1;
        Some(chain)
    }

    /// What is taken next.
    #[inline(always)]
    pub fn next(&self) -> Option<&Entry> {
        self.entries[..self.len].get(self.taken)
    }

    /// Where the ring goes on behind those that were taken, if any of this batch were.
    #[inline]
    pub fn after(&self) -> Option<u16> {
        self.behind(self.taken)
    }

    /// The same of those that were taken for good; `None` when taken ones are among those of an earlier batch.
    #[inline]
    pub fn kept(&self) -> Option<Option<u16>> {
        (self.kept != NONE).then(|| self.behind(self.kept))
    }

    #[inline]
    fn behind(&self, chains: usize) -> Option<u16> {
        Some(self.entries.get(chains.checked_sub(1)?)?.after)
    }

    /// Whether there is a chain to take.
    #[inline]
    pub fn has_next(&self) -> bool {
        self.taken < self.len
    }

    /// What was taken stays so.
    #[inline]
    pub fn commit(&mut self) {
        self.kept = self.taken;
    }

    /// What was taken and not kept was never taken.
    pub fn rewind(&mut self) {
        if self.kept == NONE {
            self.renew(true);
        } else {
            self.taken = self.kept;
        }
    }

    /// Begins a new batch where all of this one was taken. `committed`: for good.
    pub fn renew(&mut self, committed: bool) {
        (self.len, self.taken, self.kept) = (0, 0, if committed { 0 } else { NONE });
        self.more.clear();
    }

    /// Room for another chain. It is added by [`extend`](Self::extend); what is given up instead is cleared by
    /// [`give_up`](Self::give_up).
    pub fn room<'r, 'b>(&'r mut self, places: &'r mut Places<'b>) -> Option<Room<'r, 'b>> {
        // The last one is long.
        if !self.more.is_empty() {
            return None;
        }
        let (entry, held) = (self.entries.get_mut(self.len)?, places.get_mut(self.len)?);
        Some(Room { entry, held, more: &mut self.more })
    }

    /// Room for other chains of one buffer.
    #[inline]
    pub fn rooms<'r, 'b>(
        &'r mut self,
        places: &'r mut Places<'b>,
    ) -> impl Iterator<Item = (&'r mut Entry, &'r mut Option<Held<'b>>)> {
        let full = if self.more.is_empty() { self.len } else { BATCH };
        self.entries[full..].iter_mut().zip(&mut places[full..])
    }

    /// So many of those that there was room for are chains.
    #[inline]
    pub fn extend(&mut self, chains: usize) {
        self.len += chains;
    }

    /// Where the ring goes on behind the last one.
    pub fn end_at(&mut self, after: u16) {
        if let Some(last) = self.len.checked_sub(1).and_then(|last| self.entries.get_mut(last)) {
            last.after = after;
        }
    }

    /// Whether there is room for no other chain.
    pub fn is_full(&self) -> bool {
        self.len == BATCH
    }

    pub fn give_up(&mut self) {
        self.more.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn entry(&self, chain: &Chain) -> Option<&Entry> {
        self.entries.get(chain.at())
    }

    /// The buffers of `chain` that the device may read, and those it may write.
    #[inline]
    pub fn buffers(&self, chain: &Chain) -> (&[Buffer], &[Buffer]) {
        let Some(entry) = self.entry(chain) else { return (&[], &[]) };
        let all = if entry.is_long() { &self.more[..] } else { &entry.inline[..usize::from(entry.count)] };
        all.split_at(usize::from(entry.readable_count).min(all.len()))
    }
}
