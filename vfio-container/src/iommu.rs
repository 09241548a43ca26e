//! The type 1 IOMMU of a container: what may be mapped and unmapped.

use crate::error::VfioError;
use crate::mappings::{MAX_MAPPINGS, MAX_REGIONS, Mappings};
use crate::wire::{DmaMap, DmaUnmap, check_flags};
use crate::{Client, Home, regions};
use parking_lot::Mutex;
use std::sync::Arc;
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_VADDR, VFIO_DMA_MAP_FLAG_WRITE, VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, VFIO_DMA_UNMAP_FLAG_VADDR,
};
use virtio_mdev_api::dma::{AddressSpace, Limits, MapError, Permissions};

/// Mappings are whole pages of this size.
const PAGE: u64 = 4096;

/// Which rules UNMAP_DMA follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// VFIO_TYPE1_IOMMU: an unmap removes whole mappings, whatever part of them it names.
    V1,
    /// VFIO_TYPE1v2_IOMMU: an unmap must not cut through a mapping.
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
    table: Mutex<Option<Mappings>>,
}

impl Iommu {
    pub fn new(version: Version, home: Home) -> Arc<Self> {
        let space = AddressSpace::new(Limits { max_entries: MAX_REGIONS, ..Limits::default() });
        let table = Mutex::new(Some(Mappings::new(Arc::clone(&space), MAX_MAPPINGS)));
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
        self.table.lock().as_ref().map_or(0, Mappings::room)
    }

    /// All mappings are gone, for good.
    pub fn close(&self) {
        let closed = self.table.lock().take();
        drop(closed);
        self.space.unmap_all();
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
        let mut table = self.table.lock();
        Ok(table.as_mut().ok_or(VfioError::NoIommu)?.add(vec![regions])?)
    }

    fn check_free(&self, first: u64, last: u64) -> Result<(), VfioError> {
        let table = self.table.lock();
        let table = table.as_ref().ok_or(VfioError::NoIommu)?;
        if let Some((other, _)) = table.touching(first, last).next() {
            return Err(MapError::Overlap { iova: first, other }.into());
        }
        if table.room() == 0 {
            return Err(MapError::Full { max: MAX_MAPPINGS }.into());
        }
        Ok(())
    }

    /// A new address is for mappings whose old one was given up, which emulated groups forbid.
    fn refuse_readdress(&self, iova: u64, last: u64, size: u64) -> VfioError {
        match self.table.lock().as_ref().and_then(|table| table.touching(iova, last).next()) {
            Some((iova, _)) => VfioError::AddressKept { iova },
            None => VfioError::NoSuchMapping { iova, size },
        }
    }

    /// VFIO_IOMMU_UNMAP_DMA: how many bytes were unmapped.
    pub fn unmap(&self, arg: &DmaUnmap) -> Result<u64, VfioError> {
        let &DmaUnmap { flags, iova, size, .. } = arg;
        let (bitmap, all, readdress) =
            (VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, VFIO_DMA_UNMAP_FLAG_ALL, VFIO_DMA_UNMAP_FLAG_VADDR);
        let allowed = bitmap | all | readdress;
        check_flags(flags, allowed)?;
        if flags & bitmap != 0 {
            let alone = flags == bitmap;
            return Err(if alone {
                VfioError::NotOffered("a dirty bitmap")
            } else {
                VfioError::Flags { flags, allowed }
            });
        }
        if flags & readdress != 0 {
            return Err(VfioError::Emulated);
        }
        let range = VfioError::Range { iova, size, vaddr: 0 };
        let last = match flags & all != 0 {
            true if iova == 0 && size == 0 => u64::MAX,
            false if (iova | size) % PAGE == 0 => last(iova, size).ok_or(range)?,
            _ => return Err(range),
        };
        let mut table = self.table.lock();
        let table = table.as_mut().ok_or(VfioError::NoIommu)?;
        let mut doomed: Vec<_> = table.touching(iova, last).collect();
        let cut = doomed.iter().find(|mapping| mapping.0 < iova || mapping.1 > last);
        match (self.version, cut) {
            (Version::V2, Some(&(at, _))) => {
                return Err(MapError::Bisected { first: iova, last, iova: at }.into());
            }
            // What begins before the range stops a v1 unmap: it removes nothing, and says so by its size.
            (Version::V1, Some(&(at, _))) if at < iova => doomed.clear(),
            _ => {}
        }
        Ok(table.remove(&doomed))
    }
}

/// The last of `size` bytes from `first`; `None` when there is none, or beyond the address space.
fn last(first: u64, size: u64) -> Option<u64> {
    first.checked_add(size.checked_sub(1)?)
}
