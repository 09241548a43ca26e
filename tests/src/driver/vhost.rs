//! The vhost file of an instance: one method an ioctl, and the IOTLB messages.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;

use super::sys::{ioctl_bytes, ioctl_value};
use super::{Error, Memory, Result};

/// Feature bits (VIRTIO 1.3, sections 5.1.3 and 6), as masks.
pub mod feature {
    /// VIRTIO_NET_F_MRG_RXBUF.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// VIRTIO_F_INDIRECT_DESC.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// VIRTIO_F_EVENT_IDX.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// VIRTIO_F_VERSION_1.
    pub const VERSION_1: u64 = 1 << 32;
    /// VIRTIO_F_ACCESS_PLATFORM.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// Backend feature bits of `linux/vhost_types.h`, as masks.
pub mod backend_feature {
    /// Messages are `struct vhost_msg_v2`.
    pub const IOTLB_MSG_V2: u64 = 1 << 1;
    /// Messages may come in batches.
    pub const IOTLB_BATCH: u64 = 1 << 2;
}

/// The device status byte (VIRTIO 1.3, section 2.1).
pub mod status {
    /// The driver saw the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver runs.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on without a reset.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver gave up.
    pub const FAILED: u8 = 128;
}

/// The addresses of a ring, as the device sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VringAddr {
    /// Of the descriptor table.
    pub desc: u64,
    /// Of the available ring.
    pub avail: u64,
    /// Of the used ring.
    pub used: u64,
}

/// `type` of an IOTLB message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IotlbKind {
    /// Adds a mapping.
    Update = 2,
    /// Takes mappings away.
    Invalidate = 3,
    /// Opens a batch.
    BatchBegin = 5,
    /// Applies a batch.
    BatchEnd = 6,
}

/// `dev/vhost-mdev/<uuid>`, opened.
pub struct Vhost {
    /// The file, for calls that this type has no method for.
    pub file: File,
}

impl Vhost {
    /// Opens the vhost file of an instance.
    ///
    /// # Errors
    /// Of the open.
    pub fn open(root: &Path, uuid: &str) -> Result<Self> {
        let path = root.join("dev/vhost-mdev").join(uuid);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Self { file }),
            Err(e) => Err(Error::Path { path, errno: Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO)) }),
        }
    }

    /// VHOST_SET_OWNER.
    ///
    /// # Errors
    /// Of the call, as of every method here.
    pub fn set_owner(&self) -> Result<()> {
        ioctl_value(&self.file, 0xaf01, 0).map(drop).map_err(|errno| Error::Call { call: "VHOST_SET_OWNER", errno })
    }

    /// VHOST_GET_FEATURES.
    ///
    /// # Errors
    /// Of the call.
    pub fn features(&self) -> Result<u64> {
        self.get("VHOST_GET_FEATURES", 0x8008_af00).map(u64::from_ne_bytes)
    }

    /// VHOST_SET_FEATURES.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_features(&self, features: u64) -> Result<()> {
        self.set("VHOST_SET_FEATURES", 0x4008_af00, &features.to_ne_bytes())
    }

    /// VHOST_GET_BACKEND_FEATURES.
    ///
    /// # Errors
    /// Of the call.
    pub fn backend_features(&self) -> Result<u64> {
        self.get("VHOST_GET_BACKEND_FEATURES", 0x8008_af26).map(u64::from_ne_bytes)
    }

    /// VHOST_SET_BACKEND_FEATURES.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_backend_features(&self, features: u64) -> Result<()> {
        self.set("VHOST_SET_BACKEND_FEATURES", 0x4008_af25, &features.to_ne_bytes())
    }

    /// VHOST_SET_VRING_NUM.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_vring_num(&self, index: u32, num: u32) -> Result<()> {
        self.set("VHOST_SET_VRING_NUM", 0x4008_af10, &pair(index, num))
    }

    /// VHOST_SET_VRING_ADDR, without logging.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_vring_addr(&self, index: u32, ring: VringAddr) -> Result<()> {
        let mut argument = pair(index, 0).to_vec();
        for word in [ring.desc, ring.used, ring.avail, 0] {
            argument.extend(word.to_ne_bytes());
        }
        self.set("VHOST_SET_VRING_ADDR", 0x4028_af11, &argument)
    }

    /// VHOST_SET_VRING_BASE.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_vring_base(&self, index: u32, base: u32) -> Result<()> {
        self.set("VHOST_SET_VRING_BASE", 0x4008_af12, &pair(index, base))
    }

    /// VHOST_GET_VRING_BASE.
    ///
    /// # Errors
    /// Of the call.
    ///
    /// # Panics
    /// Never: the answer is as long as the question.
    pub fn vring_base(&self, index: u32) -> Result<u32> {
        let mut argument = pair(index, 0);
        self.bytes("VHOST_GET_VRING_BASE", 0xc008_af12, &mut argument)?;
        Ok(u32::from_ne_bytes(argument[4..].try_into().expect("4 bytes")))
    }

    /// VHOST_SET_VRING_KICK.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_vring_kick(&self, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.set("VHOST_SET_VRING_KICK", 0x4008_af20, &file(index, fd))
    }

    /// VHOST_SET_VRING_CALL.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_vring_call(&self, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.set("VHOST_SET_VRING_CALL", 0x4008_af21, &file(index, fd))
    }

    /// VHOST_SET_VRING_ERR.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_vring_err(&self, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.set("VHOST_SET_VRING_ERR", 0x4008_af22, &file(index, fd))
    }

    /// VHOST_VDPA_GET_DEVICE_ID.
    ///
    /// # Errors
    /// Of the call.
    pub fn device_id(&self) -> Result<u32> {
        self.get("VHOST_VDPA_GET_DEVICE_ID", 0x8004_af70).map(u32::from_ne_bytes)
    }

    /// VHOST_VDPA_GET_STATUS.
    ///
    /// # Errors
    /// Of the call.
    pub fn status(&self) -> Result<u8> {
        self.get::<1>("VHOST_VDPA_GET_STATUS", 0x8001_af71).map(|[status]| status)
    }

    /// VHOST_VDPA_SET_STATUS; 0 resets.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_status(&self, status: u8) -> Result<()> {
        self.set("VHOST_VDPA_SET_STATUS", 0x4001_af72, &[status])
    }

    /// VHOST_VDPA_GET_CONFIG.
    ///
    /// # Errors
    /// Of the call.
    pub fn config(&self, offset: u32, len: u32) -> Result<Vec<u8>> {
        let mut argument = pair(offset, len).to_vec();
        // the answer of a length that nothing can have is an errno, and needs no room
        argument.resize(8 + usize::try_from(len).unwrap_or(0).min(0x1_0000), 0);
        self.bytes("VHOST_VDPA_GET_CONFIG", 0x8008_af73, &mut argument)?;
        Ok(argument.split_off(8))
    }

    /// VHOST_VDPA_SET_CONFIG.
    ///
    /// # Errors
    /// Of the call.
    ///
    /// # Panics
    /// When `bytes` is longer than 4 GiB.
    pub fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<()> {
        let mut argument = pair(offset, bytes.len().try_into().expect("a length")).to_vec();
        argument.extend(bytes);
        self.set("VHOST_VDPA_SET_CONFIG", 0x4008_af74, &argument)
    }

    /// VHOST_VDPA_SET_VRING_ENABLE.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_vring_enable(&self, index: u32, enable: bool) -> Result<()> {
        self.set("VHOST_VDPA_SET_VRING_ENABLE", 0x4008_af75, &pair(index, enable.into()))
    }

    /// VHOST_VDPA_GET_VRING_NUM: the largest ring.
    ///
    /// # Errors
    /// Of the call.
    pub fn vring_num_max(&self) -> Result<u16> {
        self.get("VHOST_VDPA_GET_VRING_NUM", 0x8002_af76).map(u16::from_ne_bytes)
    }

    /// VHOST_VDPA_GET_VQS_COUNT.
    ///
    /// # Errors
    /// Of the call.
    pub fn vqs_count(&self) -> Result<u32> {
        self.get("VHOST_VDPA_GET_VQS_COUNT", 0x8004_af80).map(u32::from_ne_bytes)
    }

    /// VHOST_VDPA_SUSPEND.
    ///
    /// # Errors
    /// Of the call.
    pub fn suspend(&self) -> Result<()> {
        ioctl_value(&self.file, 0xaf7d, 0).map(drop).map_err(|errno| Error::Call { call: "VHOST_VDPA_SUSPEND", errno })
    }

    /// Writes an IOTLB message (`struct vhost_msg_v2`) that maps `len` bytes of `memory` for reading and writing.
    ///
    /// # Errors
    /// Of the write.
    pub fn iotlb_update(&self, memory: &Memory, offset: usize, len: u64, iova: u64) -> Result<()> {
        self.iotlb(IotlbKind::Update, iova, len, memory.address(offset), 3)
    }

    /// Writes an IOTLB message that takes away every mapping that touches the range.
    ///
    /// # Errors
    /// Of the write.
    pub fn iotlb_invalidate(&self, iova: u64, len: u64) -> Result<()> {
        self.iotlb(IotlbKind::Invalidate, iova, len, 0, 0)
    }

    /// Writes an IOTLB message with every field as given; `perm` is 1 for read, 2 for write, 3 for both.
    ///
    /// # Errors
    /// Of the write.
    pub fn iotlb(&self, kind: IotlbKind, iova: u64, size: u64, uaddr: u64, perm: u8) -> Result<()> {
        let mut message = [0_u8; 72];
        message[0..4].copy_from_slice(&2_u32.to_ne_bytes());
        message[8..16].copy_from_slice(&iova.to_ne_bytes());
        message[16..24].copy_from_slice(&size.to_ne_bytes());
        message[24..32].copy_from_slice(&uaddr.to_ne_bytes());
        message[32] = perm;
        message[33] = kind as u8;
        self.write(&message)
    }

    /// Writes raw bytes to the file.
    ///
    /// # Errors
    /// Of the write, or that not all of it was taken.
    pub fn write(&self, message: &[u8]) -> Result<()> {
        match (&self.file).write(message) {
            Ok(n) if n == message.len() => Ok(()),
            Ok(n) => Err(Error::Device(format!("a message of {} bytes was taken as {n}", message.len()))),
            Err(e) => Err(Error::Call {
                call: "write of an IOTLB message",
                errno: Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO)),
            }),
        }
    }

    fn get<const N: usize>(&self, call: &'static str, number: u32) -> Result<[u8; N]> {
        let mut answer = [0; N];
        self.bytes(call, number, &mut answer)?;
        Ok(answer)
    }

    fn set(&self, call: &'static str, number: u32, argument: &[u8]) -> Result<()> {
        self.bytes(call, number, &mut argument.to_vec())
    }

    fn bytes(&self, call: &'static str, number: u32, argument: &mut [u8]) -> Result<()> {
        ioctl_bytes(&self.file, number, argument).map(drop).map_err(|errno| Error::Call { call, errno })
    }
}

/// `struct vhost_vring_state`.
fn pair(index: u32, num: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&index.to_ne_bytes());
    bytes[4..].copy_from_slice(&num.to_ne_bytes());
    bytes
}

/// `struct vhost_vring_file`; no descriptor is −1.
fn file(index: u32, fd: Option<BorrowedFd<'_>>) -> [u8; 8] {
    pair(index, u32::from_ne_bytes(fd.map_or(-1, |fd| fd.as_raw_fd()).to_ne_bytes()))
}
