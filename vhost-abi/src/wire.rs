//! The structures of the vhost commands (`linux/vhost_types.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct vhost_vring_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VringState {
    /// `index`.
    pub index: u32,
    /// `num`.
    pub num: u32,
}

/// `struct vhost_vring_file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VringFile {
    /// `index`.
    pub index: u32,
    /// `fd`.
    pub fd: i32,
}

/// `struct vhost_vring_addr`; the used ring comes before the available ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VringAddr {
    /// `index`.
    pub index: u32,
    /// `flags`.
    pub flags: u32,
    /// `desc`.
    pub desc: u64,
    /// `used`.
    pub used: u64,
    /// `avail`.
    pub avail: u64,
    /// `log`.
    pub log: u64,
}

/// `struct vhost_memory` without its regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemoryTable {
    /// `nregions`.
    pub regions: u32,
    /// `padding`.
    pub padding: u32,
}

/// `struct vhost_memory_region`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemoryRegion {
    /// `guest_phys_addr`.
    pub gpa: u64,
    /// `memory_size`.
    pub len: u64,
    /// `userspace_addr`.
    pub uaddr: u64,
    /// `flags_padding`.
    pub flags: u64,
}

/// `struct vhost_vdpa_config` without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ConfigRange {
    /// `offset`.
    pub offset: u32,
    /// `len`.
    pub len: u32,
}

/// `struct vhost_vdpa_iova_range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IovaRange {
    /// `first`.
    pub first: u64,
    /// `last`.
    pub last: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use vhost::vhost_kern::vhost_binding as kernel;

    #[test]
    fn layouts_are_those_of_the_vhost_crate() {
        assert_eq!(size_of::<VringState>(), size_of::<kernel::vhost_vring_state>());
        assert_eq!(size_of::<VringFile>(), size_of::<kernel::vhost_vring_file>());
        assert_eq!(size_of::<VringAddr>(), size_of::<kernel::vhost_vring_addr>());
        assert_eq!(size_of::<MemoryTable>(), size_of::<kernel::vhost_memory>());
        assert_eq!(size_of::<MemoryRegion>(), size_of::<kernel::vhost_memory_region>());
        assert_eq!(offset_of!(MemoryRegion, uaddr), offset_of!(kernel::vhost_memory_region, userspace_addr));
        assert_eq!(size_of::<IovaRange>(), size_of::<kernel::vhost_vdpa_iova_range>());
        assert_eq!(offset_of!(VringAddr, used), offset_of!(kernel::vhost_vring_addr, used_user_addr));
        assert_eq!(offset_of!(VringAddr, avail), offset_of!(kernel::vhost_vring_addr, avail_user_addr));
        assert_eq!(offset_of!(VringAddr, log), offset_of!(kernel::vhost_vring_addr, log_guest_addr));
    }
}
