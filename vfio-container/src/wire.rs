//! The structures of VFIO's group and type 1 IOMMU commands, as bytes of a client's memory.

use crate::{Client, error::VfioError};
use nix::errno::Errno;
use std::mem::size_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// `struct vfio_group_status`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct GroupStatus {
    pub argsz: u32,
    pub flags: u32,
}

/// `struct vfio_iommu_type1_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct IommuInfo {
    pub argsz: u32,
    pub flags: u32,
    pub page_sizes: u64,
    pub cap_offset: u32,
    pub pad: u32,
}

/// `struct vfio_info_cap_header`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct CapHeader {
    pub id: u16,
    pub version: u16,
    /// Offset of the next capability; 0 for the last.
    pub next: u32,
}

/// `struct vfio_iommu_type1_info_cap_migration`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct CapMigration {
    pub header: CapHeader,
    pub flags: u32,
    pub pad: u32,
    pub page_sizes: u64,
    /// Bytes of the largest bitmap.
    pub max_bitmap: u64,
}

/// `struct vfio_iommu_type1_info_dma_avail`, padded to 8 bytes as the kernel does.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct CapDmaAvail {
    pub header: CapHeader,
    pub avail: u32,
    pub pad: u32,
}

/// `struct vfio_iommu_type1_dma_map`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DmaMap {
    pub argsz: u32,
    pub flags: u32,
    pub vaddr: u64,
    pub iova: u64,
    pub size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`, without what may follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DmaUnmap {
    pub argsz: u32,
    pub flags: u32,
    pub iova: u64,
    pub size: u64,
}

/// `struct vfio_iommu_type1_dirty_bitmap`, without what may follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DirtyPagesArg {
    pub argsz: u32,
    pub flags: u32,
}

/// `struct vfio_bitmap`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct BitmapArg {
    pub page_size: u64,
    /// In bytes.
    pub size: u64,
    /// Where the client has it.
    pub data: u64,
}

/// `struct vfio_iommu_type1_dirty_bitmap_get`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DirtyGet {
    pub iova: u64,
    pub size: u64,
    pub bitmap: BitmapArg,
}

/// Reads the first `size` bytes of a `T` at `addr`; the rest is zero. Its first field, `argsz`, must be at least `size`.
pub(crate) fn fetch<T>(client: &dyn Client, addr: u64, size: usize) -> Result<T, VfioError>
where
    T: FromBytes + FromZeros + IntoBytes + KnownLayout + Immutable,
{
    let mut value = T::new_zeroed();
    let bytes = &mut value.as_mut_bytes()[..size];
    client.read(addr, bytes)?;
    let argsz = bytes.first_chunk().map_or(0, |argsz| u32::from_ne_bytes(*argsz));
    let need = u32::try_from(size).unwrap_or(u32::MAX);
    if argsz < need {
        return Err(VfioError::Argsz { argsz, need });
    }
    Ok(value)
}

/// Reads the `T` that follows a structure of `size` bytes at `addr`, whose `argsz` the client gave.
pub(crate) fn fetch_rest<T>(client: &dyn Client, addr: u64, size: usize, argsz: u32) -> Result<T, VfioError>
where
    T: FromBytes + FromZeros + IntoBytes + KnownLayout + Immutable,
{
    let need = u32::try_from(size + size_of::<T>()).unwrap_or(u32::MAX);
    if argsz < need {
        return Err(VfioError::Argsz { argsz, need });
    }
    let mut value = T::new_zeroed();
    let at = addr.checked_add(size as u64).ok_or(Errno::EFAULT)?;
    client.read(at, value.as_mut_bytes())?;
    Ok(value)
}

/// Refuses flags outside `allowed`.
pub(crate) fn check_flags(flags: u32, allowed: u32) -> Result<(), VfioError> {
    if flags & !allowed == 0 { Ok(()) } else { Err(VfioError::Flags { flags, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_bindings::bindings::vfio;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!(size_of::<GroupStatus>(), size_of::<vfio::vfio_group_status>());
        assert_eq!(size_of::<IommuInfo>(), size_of::<vfio::vfio_iommu_type1_info>());
        assert_eq!(size_of::<DmaMap>(), size_of::<vfio::vfio_iommu_type1_dma_map>());
        assert_eq!(size_of::<DmaUnmap>(), size_of::<vfio::vfio_iommu_type1_dma_unmap>());
        assert_eq!(size_of::<DirtyPagesArg>(), size_of::<vfio::vfio_iommu_type1_dirty_bitmap>());
        assert_eq!(size_of::<DirtyGet>(), size_of::<vfio::vfio_iommu_type1_dirty_bitmap_get>());
        assert_eq!(size_of::<BitmapArg>(), size_of::<vfio::vfio_bitmap>());
        assert_eq!(size_of::<CapMigration>(), size_of::<vfio::vfio_iommu_type1_info_cap_migration>());
        assert_eq!(std::mem::offset_of!(CapMigration, page_sizes), 16);
        assert_eq!(std::mem::offset_of!(IommuInfo, cap_offset), 16);
        assert_eq!(std::mem::offset_of!(DmaMap, size), 24);
        assert_eq!(std::mem::offset_of!(DmaUnmap, size), 16);
    }
}
