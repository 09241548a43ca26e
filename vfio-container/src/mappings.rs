//! Mappings as the client made them, beside the regions they became.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use virtio_mdev_api::dma::{AddressSpace, MapError, Region};

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

    /// The mappings with a byte in `first..=last`, as first and last address each.
    pub fn touching(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = self.table.range(..first).next_back().filter(|&(_, &end)| end >= first);
        let within = (first <= last).then(|| self.table.range(first..=last)).into_iter().flatten();
        before.into_iter().chain(within).map(|(&first, &last)| (first, last))
    }

    /// Adds mappings, each given as its regions in order, all at once or none.
    pub fn add(&mut self, mappings: Vec<Vec<Region>>) -> Result<(), MapError> {
        let mut added = BTreeSet::new();
        let placed = mappings.iter().try_for_each(|regions| {
            let (Some(front), Some(back)) = (regions.first(), regions.last()) else { return Ok(()) };
            self.place(front.iova, back.last())?;
            added.insert(front.iova);
            Ok(())
        });
        let mapped = placed.and_then(|()| self.space.map_all(mappings.into_iter().flatten().collect()));
        if mapped.is_err() {
            self.table.retain(|first, _| !added.contains(first));
        }
        mapped
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

    /// Removes mappings, given in order, and answers how many bytes they had. When this returns no device can touch that
    /// memory.
    pub fn remove(&mut self, doomed: &[(u64, u64)]) -> u64 {
        let mut bytes = 0u64;
        // Neighbours go together: each removal waits for the readers once.
        for run in doomed.chunk_by(|before, after| self.are_neighbours(*before, *after)).collect::<Vec<_>>() {
            let (Some(&(first, _)), Some(&(_, last))) = (run.first(), run.last()) else { continue };
            for (first, _) in run {
                self.table.remove(first);
            }
            bytes = bytes.saturating_add(self.space.unmap(first, last).bytes);
        }
        bytes
    }

    fn are_neighbours(&self, before: (u64, u64), after: (u64, u64)) -> bool {
        let gap = (before.1.saturating_add(1), after.0.saturating_sub(1));
        gap.0 > gap.1 || self.touching(gap.0, gap.1).next().is_none()
    }

    /// Removes every mapping with a byte in `first..=last`, whole.
    pub fn remove_touching(&mut self, first: u64, last: u64) -> u64 {
        let doomed: Vec<_> = self.touching(first, last).collect();
        self.remove(&doomed)
    }
}
