//! VDUSE's calls and messages (`linux/vduse.h`).

use crate::driver::{CallResult, DriverError, sys};
use std::fs::File;

pub const VDUSE_SET_API_VERSION: u32 = 0x4008_8101;
pub const VDUSE_CREATE_DEV: u32 = 0x4150_8102;
pub const VDUSE_IOTLB_GET_FD: u32 = 0xc020_8110;
pub const VDUSE_DEV_GET_FEATURES: u32 = 0x8008_8111;
pub const VDUSE_VQ_SETUP: u32 = 0x4020_8114;
pub const VDUSE_VQ_GET_INFO: u32 = 0xc030_8115;
pub const VDUSE_VQ_SETUP_KICKFD: u32 = 0x4008_8116;
pub const VDUSE_VQ_INJECT_IRQ: u32 = 0x4004_8117;

pub const VDUSE_GET_VQ_STATE: u32 = 0;
pub const VDUSE_SET_STATUS: u32 = 1;
pub const VDUSE_UPDATE_IOTLB: u32 = 2;
/// Bytes of a request and of a response.
pub const MESSAGE: usize = 152;
/// Where their own part begins.
pub const PAYLOAD: usize = 24;

pub const DRIVER_OK: u8 = 4;
pub const FEATURES_OK: u8 = 8;
/// VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM.
pub const REQUIRED: u64 = 1 << 32 | 1 << 33;
/// The same, VIRTIO_NET_F_MTU, VIRTIO_NET_F_MAC and VIRTIO_NET_F_STATUS.
pub const OFFERED: u64 = REQUIRED | 1 << 3 | 1 << 5 | 1 << 16;
pub const QUEUE_SIZE: u16 = 256;
const NET: u32 = 1;

/// Native words from a message.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// `struct vduse_dev_config` with its configuration space.
pub fn new_device(name: &str, features: u64, config: &[u8]) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(256, 0);
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(NET.to_ne_bytes());
    bytes.extend(features.to_ne_bytes());
    bytes.extend(2u32.to_ne_bytes());
    bytes.extend(4096u32.to_ne_bytes());
    bytes.resize(bytes.len() + 13 * 4, 0);
    bytes.extend(u32::try_from(config.len()).expect("a small space").to_ne_bytes());
    bytes.extend(config);
    bytes
}

/// `struct vduse_vq_config`.
pub fn new_queue(index: usize, size: u16) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&u32::try_from(index).expect("a queue").to_ne_bytes());
    bytes[4..6].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// The head of `struct vduse_dev_request`.
pub struct Request {
    pub kind: u32,
    pub id: u32,
}

impl Request {
    pub fn of(bytes: &[u8; MESSAGE]) -> Self {
        Self { kind: half(bytes, 0), id: half(bytes, 4) }
    }
}

/// `struct vduse_vq_state` in answer to a request for it.
pub fn vq_state(request: &[u8; MESSAGE], base: impl FnOnce(u32) -> CallResult<u16>) -> CallResult<[u8; 8]> {
    let index = half(request, PAYLOAD);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&index.to_ne_bytes());
    bytes[4..6].copy_from_slice(&base(index)?.to_ne_bytes());
    Ok(bytes)
}

/// `struct vduse_dev_response`.
pub fn response(id: u32, done: bool, payload: [u8; 8]) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    bytes[..4].copy_from_slice(&id.to_ne_bytes());
    bytes[4..8].copy_from_slice(&u32::from(!done).to_ne_bytes());
    bytes[PAYLOAD..PAYLOAD + 8].copy_from_slice(&payload);
    bytes
}

/// `struct vduse_vq_info` of a split ring.
pub struct VqInfo {
    pub index: u32,
    pub size: u16,
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
    pub base: u16,
    pub ready: bool,
}

impl VqInfo {
    pub fn get(file: &File, index: u32) -> CallResult<Self> {
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(&index.to_ne_bytes());
        sys::ioctl(file, VDUSE_VQ_GET_INFO, &mut bytes).map_err(DriverError::call("VDUSE_VQ_GET_INFO"))?;
        Ok(Self {
            index,
            size: u16::try_from(half(&bytes, 4)).unwrap_or(0),
            desc: word(&bytes, 8),
            driver: word(&bytes, 16),
            device: word(&bytes, 24),
            base: u16::from_ne_bytes([bytes[32], bytes[33]]),
            ready: bytes[40] != 0,
        })
    }
}
