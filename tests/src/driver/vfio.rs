//! The VFIO container and the group of an instance.

use super::abi::*;
use super::sys;
use super::{CallResult, DriverError};
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// `dev/vfio/vfio`, open.
#[derive(Debug)]
pub struct Container(pub File);

/// `dev/vfio/<n>`, open.
#[derive(Debug)]
pub struct Group(pub File);

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn open(path: &Path) -> CallResult<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(DriverError::io(format_args!("open {}", path.display())))
}

/// The group an instance is in: the last part of its `iommu_group` link.
pub fn group_number(root: &Path, uuid: &str) -> CallResult<String> {
    let link = root.join("sys/bus/mdev/devices").join(uuid).join("iommu_group");
    let target = fs::read_link(&link).map_err(DriverError::io(format_args!("readlink {}", link.display())))?;
    let number = target.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    number.ok_or_else(|| DriverError::Wrong { what: format!("{} leads to {}", link.display(), target.display()) })
}

impl Group {
    /// Opens the group of an instance.
    pub fn open(root: &Path, uuid: &str) -> CallResult<Self> {
        open(&root.join("dev/vfio").join(group_number(root, uuid)?)).map(Self)
    }

    /// VFIO_GROUP_SET_CONTAINER.
    pub fn set_container(&self, container: &Container) -> CallResult<()> {
        let mut fd = container.as_fd().as_raw_fd().to_ne_bytes();
        let done = sys::ioctl(self, VFIO_GROUP_SET_CONTAINER, &mut fd);
        done.map(drop).map_err(DriverError::call("VFIO_GROUP_SET_CONTAINER"))
    }

    /// VFIO_GROUP_GET_STATUS.
    pub fn status(&self) -> CallResult<u32> {
        let mut bytes = struct_of(8, 0, &[]);
        sys::ioctl(self, VFIO_GROUP_GET_STATUS, &mut bytes).map_err(DriverError::call("VFIO_GROUP_GET_STATUS"))?;
        Ok(u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
    }
}

impl Container {
    /// Opens a container with no group in it.
    pub fn open(root: &Path) -> CallResult<Self> {
        open(&root.join("dev/vfio/vfio")).map(Self)
    }

    /// VFIO_GET_API_VERSION and VFIO_CHECK_EXTENSION of type1 v2.
    pub fn check(&self) -> CallResult<()> {
        let version = sys::ioctl_value(self, VFIO_GET_API_VERSION, 0);
        let type1 = sys::ioctl_value(self, VFIO_CHECK_EXTENSION, VFIO_TYPE1V2_IOMMU);
        match (version, type1) {
            (Ok(0), Ok(1)) => Ok(()),
            other => Err(DriverError::Wrong { what: format!("VFIO version and type1 v2: {other:?}") }),
        }
    }

    /// VFIO_SET_IOMMU, type1 v2.
    pub fn set_iommu(&self) -> CallResult<()> {
        let done = sys::ioctl_value(self, VFIO_SET_IOMMU, VFIO_TYPE1V2_IOMMU);
        done.map(drop).map_err(DriverError::call("VFIO_SET_IOMMU"))
    }

    /// VFIO_IOMMU_MAP_DMA, readable and writable.
    pub fn map(&self, iova: u64, size: u64, address: u64) -> CallResult<()> {
        self.map_with(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE, iova, size, address)
    }

    /// VFIO_IOMMU_MAP_DMA with flags of the caller's choice.
    pub fn map_with(&self, flags: u32, iova: u64, size: u64, address: u64) -> CallResult<()> {
        let mut bytes = struct_of(32, flags, &[address, iova, size]);
        let done = sys::ioctl(self, VFIO_IOMMU_MAP_DMA, &mut bytes);
        done.map(drop).map_err(DriverError::call("VFIO_IOMMU_MAP_DMA"))
    }

    /// VFIO_IOMMU_UNMAP_DMA; returns the bytes that were unmapped.
    pub fn unmap(&self, iova: u64, size: u64) -> CallResult<u64> {
        let mut bytes = struct_of(24, 0, &[iova, size]);
        let done = sys::ioctl(self, VFIO_IOMMU_UNMAP_DMA, &mut bytes);
        done.map_err(DriverError::call("VFIO_IOMMU_UNMAP_DMA"))?;
        let size: [u8; 8] = bytes[16..24].try_into().expect("eight bytes");
        Ok(u64::from_ne_bytes(size))
    }

    /// VFIO_IOMMU_DIRTY_PAGES, START or STOP.
    pub fn track(&self, flag: u32) -> CallResult<()> {
        let done = sys::ioctl(self, VFIO_IOMMU_DIRTY_PAGES, &mut struct_of(8, flag, &[]));
        done.map(drop).map_err(DriverError::call("VFIO_IOMMU_DIRTY_PAGES"))
    }

    /// VFIO_IOMMU_DIRTY_PAGES, GET_BITMAP: the pages of the range that were written, by their place in it.
    pub fn dirty(&self, iova: u64, size: u64) -> CallResult<Vec<u64>> {
        let mut bitmap = bitmap_for(size);
        let bitmap_size = u64::try_from(bitmap.len()).expect("64 bits") * 8;
        let data = bitmap.as_mut_ptr().expose_provenance();
        self.dirty_at(iova, size, bitmap_size, u64::try_from(data).expect("64 bits"))?;
        Ok(pages_in(&bitmap))
    }

    /// The same with a bitmap of `bitmap_size` bytes at any address.
    pub fn dirty_at(&self, iova: u64, size: u64, bitmap_size: u64, data: u64) -> CallResult<()> {
        let fields = [iova, size, DIRTY_PAGE, bitmap_size, data];
        let mut bytes = struct_of(48, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, &fields);
        let done = sys::ioctl(self, VFIO_IOMMU_DIRTY_PAGES, &mut bytes);
        done.map(drop).map_err(DriverError::call("VFIO_IOMMU_DIRTY_PAGES"))
    }

    /// VFIO_IOMMU_UNMAP_DMA with a bitmap: the bytes that were unmapped, and the pages that were written.
    pub fn unmap_dirty(&self, iova: u64, size: u64) -> CallResult<(u64, Vec<u64>)> {
        let mut bitmap = bitmap_for(size);
        let bitmap_size = u64::try_from(bitmap.len()).expect("64 bits") * 8;
        let data = u64::try_from(bitmap.as_mut_ptr().expose_provenance()).expect("64 bits");
        let fields = [iova, size, DIRTY_PAGE, bitmap_size, data];
        let mut bytes = struct_of(48, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, &fields);
        sys::ioctl(self, VFIO_IOMMU_UNMAP_DMA, &mut bytes).map_err(DriverError::call("VFIO_IOMMU_UNMAP_DMA"))?;
        let size: [u8; 8] = bytes[16..24].try_into().expect("eight bytes");
        Ok((u64::from_ne_bytes(size), pages_in(&bitmap)))
    }
}

/// What a bit of a bitmap stands for.
const DIRTY_PAGE: u64 = 4096;

pub(super) fn bitmap_for(size: u64) -> Vec<u64> {
    vec![0; usize::try_from(size.div_ceil(64 * DIRTY_PAGE)).expect("64 bits")]
}

pub(super) fn pages_in(bitmap: &[u64]) -> Vec<u64> {
    let mut pages = Vec::new();
    for (at, word) in (0..).zip(bitmap) {
        // The device's side wrote it, behind the compiler's back.
        let word = std::hint::black_box(*word);
        pages.extend((0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| at * 64 + bit));
    }
    pages
}

/// `argsz`, `flags`, and 64-bit fields.
pub(super) fn struct_of(argsz: u32, flags: u32, fields: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend_from_slice(&argsz.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    fields.iter().for_each(|field| bytes.extend_from_slice(&field.to_ne_bytes()));
    bytes
}
