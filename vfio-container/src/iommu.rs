//! The type 1 IOMMU of a container: what may be mapped and unmapped.

use crate::error::VfioError;
use crate::mappings::{MAX_MAPPINGS, MAX_REGIONS, Mappings};
use crate::wire::check_flags;
use crate::{Client, Home, regions};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use std::sync::Arc;
use vfio_abi::{BitmapArg, DmaMap, DmaUnmap};
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_VADDR, VFIO_DMA_MAP_FLAG_WRITE, VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, VFIO_DMA_UNMAP_FLAG_VADDR,
};
use virtio_mdev_api::dirty::DirtyPages;
use virtio_mdev_api::dma::{AddressSpace, Limits, MapError, Permissions, Unmapped};

/// Mappings are whole pages of this size.
pub(crate) const PAGE: u64 = 4096;
/// The most pages of a bitmap, as in the kernel.
pub(crate) const MAX_BITMAP_PAGES: u64 = (1 << 31) - 1;
/// Its size in bytes.
pub(crate) const MAX_BITMAP: u64 = bitmap_len(MAX_BITMAP_PAGES);

/// Which rules UNMAP_DMA follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// VFIO_TYPE1_IOMMU: an unmap removes whole mappings, whatever part of them it names.
    V1,
    /// VFIO_TYPE1v2_IOMMU: an unmap must not cut through a mapping. VFIO_TYPE1_NESTING_IOMMU too: emulated groups have
    /// nothing to nest.
    V2,
}

/// The IOMMU of a container, from SET_IOMMU until its last group leaves.
pub(crate) struct Iommu {
    pub version: Version,
    /// Who set it up.
    home: Home,
    space: Arc<AddressSpace>,
    /// `None` once the container lost its last group. Held while the address space changes, which may take as long as
    /// readers take to leave; nothing but map calls on this container waits for it.
    table: Mutex<Option<Table>>,
}

/// What is mapped, and what was written.
pub(crate) struct Table {
    pub mappings: Mappings,
    /// While pages are tracked: those that were written, of what is mapped.
    pub dirty: Option<Arc<DirtyPages>>,
}

impl Iommu {
    pub fn new(version: Version, home: Home) -> Arc<Self> {
        let space = AddressSpace::new(Limits { max_entries: MAX_REGIONS, ..Limits::default() });
        let mappings = Mappings::new(Arc::clone(&space), MAX_MAPPINGS);
        let table = Mutex::new(Some(Table { mappings, dirty: None }));
        Arc::new(Self { version, home, space, table })
    }

    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// The page sizes that can be mapped, one bit each.
    pub fn page_sizes(&self) -> u64 {
        self.space.limits().page_sizes
    }

    /// How many more mappings there may be.
    pub fn room(&self) -> usize {
        self.table.lock().as_ref().map_or(0, |table| table.mappings.room())
    }

    /// All mappings are gone, for good.
    pub fn close(&self) {
        let closed = self.table.lock().take();
        drop(closed);
        self.space.writers().track(None);
        self.space.unmap_all();
    }

    pub fn lock(&self) -> Result<MappedMutexGuard<'_, Table>, VfioError> {
        MutexGuard::try_map(self.table.lock(), Option::as_mut).map_err(|_| VfioError::NoIommu)
    }

    /// Memory is mapped by the address space that set the container up, and by no other.
    pub fn check_home(&self, client: &dyn Client) -> Result<(), VfioError> {
        if client.lives_in(&self.home) { Ok(()) } else { Err(VfioError::Foreign) }
    }

    /// VFIO_IOMMU_MAP_DMA.
    pub fn map(&self, client: &dyn Client, arg: &DmaMap) -> Result<(), VfioError> {
        let &DmaMap { flags, vaddr, iova, size, .. } = arg;
        let allowed = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE | VFIO_DMA_MAP_FLAG_VADDR;
        check_flags(flags, allowed)?;
        let mut permissions = Permissions::empty();
        permissions.set(Permissions::READ, flags & VFIO_DMA_MAP_FLAG_READ != 0);
        permissions.set(Permissions::WRITE, flags & VFIO_DMA_MAP_FLAG_WRITE != 0);
        let readdress = flags & VFIO_DMA_MAP_FLAG_VADDR != 0;
        // A mapping has permissions, or else is one that gets a new address.
        if permissions.is_empty() != readdress {
            return Err(VfioError::Flags { flags, allowed });
        }
        let last = last(iova, size);
        let (Some(last), Some(_), 0) = (last, self::last(vaddr, size), (size | iova | vaddr) % PAGE) else {
            return Err(VfioError::Range { iova, size, vaddr });
        };
        if readdress {
            return Err(self.refuse_readdress(iova, last, size));
        }
        // Look first: taking hold of memory that is not going to be mapped is dear.
        self.check_free(iova, last)?;
        let regions = regions(client, iova, vaddr, size, permissions)?;
        let mut table = self.lock()?;
        if table.dirty.is_some() {
            check_trackable(iova, last)?;
        }
        Ok(table.mappings.add(vec![regions])?)
    }

    fn check_free(&self, first: u64, last: u64) -> Result<(), VfioError> {
        let table = self.lock()?;
        if let Some((other, _)) = table.mappings.touching(first, last).next() {
            return Err(MapError::Overlap { iova: first, other }.into());
        }
        if table.mappings.room() == 0 {
            return Err(MapError::Full { max: MAX_MAPPINGS }.into());
        }
        Ok(())
    }

    /// A new address is for mappings whose old one was given up, which emulated groups forbid.
    fn refuse_readdress(&self, iova: u64, last: u64, size: u64) -> VfioError {
        match self.lock().map(|table| table.mappings.touching(iova, last).next()) {
            Ok(Some((iova, _))) => VfioError::AddressKept { iova },
            Ok(None) => VfioError::NoSuchMapping { iova, size },
            Err(error) => error,
        }
    }

    /// VFIO_IOMMU_UNMAP_DMA: how many bytes were unmapped. With `bitmap`, which the flags ask for, the pages that were
    /// written go there.
    pub fn unmap(&self, client: &dyn Client, arg: &DmaUnmap, bitmap: Option<BitmapArg>) -> Result<u64, VfioError> {
        let &DmaUnmap { flags, iova, size, .. } = arg;
        if flags & VFIO_DMA_UNMAP_FLAG_VADDR != 0 {
            return Err(VfioError::Emulated);
        }
        let range = VfioError::Range { iova, size, vaddr: 0 };
        let last = match flags & VFIO_DMA_UNMAP_FLAG_ALL != 0 {
            true if iova == 0 && size == 0 => u64::MAX,
            false if (iova | size) % PAGE == 0 => last(iova, size).ok_or(range)?,
            _ => return Err(range),
        };
        match bitmap {
            Some(bitmap) => self.unmap_tracked(client, iova, last, bitmap),
            None => {
                let mut table = self.lock()?;
                let doomed = self.doomed(&table, iova, last)?;
                Ok(table.remove(&doomed).bytes)
            }
        }
    }

    /// What an unmap of `iova..=last` removes.
    pub fn doomed(&self, table: &Table, iova: u64, last: u64) -> Result<Vec<(u64, u64)>, VfioError> {
        match self.version {
            Version::V2 => table.whole(iova, last),
            Version::V1 => {
                let mut doomed: Vec<_> = table.mappings.touching(iova, last).collect();
                // What begins before the range stops a v1 unmap: it removes nothing, and says so by its size.
                if doomed.first().is_some_and(|&(first, _)| first < iova) {
                    doomed.clear();
                }
                Ok(doomed)
            }
        }
    }
}

impl Table {
    /// The mappings in `first..=last`, none of which it may cut through.
    pub fn whole(&self, first: u64, last: u64) -> Result<Vec<(u64, u64)>, VfioError> {
        let mappings: Vec<_> = self.mappings.touching(first, last).collect();
        match mappings.iter().find(|mapping| mapping.0 < first || mapping.1 > last) {
            Some(&(iova, _)) => Err(MapError::Bisected { first, last, iova }.into()),
            None => Ok(mappings),
        }
    }

    /// Removes mappings, and what is known of their pages.
    pub fn remove(&mut self, doomed: &[(u64, u64)]) -> Unmapped {
        let removed = self.mappings.remove(doomed);
        if let Some(dirty) = &self.dirty {
            dirty.forget(doomed);
        }
        removed
    }
}

/// What may come with flags of UNMAP_DMA: whether a bitmap does.
pub(crate) fn check_unmap_flags(flags: u32) -> Result<bool, VfioError> {
    let bitmap = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
    let allowed = bitmap | VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR;
    check_flags(flags, allowed)?;
    if flags & bitmap != 0 && flags != bitmap {
        return Err(VfioError::Flags { flags, allowed });
    }
    Ok(flags & bitmap != 0)
}

/// Whether the pages of a mapping, given as first and last address, can be tracked.
pub(crate) fn check_trackable(first: u64, last: u64) -> Result<(), VfioError> {
    if (last - first) / PAGE >= MAX_BITMAP_PAGES { Err(VfioError::Untrackable { first, last }) } else { Ok(()) }
}

/// Bytes of a bitmap of so many pages, in words of 64 bits.
pub(crate) const fn bitmap_len(pages: u64) -> u64 {
    pages.div_ceil(64) * 8
}

/// The last of `size` bytes from `first`; `None` when there is none, or beyond the address space.
pub(crate) fn last(first: u64, size: u64) -> Option<u64> {
    first.checked_add(size.checked_sub(1)?)
}
