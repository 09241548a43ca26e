//! What a client of vhost-vdpa files knows by number, beside the commands.

pub use vhost_abi::command::*;
pub use vhost_abi::feature::{
    VHOST_BACKEND_F_DESC_ASID as BACKEND_DESC_ASID, VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK as BACKEND_ENABLE_LATE,
    VHOST_BACKEND_F_IOTLB_ASID as BACKEND_ASID, VHOST_BACKEND_F_IOTLB_BATCH as BACKEND_BATCH,
    VHOST_BACKEND_F_IOTLB_PERSIST as BACKEND_PERSIST, VHOST_BACKEND_F_RESUME as BACKEND_RESUME,
    VHOST_BACKEND_F_SUSPEND as BACKEND_SUSPEND, VHOST_F_LOG_ALL as LOG_ALL, VHOST_VRING_F_LOG as RING_LOG,
};
pub use vhost_abi::{
    MESSAGE_SIZE as MESSAGE, VHOST_IOTLB_BATCH_BEGIN as IOTLB_BATCH_BEGIN, VHOST_IOTLB_BATCH_END as IOTLB_BATCH_END,
    VHOST_IOTLB_INVALIDATE as IOTLB_INVALIDATE, VHOST_IOTLB_MISS as IOTLB_MISS, VHOST_IOTLB_UPDATE as IOTLB_UPDATE,
};

/// Numbers that no call has: of the vhost type, of no type at all, and with another size than the call of that number.
pub const UNKNOWN: [u32; 4] = [0xaf6f, 0x4008_af6e, 0x4008_1234, 0x4010_af00];

/// `VHOST_ACCESS_RO` and `VHOST_ACCESS_WO`.
pub const READ: u8 = 1;
pub const WRITE: u8 = 2;
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
