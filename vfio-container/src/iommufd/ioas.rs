//! An IOAS: a DMA address space, and what is mapped in it.

use super::error::IommufdError;
use super::iova;
use super::usage::Usage;
use crate::attachment::MemorySource;
use crate::error::VfioError;
use crate::iommu::last;
use crate::mappings::{MAX_MAPPINGS, MAX_REGIONS, Mappings};
use devnode::Broadcast;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use virtio_mdev_api::dma::{AddressSpace, Limits, MapError, Region};

/// An IOAS. When it is dropped nothing of it is mapped, whoever still has its address space.
pub(crate) struct Ioas {
    space: Arc<AddressSpace>,
    usage: Arc<Usage>,
    /// Held while the address space changes, which may take as long as readers take to leave; nothing but calls on this
    /// IOAS waits for it.
    table: Mutex<Table>,
    members: Mutex<Members>,
}

/// What is mapped, and where mappings may be put.
pub(super) struct Table {
    mappings: Mappings,
    /// Ranges that mappings without a place of their own are put in, in order; anywhere when there are none.
    allowed: Vec<(u64, u64)>,
    /// Where to look for room first: below, there was none when it was looked for last.
    hint: u64,
    /// IOMMU_OPTION_HUGE_PAGES: there are no page tables that could have them.
    pub huge_pages: bool,
}

/// The groups that are attached. Quick to change.
#[derive(Default)]
struct Members {
    groups: Vec<(u32, Option<Arc<Broadcast>>)>,
    retired: bool,
}

/// Where a mapping goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// Here.
    At(u64),
    /// To a multiple of this.
    Anywhere { align: u64 },
}

impl Ioas {
    pub fn new(usage: Arc<Usage>) -> Result<Arc<Self>, IommufdError> {
        usage.take_ioas()?;
        let space = AddressSpace::new(Limits { max_entries: MAX_REGIONS, ..Limits::default() });
        let mappings = Mappings::new(Arc::clone(&space), MAX_MAPPINGS);
        let table = Table { mappings, allowed: Vec::new(), hint: 0, huge_pages: true };
        Ok(Arc::new(Self { space, usage, table: Mutex::new(table), members: Mutex::default() }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// What can be mapped: less than all once a device that cannot reach everything is attached.
    pub fn limits(&self) -> Limits {
        self.space.limits()
    }

    pub fn listeners(&self) -> Vec<Arc<Broadcast>> {
        self.members.lock().groups.iter().filter_map(|(_, trace)| trace.clone()).collect()
    }

    /// No group is attached from now on; false when one is.
    pub fn retire(&self) -> bool {
        let mut members = self.members.lock();
        members.retired = members.groups.is_empty();
        members.retired
    }

    /// Whether `length` bytes could be mapped at `place`, as far as that can be told before their memory is looked at:
    /// taking hold of memory that is not going to be mapped is dear.
    pub(super) fn check(&self, place: Place, length: u64) -> Result<(), IommufdError> {
        let table = self.lock();
        if let Place::At(iova) = place {
            let last = last(iova, length).ok_or(IommufdError::Overflow { first: iova, length })?;
            if let Some((other, _)) = table.mappings.touching(iova, last).next() {
                return Err(MapError::Overlap { iova, other }.into());
            }
        }
        if table.mappings.room() == 0 {
            return Err(MapError::Full { max: MAX_MAPPINGS }.into());
        }
        Ok(())
    }

    /// Maps `mappings` one after the other, `length` bytes together, each given as its regions with their addresses counted
    /// from `place`: all at once or none. The address of the first.
    pub(super) fn add(&self, place: Place, length: u64, mut mappings: Vec<Vec<Region>>) -> Result<u64, IommufdError> {
        let mut table = self.lock();
        let iova = match place {
            Place::At(iova) => iova,
            Place::Anywhere { align } => table.find(&self.limits(), length, align)?,
        };
        last(iova, length).ok_or(IommufdError::Overflow { first: iova, length })?;
        mappings.iter_mut().flatten().for_each(|region| region.iova += iova);
        let count = mappings.len();
        self.usage.take_mappings(count)?;
        if let Err(error) = table.mappings.add(mappings) {
            self.usage.give_mappings(count);
            return Err(error.into());
        }
        if matches!(place, Place::Anywhere { .. }) {
            table.hint = iova.saturating_add(length);
        }
        Ok(iova)
    }

    /// Unmaps what is in `first..=last`, whole mappings all at once or nothing at all. How many bytes that was.
    pub(super) fn remove(&self, first: u64, last: u64) -> Result<u64, IommufdError> {
        let mut table = self.lock();
        let doomed: Vec<_> = table.mappings.touching(first, last).collect();
        if let Some(&(iova, _)) = doomed.iter().find(|mapping| mapping.0 < first || mapping.1 > last) {
            return Err(IommufdError::Bisected { first, last, iova });
        }
        let removed = table.mappings.remove(&doomed);
        table.hint = doomed.first().map_or(table.hint, |&(iova, _)| iova.min(table.hint));
        self.usage.give_mappings(doomed.len());
        Ok(removed.bytes)
    }

    /// The memory of `first..=last`, all of which must be mapped: for each mapping the regions, with addresses counted from
    /// `first`.
    pub(super) fn memory(&self, first: u64, last: u64) -> Result<Vec<Vec<Region>>, IommufdError> {
        let table = self.lock();
        let mut found = Vec::new();
        let mut at = first;
        let mut mapped_to = None;
        for (begin, end) in table.mappings.touching(first, last) {
            if begin > at {
                break;
            }
            let end = end.min(last);
            let regions = self.space.memory_in(at, end);
            let parts = regions.iter().filter_map(|region| {
                let (from, to) = (region.iova.max(at), region.last().min(end));
                region.part(from, to, from - first, region.permissions)
            });
            found.push(parts.collect());
            mapped_to = Some(end);
            match end.checked_add(1) {
                Some(next) => at = next,
                None => break,
            }
        }
        if mapped_to == Some(last) { Ok(found) } else { Err(IommufdError::NotMapped { first, last }) }
    }
}

impl Table {
    /// Puts mappings without a place of their own into these ranges, given in order.
    pub fn allow(&mut self, allowed: Vec<(u64, u64)>) {
        (self.allowed, self.hint) = (allowed, 0);
    }

    fn find(&mut self, limits: &Limits, length: u64, align: u64) -> Result<u64, IommufdError> {
        let find = |from| iova::find(&self.mappings, &self.allowed, limits, from, length, align);
        // What lies below the hint may be too small for one and large enough for another.
        find(self.hint).or_else(|| find(0)).ok_or(IommufdError::NoIova { length })
    }
}

impl MemorySource for Ioas {
    fn join(&self, group: u32, trace: Option<Arc<Broadcast>>) -> Result<(), VfioError> {
        let mut members = self.members.lock();
        if members.retired {
            return Err(VfioError::NoIoas);
        }
        members.groups.push((group, trace));
        Ok(())
    }

    fn leave(&self, group: u32) {
        self.members.lock().groups.retain(|(number, _)| *number != group);
    }

    fn space(&self) -> Option<Arc<AddressSpace>> {
        Some(Arc::clone(&self.space))
    }
}

impl Drop for Ioas {
    fn drop(&mut self) {
        self.space.unmap_all();
        self.usage.give_mappings(self.table.get_mut().mappings.len());
        self.usage.give_ioas();
    }
}

#[cfg(test)]
mod tests {
    use super::super::usage::MAPPINGS_PER_USER;
    use super::*;
    use crate::testing::{BASE, FakeClient};
    use virtio_mdev_api::dma::Permissions;

    #[test]
    fn u2_mappings_of_a_user_are_counted_over_all_of_his_ioases_and_given_back() {
        let usage = Arc::new(Usage::new(1000));
        let ioas = || Ioas::new(Arc::clone(&usage)).unwrap();
        let client = FakeClient::new(1);
        let page = || vec![crate::regions(&client, 0, BASE, 0x1000, Permissions::READ).unwrap()];
        let (one, two) = (ioas(), ioas());
        usage.take_mappings(MAPPINGS_PER_USER - 2).unwrap();
        one.add(Place::At(0), 0x1000, page()).unwrap();
        two.add(Place::At(0), 0x1000, page()).unwrap();
        let refused = two.add(Place::At(0x1000), 0x1000, page());
        assert!(matches!(refused, Err(IommufdError::Quota { .. })), "{refused:?}");
        assert!(two.add(Place::At(0), 0x1000, page()).is_err(), "and what is refused costs nothing");
        one.remove(0, 0xfff).unwrap();
        two.add(Place::At(0x1000), 0x1000, page()).unwrap();
        drop(two);
        usage.take_mappings(2).unwrap();
        assert!(usage.take_mappings(1).is_err());
    }
}
