//! Mappings as the client made them, beside the regions they became.

use std::collections::BTreeMap;
use std::sync::Arc;
use virtio_mdev_api::dma::{AddressSpace, MapError, Region, Unmapped};

/// How many mappings a container, or a vhost file, can hold: VFIO's default `dma_entry_limit`.
pub const MAX_MAPPINGS: usize = 65_535;
/// How many regions they may become: a mapping of several of the client's files is one region for each.
pub const MAX_REGIONS: usize = 2 * MAX_MAPPINGS;

/// The mappings of one address space.
///
/// A client's mapping can span several memory files, and is then several regions of the [`AddressSpace`]; for counting,
/// overlap and removal it stays one.
#[derive(Debug)]
pub struct Mappings {
    space: Arc<AddressSpace>,
    /// First address to last address.
    table: BTreeMap<u64, u64>,
    max: usize,
}

impl Mappings {
    /// Fills `space`, which must be empty, with at most `max` mappings.
    pub fn new(space: Arc<AddressSpace>, max: usize) -> Self {
        Self { space, table: BTreeMap::new(), max }
    }

    /// The address space.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no mapping.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many more mappings there may be.
    pub fn room(&self) -> usize {
        self.max.saturating_sub(self.table.len())
    }

    /// The highest address that is mapped.
    pub fn highest(&self) -> Option<u64> {
        self.table.values().next_back().copied()
    }

    /// The mappings with a byte in `first..=last`, as first and last address each.
    pub fn touching(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = self.table.range(..first).next_back().filter(|&(_, &end)| end >= first);
        let within = (first <= last).then(|| self.table.range(first..=last)).into_iter().flatten();
        before.into_iter().chain(within).map(|(&first, &last)| (first, last))
    }

    /// Adds mappings, each given as its regions in order, all at once or none.
    pub fn add(&mut self, mappings: Vec<Vec<Region>>) -> Result<(), MapError> {
        self.replace(&[], mappings)
    }

    /// Removes the mappings `doomed`, given in order, and adds others, each given as its regions in order, all in one
    /// step or nothing at all: see [`AddressSpace::replace`].
    pub fn replace(&mut self, doomed: &[(u64, u64)], mappings: Vec<Vec<Region>>) -> Result<(), MapError> {
        self.forget(doomed);
        let mut placed = Vec::new();
        let result = mappings.iter().try_for_each(|regions| {
            let (Some(front), Some(back)) = (regions.first(), regions.last()) else { return Ok(()) };
            self.place(front.iova, back.last())?;
            placed.push((front.iova, back.last()));
            Ok(())
        });
        let result =
            result.and_then(|()| self.space.replace(doomed, mappings.into_iter().flatten().collect()).map(drop));
        if result.is_err() {
            self.forget(&placed);
            self.table.extend(doomed.iter().copied());
        }
        result
    }

    fn forget(&mut self, doomed: &[(u64, u64)]) {
        for (first, _) in doomed {
            self.table.remove(first);
        }
    }

    fn place(&mut self, first: u64, last: u64) -> Result<(), MapError> {
        if let Some((other, _)) = self.touching(first, last).next() {
            return Err(MapError::Overlap { iova: first, other });
        }
        if self.room() == 0 {
            return Err(MapError::Full { max: self.max });
        }
        self.table.insert(first, last);
        Ok(())
    }

    /// Removes mappings, given in order, all at once. When this returns no device can touch that memory.
    pub fn remove(&mut self, doomed: &[(u64, u64)]) -> Unmapped {
        self.forget(doomed);
        self.space.unmap_ranges(doomed)
    }

    /// Removes every mapping with a byte in `first..=last`, whole.
    pub fn remove_touching(&mut self, first: u64, last: u64) -> Unmapped {
        let doomed: Vec<_> = self.touching(first, last).collect();
        self.remove(&doomed)
    }
}
