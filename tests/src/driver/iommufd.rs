//! `dev/iommu`, and a device bound to it by its own node.

use super::abi::*;
use super::vfio::open;
use super::{CallResult, Device, DriverError, sys};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// `dev/iommu`, open.
#[derive(Debug)]
pub struct Iommufd(pub File);

impl AsFd for Iommufd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// 32-bit and 64-bit fields of a structure that begins with its size.
fn sized(narrow: &[u32], wide: &[u64]) -> Vec<u8> {
    let size = u32::try_from(4 + narrow.len() * 4 + wide.len() * 8).expect("a short one");
    let mut bytes = size.to_ne_bytes().to_vec();
    narrow.iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
    wide.iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
    bytes
}

fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Iommufd {
    /// Opens a context with no objects.
    pub fn open(root: &Path) -> CallResult<Self> {
        open(&root.join("dev/iommu")).map(Self)
    }

    fn call(&self, name: &str, cmd: u32, mut bytes: Vec<u8>) -> CallResult<Vec<u8>> {
        sys::ioctl(self, cmd, &mut bytes).map_err(DriverError::call(name))?;
        Ok(bytes)
    }

    /// IOMMU_IOAS_ALLOC: the number of the new IOAS.
    pub fn alloc(&self) -> CallResult<u32> {
        Ok(word_at(&self.call("IOMMU_IOAS_ALLOC", IOMMU_IOAS_ALLOC, sized(&[0, 0], &[]))?, 8))
    }

    /// IOMMU_DESTROY.
    pub fn destroy(&self, id: u32) -> CallResult<()> {
        self.call("IOMMU_DESTROY", IOMMU_DESTROY, sized(&[id], &[])).map(drop)
    }

    /// IOMMU_IOAS_MAP at `iova`, or anywhere: where.
    pub fn map(&self, ioas: u32, iova: Option<u64>, size: u64, address: u64) -> CallResult<u64> {
        let flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
        let fixed = iova.map_or(0, |_| IOMMU_IOAS_MAP_FIXED_IOVA);
        let bytes = sized(&[flags | fixed, ioas, 0], &[address, size, iova.unwrap_or(0)]);
        Ok(long_at(&self.call("IOMMU_IOAS_MAP", IOMMU_IOAS_MAP, bytes)?, 32))
    }

    /// IOMMU_IOAS_MAP_FILE of a file's first bytes, anywhere: where.
    pub fn map_file(&self, ioas: u32, file: impl AsFd, size: u64, writable: bool) -> CallResult<u64> {
        let flags = IOMMU_IOAS_MAP_READABLE | if writable { IOMMU_IOAS_MAP_WRITEABLE } else { 0 };
        let fd = file.as_fd().as_raw_fd().cast_unsigned();
        let bytes = sized(&[flags, ioas, fd], &[0, size, 0]);
        Ok(long_at(&self.call("IOMMU_IOAS_MAP_FILE", IOMMU_IOAS_MAP_FILE, bytes)?, 32))
    }

    /// IOMMU_IOAS_COPY anywhere in `to`: where.
    pub fn copy(&self, from: u32, iova: u64, size: u64, to: u32) -> CallResult<u64> {
        let flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
        let bytes = sized(&[flags, to, from], &[size, 0, iova]);
        Ok(long_at(&self.call("IOMMU_IOAS_COPY", IOMMU_IOAS_COPY, bytes)?, 24))
    }

    /// IOMMU_IOAS_UNMAP: the bytes that were unmapped.
    pub fn unmap(&self, ioas: u32, iova: u64, size: u64) -> CallResult<u64> {
        Ok(long_at(&self.call("IOMMU_IOAS_UNMAP", IOMMU_IOAS_UNMAP, sized(&[ioas], &[iova, size]))?, 16))
    }
}

impl Device {
    /// Opens the own node of an instance's device.
    pub fn by_cdev(root: &Path, uuid: &str) -> CallResult<Self> {
        let below = root.join("sys/bus/mdev/devices").join(uuid).join("vfio-dev");
        let mut entries = fs::read_dir(&below).map_err(DriverError::io(format_args!("list {}", below.display())))?;
        let entry = entries.next().and_then(Result::ok);
        let entry = entry.ok_or_else(|| DriverError::Wrong { what: format!("{} is empty", below.display()) })?;
        open(&root.join("dev/vfio/devices").join(entry.file_name())).map(Self)
    }

    /// VFIO_DEVICE_BIND_IOMMUFD: its number in the context.
    pub fn bind(&self, iommufd: &Iommufd) -> CallResult<u32> {
        let fd = iommufd.as_fd().as_raw_fd().cast_unsigned();
        Ok(self.ask("VFIO_DEVICE_BIND_IOMMUFD", VFIO_DEVICE_BIND_IOMMUFD, &[16, 0, fd, 0])?[3])
    }

    /// VFIO_DEVICE_ATTACH_IOMMUFD_PT.
    pub fn attach(&self, ioas: u32) -> CallResult<()> {
        self.ask("VFIO_DEVICE_ATTACH_IOMMUFD_PT", VFIO_DEVICE_ATTACH_IOMMUFD_PT, &[12, 0, ioas]).map(drop)
    }

    /// VFIO_DEVICE_DETACH_IOMMUFD_PT.
    pub fn detach(&self) -> CallResult<()> {
        self.ask("VFIO_DEVICE_DETACH_IOMMUFD_PT", VFIO_DEVICE_DETACH_IOMMUFD_PT, &[8, 0]).map(drop)
    }
}
