//! The structures of VFIO's group, device and type 1 IOMMU commands, as bytes of a client's memory.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct vfio_group_status`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GroupStatus {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
}

/// `struct vfio_iommu_type1_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IommuInfo {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Page sizes, a bit each.
    pub page_sizes: u64,
    /// Where the capabilities begin; 0 for none.
    pub cap_offset: u32,
    /// Zero.
    pub pad: u32,
}

/// `struct vfio_info_cap_header`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CapHeader {
    /// Which.
    pub id: u16,
    /// Its version.
    pub version: u16,
    /// Offset of the next capability; 0 for the last.
    pub next: u32,
}

/// `struct vfio_iommu_type1_info_cap_migration`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CapMigration {
    /// Which capability.
    pub header: CapHeader,
    /// Flags.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
    /// Page sizes, a bit each.
    pub page_sizes: u64,
    /// Bytes of the largest bitmap.
    pub max_bitmap: u64,
}

/// `struct vfio_iommu_type1_info_dma_avail`, padded to 8 bytes as the kernel does.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CapDmaAvail {
    /// Which capability.
    pub header: CapHeader,
    /// Mappings there is room for.
    pub avail: u32,
    /// Zero.
    pub pad: u32,
}

/// `struct vfio_iommu_type1_dma_map`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DmaMap {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Address in the caller.
    pub vaddr: u64,
    /// First address of the device.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`, without what may follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DmaUnmap {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// First address of the device.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
}

/// `struct vfio_iommu_type1_dirty_bitmap`, without what may follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DirtyPagesArg {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
}

/// `struct vfio_bitmap`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BitmapArg {
    /// Bytes a bit stands for.
    pub page_size: u64,
    /// In bytes.
    pub size: u64,
    /// Where the client has it.
    pub data: u64,
}

/// `struct vfio_iommu_type1_dirty_bitmap_get`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DirtyGet {
    /// First address of the device.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
    /// The bitmap.
    pub bitmap: BitmapArg,
}

/// `struct vfio_device_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DeviceInfo {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Regions, those that are not there included.
    pub num_regions: u32,
    /// Indices of interrupts, those that are not there included.
    pub num_irqs: u32,
    /// Where the capabilities begin; 0 for none.
    pub cap_offset: u32,
    /// Zero.
    pub pad: u32,
}

/// `struct vfio_region_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegionInfo {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Which.
    pub index: u32,
    /// Where the capabilities begin; 0 for none.
    pub cap_offset: u32,
    /// Bytes; 0 for a region that is not there.
    pub size: u64,
    /// Where it begins in the device's file.
    pub offset: u64,
}

/// `struct vfio_irq_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IrqInfo {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Which.
    pub index: u32,
    /// Interrupts of the index; 0 for one that is not there.
    pub count: u32,
}

/// `struct vfio_irq_set`, without what may follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IrqSet {
    /// Bytes of it and of what follows.
    pub argsz: u32,
    /// One kind of data and one action.
    pub flags: u32,
    /// Which.
    pub index: u32,
    /// The first interrupt meant.
    pub start: u32,
    /// How many are meant.
    pub count: u32,
}

/// `struct vfio_device_feature`, without what may follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DeviceFeature {
    /// Bytes of it and of what follows.
    pub argsz: u32,
    /// Which feature, and what is asked of it.
    pub flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;
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
        assert_eq!(size_of::<DeviceInfo>(), size_of::<vfio::vfio_device_info>());
        assert_eq!(size_of::<RegionInfo>(), size_of::<vfio::vfio_region_info>());
        assert_eq!(size_of::<IrqInfo>(), size_of::<vfio::vfio_irq_info>());
        assert_eq!(size_of::<IrqSet>(), size_of::<vfio::vfio_irq_set>());
        assert_eq!(size_of::<DeviceFeature>(), size_of::<vfio::vfio_device_feature>());
        assert_eq!(std::mem::offset_of!(RegionInfo, size), 16);
        assert_eq!(size_of::<CapMigration>(), size_of::<vfio::vfio_iommu_type1_info_cap_migration>());
        assert_eq!(std::mem::offset_of!(CapMigration, page_sizes), 16);
        assert_eq!(std::mem::offset_of!(IommuInfo, cap_offset), 16);
        assert_eq!(std::mem::offset_of!(DmaMap, size), 24);
        assert_eq!(std::mem::offset_of!(DmaUnmap, size), 16);
    }
}
