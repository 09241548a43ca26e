//! `dev/vfio/handle`, a node of our own: how a descriptor that an ioctl should have installed in its caller is had.
//!
//! An answer of a FUSE file is a number and cannot carry a descriptor. So whoever wants one opens the node, and turns the
//! empty handle he got into the file he means, naming another descriptor of his as the proof that he may have it. A handle
//! becomes one thing, once. `dev/vfio/stream` is the same, for data streams: who reads one to its end first makes room for
//! what `stat` says, and a device has the size of all its regions. `umdev exec` does this for programs that know nothing of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `_IOW('U', 0x10, GetDevice)`: the handle becomes the VFIO device file that VFIO_GROUP_GET_DEVICE_FD would have installed, with its errors.
pub const UMDEV_HANDLE_GET_DEVICE: u32 = 0x4048_5510;

/// `_IOWR('U', 0x11, MigState)`: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE is set on a device file, with its errors. Answers 1
/// when the handle became the data stream of the new state, 0 when that state has none and the handle is as empty as before.
pub const UMDEV_HANDLE_MIG_STATE: u32 = 0xc008_5511;

/// Longest device name, its final zero included: that of a UUID has room.
pub const NAME_SIZE: usize = 64;

/// The argument of [`UMDEV_HANDLE_GET_DEVICE`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GetDevice {
    /// An open group of the caller, in a container.
    pub group: i32,
    /// Zero.
    pub reserved: u32,
    /// The device's name, ended by a zero.
    pub name: [u8; NAME_SIZE],
}

/// The argument of [`UMDEV_HANDLE_MIG_STATE`].
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MigState {
    /// An open device file of the caller.
    pub device: i32,
    /// The state wanted, `enum vfio_device_mig_state`; on return the state reached.
    pub state: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_the_numbers_encode() {
        assert_eq!(size_of::<GetDevice>(), ((UMDEV_HANDLE_GET_DEVICE >> 16) & 0x3fff) as usize);
        assert_eq!(size_of::<MigState>(), ((UMDEV_HANDLE_MIG_STATE >> 16) & 0x3fff) as usize);
    }
}
