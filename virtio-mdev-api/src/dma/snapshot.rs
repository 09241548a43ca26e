//! One version of the table.

use super::miss::Misses;
use super::tree::Tree;
use super::{Region, View};
use std::sync::Arc;

/// One version of the table of mappings. It does not change; it is reached through a [`Burst`](super::Burst) or a
/// [`Lease`](super::Lease), which keep its memory from being unmapped.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) generation: u64,
    /// Where leases on this version are counted.
    pub(super) bank: usize,
    pub(super) tree: Tree,
    /// How many of the regions are slow.
    pub(super) slow: usize,
    pub(super) misses: Option<Arc<Misses>>,
}

impl Snapshot {
    /// Which version this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Access to the memory.
    #[inline]
    pub fn view(&self) -> View<'_> {
        View::new(self)
    }

    /// The region that contains `iova`.
    pub fn find(&self, iova: u64) -> Option<&Region> {
        self.tree.find(iova)
    }

    /// All regions, in the order of their addresses.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.tree.iter()
    }

    /// Whether there is a region that an access to may take long.
    #[inline]
    pub fn has_slow(&self) -> bool {
        self.slow > 0
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
