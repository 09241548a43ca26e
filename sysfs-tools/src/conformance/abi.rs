//! What a client of vhost-vdpa files knows by number, beside the commands.

pub use vhost_abi::command::*;

/// Numbers that no call has: of the vhost type, of no type at all, and with another size than the call of that number.
pub const UNKNOWN: [u32; 4] = [0xaf6f, 0x4008_af6e, 0x4008_1234, 0x4010_af00];

pub const BACKEND_BATCH: u64 = 1 << 2;
pub const BACKEND_ASID: u64 = 1 << 3;
pub const BACKEND_SUSPEND: u64 = 1 << 4;
pub const BACKEND_RESUME: u64 = 1 << 5;
pub const BACKEND_ENABLE_LATE: u64 = 1 << 6;
pub const BACKEND_DESC_ASID: u64 = 1 << 7;
pub const BACKEND_PERSIST: u64 = 1 << 8;
pub const IOTLB_MISS: u8 = 1;
pub const IOTLB_UPDATE: u8 = 2;
pub const IOTLB_INVALIDATE: u8 = 3;
pub const IOTLB_BATCH_BEGIN: u8 = 5;
pub const IOTLB_BATCH_END: u8 = 6;
/// Bytes of `struct vhost_msg` and of `struct vhost_msg_v2`.
pub const MESSAGE: usize = 72;

/// `VHOST_ACCESS_RO` and `VHOST_ACCESS_WO`.
pub const READ: u8 = 1;
pub const WRITE: u8 = 2;
/// `VHOST_VRING_F_LOG`.
pub const RING_LOG: u32 = 1;
/// `VHOST_F_LOG_ALL`.
pub const LOG_ALL: u64 = 1 << 26;

pub const RING_PACKED: u64 = 1 << 34;
/// `VIRTIO_NET_F_CTRL_VQ`, and that it takes receive modes and a MAC address.
pub const CTRL_VQ: u64 = 1 << 17;
pub const CTRL_RX: u64 = 1 << 18;
pub const CTRL_MAC_ADDR: u64 = 1 << 23;
pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const ACKNOWLEDGE: u8 = 1;
pub const DRIVER: u8 = 2;
pub const DRIVER_OK: u8 = 4;
pub const FEATURES_OK: u8 = 8;
pub const NEEDS_RESET: u8 = 64;
pub const FAILED: u8 = 128;
/// The device id of network cards (virtio 1.3 §5).
pub const NET: u32 = 1;
