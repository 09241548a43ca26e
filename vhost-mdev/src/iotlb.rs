//! The mappings made by IOTLB messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_container::{MAX_MAPPINGS, MAX_REGIONS, Mappings};
use virtio_mdev_api::dma::{AddressSpace, Limits, MapError, Region};

/// What one vhost file has mapped in one address space, and the batch under way there.
///
/// There may be 65,535 mappings (the kernel's 2,048 are too few for a guest with a vIOMMU); one more is ENOSPC.
pub(crate) struct Iotlb {
    table: Mappings,
    limits: Limits,
    batch: Option<Batch>,
}

/// Changes that are not published yet.
#[derive(Default)]
struct Batch {
    removed: BTreeMap<u64, u64>,
    added: BTreeMap<u64, Vec<Region>>,
    /// How many regions are added.
    regions: usize,
}

impl Iotlb {
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { max_entries: MAX_REGIONS, ..limits };
        Self { table: Mappings::new(AddressSpace::new(limits), MAX_MAPPINGS), limits, batch: None }
    }

    pub fn space(&self) -> &Arc<AddressSpace> {
        self.table.space()
    }

    /// Whether changes wait for the end of a batch.
    pub fn in_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// Whether nothing is mapped, nor is going to be when the batch ends.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty() && self.batch.as_ref().is_none_or(|batch| batch.added.is_empty())
    }

    /// The highest address that is mapped, or will be when the batch ends.
    pub fn highest(&self) -> Option<u64> {
        let added = self.batch.as_ref().and_then(|batch| batch.added.values().next_back()?.last().map(Region::last));
        self.table.highest().max(added)
    }

    /// Whether `size` bytes could be mapped at `iova` now.
    pub fn check(&self, iova: u64, size: u64) -> Result<(), MapError> {
        let Limits { first, last, .. } = self.limits;
        let end = size.checked_sub(1).ok_or(MapError::Empty { iova })?;
        let end = iova.checked_add(end).ok_or(MapError::Wraps { iova, len: size })?;
        if iova < first || end > last {
            return Err(MapError::OutsideRange { iova, len: size, first, last });
        }
        if let Some(align) = self.limits.alignment().filter(|&align| !(iova | size).is_multiple_of(align)) {
            return Err(MapError::Unaligned { iova, len: size, align });
        }
        if let Some(other) = self.in_the_way(iova, end) {
            return Err(MapError::Overlap { iova, other });
        }
        if self.room() == 0 { Err(MapError::Full { max: MAX_MAPPINGS }) } else { Ok(()) }
    }

    fn in_the_way(&self, first: u64, last: u64) -> Option<u64> {
        let staying = |(at, _): &(u64, u64)| self.batch.as_ref().is_none_or(|batch| !batch.removed.contains_key(at));
        let published = self.table.touching(first, last).find(staying).map(|(at, _)| at);
        published.or_else(|| self.batch.as_ref()?.touching(first, last))
    }

    fn room(&self) -> usize {
        let Some(batch) = &self.batch else { return self.table.room() };
        (self.table.room() + batch.removed.len()).saturating_sub(batch.added.len())
    }

    /// Maps `regions`, in order and without a gap, as one map.
    pub fn update(&mut self, regions: Vec<Region>) -> Result<(), MapError> {
        let (Some(front), Some(back)) = (regions.first(), regions.last()) else { return Ok(()) };
        self.check(front.iova, back.last().wrapping_sub(front.iova).saturating_add(1))?;
        match &mut self.batch {
            Some(batch) => batch.add(regions)?,
            None => self.table.add(vec![regions])?,
        }
        Ok(())
    }

    /// Removes every map with a byte in `first..=last`, whole. No map there is success.
    pub fn invalidate(&mut self, first: u64, last: u64) {
        let Some(batch) = &mut self.batch else {
            self.table.remove_touching(first, last);
            // Also where nothing is mapped: what was asked for there is obsolete.
            self.space().unmap(first, last);
            return;
        };
        batch.removed.extend(self.table.touching(first, last));
        while let Some(at) = batch.touching(first, last) {
            batch.forget(at);
        }
    }

    /// From here on changes wait. A batch in a batch is no other.
    pub fn begin(&mut self) {
        self.batch.get_or_insert_default();
    }

    /// Publishes what waited, in one step: a page that is mapped before and after is mapped all the time. When an addition
    /// is refused, nothing changes.
    pub fn end(&mut self) -> Result<(), MapError> {
        let Some(Batch { removed, added, .. }) = self.batch.take() else { return Ok(()) };
        let removed: Vec<_> = removed.into_iter().collect();
        self.table.replace(&removed, added.into_values().collect())
    }

    /// Forgets everything, the batch included.
    pub fn clear(&mut self) {
        self.batch = None;
        self.table.remove_touching(0, u64::MAX);
    }
}

impl Batch {
    /// What can only be refused when the batch ends is not kept until then.
    fn add(&mut self, regions: Vec<Region>) -> Result<(), MapError> {
        if self.regions + regions.len() > MAX_REGIONS {
            return Err(MapError::Full { max: MAX_REGIONS });
        }
        self.regions += regions.len();
        self.added.extend(regions.first().map(|front| front.iova).map(|at| (at, regions)));
        Ok(())
    }

    fn forget(&mut self, at: u64) {
        self.regions -= self.added.remove(&at).map_or(0, |regions| regions.len());
    }

    /// An added map with a byte in `first..=last`.
    fn touching(&self, first: u64, last: u64) -> Option<u64> {
        let (at, regions) = self.added.range(..=last).next_back()?;
        let end = regions.last().map_or(*at, Region::last);
        (end >= first).then_some(*at)
    }
}
