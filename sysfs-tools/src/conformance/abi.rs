//! Numbers of the vhost and virtio interfaces, as the kernel's headers have them.

pub const VHOST_GET_FEATURES: u32 = 0x8008_af00;
pub const VHOST_SET_FEATURES: u32 = 0x4008_af00;
pub const VHOST_SET_OWNER: u32 = 0xaf01;
pub const VHOST_SET_LOG_BASE: u32 = 0x4008_af04;
pub const VHOST_SET_VRING_NUM: u32 = 0x4008_af10;
pub const VHOST_SET_VRING_ADDR: u32 = 0x4028_af11;
pub const VHOST_SET_VRING_BASE: u32 = 0x4008_af12;
pub const VHOST_GET_VRING_BASE: u32 = 0xc008_af12;
pub const VHOST_SET_VRING_KICK: u32 = 0x4008_af20;
pub const VHOST_SET_VRING_CALL: u32 = 0x4008_af21;
pub const VHOST_SET_BACKEND_FEATURES: u32 = 0x4008_af25;
pub const VHOST_GET_BACKEND_FEATURES: u32 = 0x8008_af26;
pub const VHOST_VDPA_GET_DEVICE_ID: u32 = 0x8004_af70;
pub const VHOST_VDPA_GET_STATUS: u32 = 0x8001_af71;
pub const VHOST_VDPA_SET_STATUS: u32 = 0x4001_af72;
pub const VHOST_VDPA_GET_CONFIG: u32 = 0x8008_af73;
pub const VHOST_VDPA_SET_CONFIG: u32 = 0x4008_af74;
pub const VHOST_VDPA_SET_VRING_ENABLE: u32 = 0x4008_af75;
pub const VHOST_VDPA_GET_VRING_NUM: u32 = 0x8002_af76;
pub const VHOST_VDPA_SET_CONFIG_CALL: u32 = 0x4004_af77;
pub const VHOST_VDPA_GET_IOVA_RANGE: u32 = 0x8010_af78;
pub const VHOST_VDPA_GET_CONFIG_SIZE: u32 = 0x8004_af79;
pub const VHOST_VDPA_GET_AS_NUM: u32 = 0x8004_af7a;
pub const VHOST_VDPA_GET_VRING_GROUP: u32 = 0xc008_af7b;
pub const VHOST_VDPA_SUSPEND: u32 = 0xaf7d;
pub const VHOST_VDPA_RESUME: u32 = 0xaf7e;
pub const VHOST_VDPA_GET_VQS_COUNT: u32 = 0x8004_af80;
pub const VHOST_VDPA_GET_GROUP_NUM: u32 = 0x8004_af81;
/// A number of the vhost type that no call has.
pub const UNKNOWN: u32 = 0xaf6f;

pub const BACKEND_BATCH: u64 = 1 << 2;
pub const BACKEND_SUSPEND: u64 = 1 << 4;
pub const BACKEND_RESUME: u64 = 1 << 5;
pub const IOTLB_UPDATE: u8 = 2;
pub const IOTLB_INVALIDATE: u8 = 3;
pub const IOTLB_BATCH_BEGIN: u8 = 5;
pub const IOTLB_BATCH_END: u8 = 6;
/// Bytes of `struct vhost_msg` and of `struct vhost_msg_v2`.
pub const MESSAGE: usize = 72;

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
