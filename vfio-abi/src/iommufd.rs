//! The iommufd commands (`/dev/iommu`), by number. The first field of every argument is its size.

use crate::command::VFIO_TYPE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const fn command(nr: u32) -> u32 {
    ((VFIO_TYPE as u32) << 8) | (0x80 + nr)
}

macro_rules! commands {
    ($($name:ident = $nr:literal;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`.")] pub const $name: u32 = command($nr);)*

        /// The name of a command, `None` when no iommufd command has this number.
        pub fn name(cmd: u32) -> Option<&'static str> {
            match cmd {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

commands! {
    IOMMU_DESTROY = 0;
    IOMMU_IOAS_ALLOC = 1;
    IOMMU_IOAS_ALLOW_IOVAS = 2;
    IOMMU_IOAS_COPY = 3;
    IOMMU_IOAS_IOVA_RANGES = 4;
    IOMMU_IOAS_MAP = 5;
    IOMMU_IOAS_UNMAP = 6;
    IOMMU_OPTION = 7;
    IOMMU_VFIO_IOAS = 8;
    IOMMU_HWPT_ALLOC = 9;
    IOMMU_GET_HW_INFO = 10;
    IOMMU_HWPT_SET_DIRTY_TRACKING = 11;
    IOMMU_HWPT_GET_DIRTY_BITMAP = 12;
    IOMMU_HWPT_INVALIDATE = 13;
    IOMMU_FAULT_QUEUE_ALLOC = 14;
    IOMMU_IOAS_MAP_FILE = 15;
    IOMMU_VIOMMU_ALLOC = 16;
    IOMMU_VDEVICE_ALLOC = 17;
    IOMMU_IOAS_CHANGE_PROCESS = 18;
    IOMMU_VEVENTQ_ALLOC = 19;
    IOMMU_HW_QUEUE_ALLOC = 20;
}

/// `IOMMU_IOAS_MAP_FIXED_IOVA`: the caller chose the address.
pub const IOMMU_IOAS_MAP_FIXED_IOVA: u32 = 1;
/// `IOMMU_IOAS_MAP_WRITEABLE`: the device may write.
pub const IOMMU_IOAS_MAP_WRITEABLE: u32 = 2;
/// `IOMMU_IOAS_MAP_READABLE`: the device may read.
pub const IOMMU_IOAS_MAP_READABLE: u32 = 4;

/// `IOMMU_OPTION_RLIMIT_MODE`: of the whole context.
pub const IOMMU_OPTION_RLIMIT_MODE: u32 = 0;
/// `IOMMU_OPTION_HUGE_PAGES`: of an IOAS.
pub const IOMMU_OPTION_HUGE_PAGES: u32 = 1;
/// `IOMMU_OPTION_OP_SET`.
pub const IOMMU_OPTION_OP_SET: u16 = 0;
/// `IOMMU_OPTION_OP_GET`.
pub const IOMMU_OPTION_OP_GET: u16 = 1;

/// `IOMMU_VFIO_IOAS_GET`.
pub const IOMMU_VFIO_IOAS_GET: u16 = 0;
/// `IOMMU_VFIO_IOAS_SET`.
pub const IOMMU_VFIO_IOAS_SET: u16 = 1;
/// `IOMMU_VFIO_IOAS_CLEAR`.
pub const IOMMU_VFIO_IOAS_CLEAR: u16 = 2;

/// `VFIO_DEVICE_ATTACH_PASID`, and that of DETACH.
pub const VFIO_DEVICE_PASID: u32 = 1;

macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
            #[repr(C)]
            pub struct $name {
                /// Bytes of the structure as the caller has it.
                pub size: u32,
                $($(#[$field_doc])* pub $field: $type,)*
            }
        )*
    };
}

structures! {
    /// `struct iommu_destroy`.
    Destroy {
        /// Any object.
        id: u32,
    }
    /// `struct iommu_ioas_alloc`.
    IoasAlloc {
        /// Zero.
        flags: u32,
        /// Out: the new object.
        out_ioas_id: u32,
    }
    /// `struct iommu_ioas_allow_iovas`.
    IoasAllowIovas {
        /// Which IOAS.
        ioas_id: u32,
        /// How many ranges.
        num_iovas: u32,
        /// Zero.
        reserved: u32,
        /// Where the caller has them, [`IovaRange`] each.
        allowed_iovas: u64,
    }
    /// `struct iommu_ioas_copy`.
    IoasCopy {
        /// `IOMMU_IOAS_MAP_*`.
        flags: u32,
        /// Where to.
        dst_ioas_id: u32,
        /// Where from.
        src_ioas_id: u32,
        /// Bytes.
        length: u64,
        /// In, where it is chosen, and out: first address of the copy.
        dst_iova: u64,
        /// First address of what is copied.
        src_iova: u64,
    }
    /// `struct iommu_ioas_iova_ranges`.
    IoasIovaRanges {
        /// Which IOAS.
        ioas_id: u32,
        /// In: how many ranges there is room for. Out: how many there are.
        num_iovas: u32,
        /// Zero.
        reserved: u32,
        /// Where the caller wants them, [`IovaRange`] each.
        allowed_iovas: u64,
        /// Out: what addresses and lengths are multiples of.
        out_iova_alignment: u64,
    }
    /// `struct iommu_ioas_map`.
    IoasMap {
        /// `IOMMU_IOAS_MAP_*`.
        flags: u32,
        /// Which IOAS.
        ioas_id: u32,
        /// Zero.
        reserved: u32,
        /// Address in the caller.
        user_va: u64,
        /// Bytes.
        length: u64,
        /// In, where it is chosen, and out: first address of the device.
        iova: u64,
    }
    /// `struct iommu_ioas_map_file`.
    IoasMapFile {
        /// `IOMMU_IOAS_MAP_*`.
        flags: u32,
        /// Which IOAS.
        ioas_id: u32,
        /// A memory file of the caller.
        fd: i32,
        /// First byte of it.
        start: u64,
        /// Bytes.
        length: u64,
        /// In, where it is chosen, and out: first address of the device.
        iova: u64,
    }
    /// `struct iommu_ioas_unmap`.
    IoasUnmap {
        /// Which IOAS.
        ioas_id: u32,
        /// First address.
        iova: u64,
        /// In: bytes. Out: bytes that were unmapped.
        length: u64,
    }
    /// `struct iommu_option`.
    IommuOption {
        /// `IOMMU_OPTION_*`.
        option_id: u32,
        /// `IOMMU_OPTION_OP_*`.
        op: u16,
        /// Zero.
        reserved: u16,
        /// Of which object, where it is of one.
        object_id: u32,
        /// In or out: the value.
        val64: u64,
    }
    /// `struct iommu_vfio_ioas`.
    VfioIoas {
        /// In or out: the IOAS.
        ioas_id: u32,
        /// `IOMMU_VFIO_IOAS_*`.
        op: u16,
        /// Zero.
        reserved: u16,
    }
}

/// `struct iommu_iova_range`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IovaRange {
    /// First address.
    pub start: u64,
    /// Last address.
    pub last: u64,
}

/// `struct vfio_device_bind_iommufd`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BindIommufd {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Zero.
    pub flags: u32,
    /// An open `/dev/iommu` of the caller.
    pub iommufd: i32,
    /// Out: the device as an object of it.
    pub out_devid: u32,
}

/// `struct vfio_device_attach_iommufd_pt`, without the PASID.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AttachIommufdPt {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// `VFIO_DEVICE_ATTACH_PASID`.
    pub flags: u32,
    /// In: an IOAS. Out: what the device is attached to.
    pub pt_id: u32,
}

/// `struct vfio_device_detach_iommufd_pt`, without the PASID.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DetachIommufdPt {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// `VFIO_DEVICE_DETACH_PASID`.
    pub flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommufd_bindings::iommufd;
    use std::mem::{offset_of, size_of};
    use vfio_bindings::bindings::vfio;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!(size_of::<Destroy>(), size_of::<iommufd::iommu_destroy>());
        assert_eq!(size_of::<IoasAlloc>(), size_of::<iommufd::iommu_ioas_alloc>());
        assert_eq!(size_of::<IoasAllowIovas>(), size_of::<iommufd::iommu_ioas_allow_iovas>());
        assert_eq!(size_of::<IoasCopy>(), size_of::<iommufd::iommu_ioas_copy>());
        assert_eq!(size_of::<IoasIovaRanges>(), size_of::<iommufd::iommu_ioas_iova_ranges>());
        assert_eq!(size_of::<IoasMap>(), size_of::<iommufd::iommu_ioas_map>());
        assert_eq!(size_of::<IoasUnmap>(), size_of::<iommufd::iommu_ioas_unmap>());
        assert_eq!(size_of::<IommuOption>(), size_of::<iommufd::iommu_option>());
        assert_eq!(size_of::<VfioIoas>(), size_of::<iommufd::iommu_vfio_ioas>());
        assert_eq!(offset_of!(IoasCopy, src_iova), offset_of!(iommufd::iommu_ioas_copy, src_iova));
        assert_eq!(offset_of!(IoasMap, user_va), offset_of!(iommufd::iommu_ioas_map, user_va));
        assert_eq!(offset_of!(IommuOption, object_id), offset_of!(iommufd::iommu_option, object_id));
        assert_eq!(size_of::<IoasMapFile>(), 40);
        assert_eq!(size_of::<BindIommufd>(), offset_of!(vfio::vfio_device_bind_iommufd, token_uuid_ptr));
        assert_eq!(offset_of!(BindIommufd, out_devid), offset_of!(vfio::vfio_device_bind_iommufd, out_devid));
        assert_eq!(size_of::<AttachIommufdPt>(), offset_of!(vfio::vfio_device_attach_iommufd_pt, pasid));
        assert_eq!(size_of::<DetachIommufdPt>(), offset_of!(vfio::vfio_device_detach_iommufd_pt, pasid));
    }
}
