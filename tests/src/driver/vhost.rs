//! The vhost file of an instance.

use super::abi::*;
use super::sys::{self, Map};
use super::{CallResult, DriverError};
use nix::sys::mman::{MapFlags, ProtFlags};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// `dev/vhost-mdev/<uuid>`, open.
#[derive(Debug)]
pub struct Vhost(pub File);

impl AsFd for Vhost {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Vhost {
    /// Opens the file of an instance of the daemon at `root`.
    pub fn open(root: &Path, uuid: &str) -> CallResult<Self> {
        let path = root.join("dev/vhost-mdev").join(uuid);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        file.map(Self).map_err(DriverError::io(format_args!("open {}", path.display())))
    }

    fn call(&self, name: &str, cmd: u32, argument: &mut [u8]) -> CallResult<i32> {
        sys::ioctl(self, cmd, argument).map_err(DriverError::call(name))
    }

    /// VHOST_SET_OWNER.
    pub fn set_owner(&self) -> CallResult<()> {
        sys::ioctl_value(self, VHOST_SET_OWNER, 0).map(drop).map_err(DriverError::call("VHOST_SET_OWNER"))
    }

    /// VHOST_GET_FEATURES.
    pub fn features(&self) -> CallResult<u64> {
        let mut bytes = [0; 8];
        self.call("VHOST_GET_FEATURES", VHOST_GET_FEATURES, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// VHOST_SET_FEATURES.
    pub fn set_features(&self, features: u64) -> CallResult<()> {
        self.call("VHOST_SET_FEATURES", VHOST_SET_FEATURES, &mut features.to_le_bytes()).map(drop)
    }

    /// VHOST_GET_BACKEND_FEATURES.
    pub fn backend_features(&self) -> CallResult<u64> {
        let mut bytes = [0; 8];
        self.call("VHOST_GET_BACKEND_FEATURES", VHOST_GET_BACKEND_FEATURES, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// VHOST_SET_BACKEND_FEATURES.
    pub fn set_backend_features(&self, features: u64) -> CallResult<()> {
        self.call("VHOST_SET_BACKEND_FEATURES", VHOST_SET_BACKEND_FEATURES, &mut features.to_le_bytes()).map(drop)
    }

    /// VHOST_VDPA_GET_STATUS.
    pub fn status(&self) -> CallResult<u8> {
        let mut byte = [0];
        self.call("VHOST_VDPA_GET_STATUS", VHOST_VDPA_GET_STATUS, &mut byte)?;
        Ok(byte[0])
    }

    /// VHOST_VDPA_SET_STATUS.
    pub fn set_status(&self, status: u8) -> CallResult<()> {
        self.call("VHOST_VDPA_SET_STATUS", VHOST_VDPA_SET_STATUS, &mut [status]).map(drop)
    }

    /// VHOST_VDPA_GET_CONFIG.
    pub fn config(&self, offset: u32, len: u32) -> CallResult<Vec<u8>> {
        let mut bytes = config_argument(offset, len);
        bytes.resize(8 + usize::try_from(len).expect("64 bits"), 0);
        self.call("VHOST_VDPA_GET_CONFIG", VHOST_VDPA_GET_CONFIG, &mut bytes)?;
        Ok(bytes.split_off(8))
    }

    /// VHOST_VDPA_SET_CONFIG.
    pub fn set_config(&self, offset: u32, data: &[u8]) -> CallResult<()> {
        let mut bytes = config_argument(offset, u32::try_from(data.len()).expect("configuration space is small"));
        bytes.extend_from_slice(data);
        self.call("VHOST_VDPA_SET_CONFIG", VHOST_VDPA_SET_CONFIG, &mut bytes).map(drop)
    }

    /// Any call whose argument is a `struct vhost_vring_state`; returns its `num` afterwards.
    pub fn vring_state(&self, name: &str, cmd: u32, index: u32, num: u32) -> CallResult<u32> {
        let mut bytes = pair(index, num);
        self.call(name, cmd, &mut bytes)?;
        let [.., a, b, c, d] = bytes;
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    /// VHOST_SET_VRING_NUM.
    pub fn set_vring_num(&self, index: u32, size: u32) -> CallResult<()> {
        self.vring_state("VHOST_SET_VRING_NUM", VHOST_SET_VRING_NUM, index, size).map(drop)
    }

    /// VHOST_SET_VRING_BASE.
    pub fn set_vring_base(&self, index: u32, base: u32) -> CallResult<()> {
        self.vring_state("VHOST_SET_VRING_BASE", VHOST_SET_VRING_BASE, index, base).map(drop)
    }

    /// VHOST_GET_VRING_BASE.
    pub fn vring_base(&self, index: u32) -> CallResult<u32> {
        self.vring_state("VHOST_GET_VRING_BASE", VHOST_GET_VRING_BASE, index, 0)
    }

    /// VHOST_VDPA_SET_VRING_ENABLE.
    pub fn set_vring_enable(&self, index: u32, enable: bool) -> CallResult<()> {
        let num = u32::from(enable);
        self.vring_state("VHOST_VDPA_SET_VRING_ENABLE", VHOST_VDPA_SET_VRING_ENABLE, index, num).map(drop)
    }

    /// VHOST_SET_VRING_ADDR; the addresses are IOVAs.
    pub fn set_vring_addr(&self, index: u32, desc: u64, avail: u64, used: u64) -> CallResult<()> {
        self.set_vring_addr_logged(index, [desc, avail, used], None)
    }

    /// The same; the used ring is logged at address `log`.
    pub fn set_vring_addr_logged(&self, index: u32, addresses: [u64; 3], log: Option<u64>) -> CallResult<()> {
        let [desc, avail, used] = addresses;
        let mut bytes = pair(index, u32::from(log.is_some())).to_vec();
        for address in [desc, used, avail, log.unwrap_or(0)] {
            bytes.extend_from_slice(&address.to_le_bytes());
        }
        self.call("VHOST_SET_VRING_ADDR", VHOST_SET_VRING_ADDR, &mut bytes).map(drop)
    }

    /// VHOST_SET_VRING_KICK, CALL or ERR, with a number that may be no descriptor at all.
    pub fn set_vring_fd_number(&self, cmd: u32, index: u32, fd: i32) -> CallResult<()> {
        let name = match cmd {
            VHOST_SET_VRING_KICK => "VHOST_SET_VRING_KICK",
            VHOST_SET_VRING_CALL => "VHOST_SET_VRING_CALL",
            _ => "VHOST_SET_VRING_ERR",
        };
        self.call(name, cmd, &mut pair(index, fd.cast_unsigned())).map(drop)
    }

    /// VHOST_SET_VRING_KICK, CALL or ERR.
    pub fn set_vring_fd(&self, cmd: u32, index: u32, fd: impl AsFd) -> CallResult<()> {
        self.set_vring_fd_number(cmd, index, fd.as_fd().as_raw_fd())
    }

    /// Maps the doorbell of a queue, as clients of vhost-vdpa do.
    pub fn map_doorbell(&self, index: u32) -> CallResult<Map> {
        let page = NonZeroUsize::new(4096).expect("a page");
        let mapped = Map::of_part(self, i64::from(index) * 4096, page, ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        mapped.map_err(DriverError::call("mmap"))
    }

    /// VHOST_VDPA_SET_CONFIG_CALL.
    pub fn set_config_call(&self, fd: i32) -> CallResult<()> {
        self.call("VHOST_VDPA_SET_CONFIG_CALL", VHOST_VDPA_SET_CONFIG_CALL, &mut fd.to_le_bytes()).map(drop)
    }

    /// VHOST_VDPA_SUSPEND.
    pub fn suspend(&self) -> CallResult<()> {
        sys::ioctl_value(self, VHOST_VDPA_SUSPEND, 0).map(drop).map_err(DriverError::call("VHOST_VDPA_SUSPEND"))
    }

    /// VHOST_VDPA_RESUME.
    pub fn resume(&self) -> CallResult<()> {
        sys::ioctl_value(self, VHOST_VDPA_RESUME, 0).map(drop).map_err(DriverError::call("VHOST_VDPA_RESUME"))
    }

    /// An IOTLB message (v2) that maps, readable and writable.
    pub fn iotlb_update(&self, iova: u64, size: u64, address: u64) -> CallResult<()> {
        self.iotlb(VHOST_IOTLB_UPDATE, 0, iova, size, address, 3)
    }

    /// The same in an address space, for a driver that acknowledged `VHOST_BACKEND_F_IOTLB_ASID`.
    pub fn iotlb_update_in(&self, asid: u32, iova: u64, size: u64, address: u64) -> CallResult<()> {
        self.iotlb(VHOST_IOTLB_UPDATE, asid, iova, size, address, 3)
    }

    /// An IOTLB message (v2) that maps memory for the device to read only.
    pub fn iotlb_update_read_only(&self, iova: u64, size: u64, address: u64) -> CallResult<()> {
        self.iotlb(VHOST_IOTLB_UPDATE, 0, iova, size, address, 1)
    }

    /// VHOST_SET_LOG_BASE.
    pub fn set_log_base(&self, address: u64) -> CallResult<()> {
        self.call("VHOST_SET_LOG_BASE", VHOST_SET_LOG_BASE, &mut address.to_le_bytes()).map(drop)
    }

    /// VHOST_SET_LOG_FD.
    pub fn set_log_fd(&self, fd: i32) -> CallResult<()> {
        self.call("VHOST_SET_LOG_FD", VHOST_SET_LOG_FD, &mut fd.to_le_bytes()).map(drop)
    }

    /// An IOTLB message (v2) that unmaps.
    pub fn iotlb_invalidate(&self, iova: u64, size: u64) -> CallResult<()> {
        self.iotlb(VHOST_IOTLB_INVALIDATE, 0, iova, size, 0, 0)
    }

    /// An IOTLB message (v2): changes from here on are published together.
    pub fn iotlb_begin(&self) -> CallResult<()> {
        self.iotlb(VHOST_IOTLB_BATCH_BEGIN, 0, 0, 0, 0, 0)
    }

    /// An IOTLB message (v2): publish them.
    pub fn iotlb_end(&self) -> CallResult<()> {
        self.iotlb(VHOST_IOTLB_BATCH_END, 0, 0, 0, 0, 0)
    }

    fn iotlb(&self, message: u8, asid: u32, iova: u64, size: u64, address: u64, access: u8) -> CallResult<()> {
        let mut bytes = pair(VHOST_IOTLB_MSG_V2, asid).to_vec();
        for word in [iova, size, address] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&[access, message]);
        bytes.resize(VHOST_MSG_SIZE, 0);
        match (&self.0).write(&bytes) {
            Ok(VHOST_MSG_SIZE) => Ok(()),
            Ok(short) => Err(DriverError::Wrong { what: format!("IOTLB message: {short} bytes taken") }),
            Err(error) => Err(DriverError::io("IOTLB message")(error)),
        }
    }
}

/// Two 32-bit words, as `struct vhost_vring_state` and `struct vhost_vring_file` are.
fn pair(first: u32, second: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(second) << 32).to_le_bytes()
}

/// The head of a `struct vhost_vdpa_config`.
pub fn config_argument(offset: u32, len: u32) -> Vec<u8> {
    pair(offset, len).to_vec()
}
