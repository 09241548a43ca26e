//! The structures of the vhost commands.

use crate::error::VhostError;
use devnode::Ioctl;
use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct vhost_vring_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct VringState {
    pub index: u32,
    pub num: u32,
}

/// `struct vhost_vring_file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct VringFile {
    pub index: u32,
    pub fd: i32,
}

/// `struct vhost_vring_addr`; the used ring comes before the available ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct VringAddr {
    pub index: u32,
    pub flags: u32,
    pub desc: u64,
    pub used: u64,
    pub avail: u64,
    pub log: u64,
}

/// `struct vhost_vdpa_config` without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct ConfigRange {
    pub offset: u32,
    pub len: u32,
}

/// `struct vhost_vdpa_iova_range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct IovaRange {
    pub first: u64,
    pub last: u64,
}

/// The argument of a call as the kernel copied it in.
pub(crate) fn argument<T: FromBytes>(call: &Ioctl<'_>) -> Result<T, VhostError> {
    let (value, _) = T::read_from_prefix(call.input).map_err(|_| Errno::EFAULT)?;
    Ok(value)
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
        assert_eq!(size_of::<IovaRange>(), size_of::<kernel::vhost_vdpa_iova_range>());
        assert_eq!(offset_of!(VringAddr, used), offset_of!(kernel::vhost_vring_addr, used_user_addr));
        assert_eq!(offset_of!(VringAddr, avail), offset_of!(kernel::vhost_vring_addr, avail_user_addr));
        assert_eq!(offset_of!(VringAddr, log), offset_of!(kernel::vhost_vring_addr, log_guest_addr));
    }
}
