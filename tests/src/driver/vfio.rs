//! The VFIO container and group files.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use vfio_bindings::bindings::vfio as b;

use super::sys::{ioctl_bytes, ioctl_value};
use super::{Error, Memory, Result};

/// `_IO(';', 100 + n)`.
const fn number(n: u32) -> u32 {
    0x3b64 + n
}

/// Permission of a mapping, from the device's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFlags(pub u32);

impl MapFlags {
    /// The device may read.
    pub const READ: Self = Self(b::VFIO_DMA_MAP_FLAG_READ);
    /// The device may write.
    pub const WRITE: Self = Self(b::VFIO_DMA_MAP_FLAG_WRITE);
    /// The device may do both.
    pub const READ_WRITE: Self = Self(b::VFIO_DMA_MAP_FLAG_READ | b::VFIO_DMA_MAP_FLAG_WRITE);
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::Path {
        path: path.to_owned(),
        errno: Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO)),
    })
}

fn words<const N: usize>(values: [u64; N]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

/// `dev/vfio/vfio`, opened.
pub struct Container {
    /// The file, for calls that this type has no method for.
    pub file: File,
}

impl Container {
    /// Opens the container file of the tree at `root`.
    ///
    /// # Errors
    /// Of the open.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { file: open(&root.join("dev/vfio/vfio"))? })
    }

    /// VFIO_GET_API_VERSION.
    ///
    /// # Errors
    /// Of the call.
    pub fn api_version(&self) -> Result<i32> {
        self.value("VFIO_GET_API_VERSION", 0, 0)
    }

    /// VFIO_CHECK_EXTENSION.
    ///
    /// # Errors
    /// Of the call.
    pub fn check_extension(&self, extension: u32) -> Result<bool> {
        Ok(self.value("VFIO_CHECK_EXTENSION", 1, extension.into())? > 0)
    }

    /// VFIO_SET_IOMMU; 3 is type1 v2.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_iommu(&self, kind: u32) -> Result<()> {
        self.value("VFIO_SET_IOMMU", 2, kind.into()).map(drop)
    }

    /// VFIO_IOMMU_MAP_DMA of `len` bytes of `memory` from `offset` on.
    ///
    /// # Errors
    /// Of the call.
    pub fn map(&self, memory: &Memory, offset: usize, len: u64, iova: u64, flags: MapFlags) -> Result<()> {
        self.map_raw(memory.address(offset), len, iova, flags.0)
    }

    /// VFIO_IOMMU_MAP_DMA with every field as given.
    ///
    /// # Errors
    /// Of the call.
    pub fn map_raw(&self, vaddr: u64, len: u64, iova: u64, flags: u32) -> Result<()> {
        let mut argument = words([32 | u64::from(flags) << 32, vaddr, iova, len]);
        self.bytes("VFIO_IOMMU_MAP_DMA", 13, &mut argument).map(drop)
    }

    /// VFIO_IOMMU_UNMAP_DMA; answers how many bytes were unmapped.
    ///
    /// # Errors
    /// Of the call.
    ///
    /// # Panics
    /// Never: the answer is as long as the question.
    pub fn unmap(&self, iova: u64, len: u64) -> Result<u64> {
        let mut argument = words([24, iova, len]);
        self.bytes("VFIO_IOMMU_UNMAP_DMA", 14, &mut argument)?;
        Ok(u64::from_ne_bytes(argument[16..24].try_into().expect("8 bytes")))
    }

    fn value(&self, call: &'static str, n: u32, value: u64) -> Result<i32> {
        ioctl_value(&self.file, number(n), value).map_err(|errno| Error::Call { call, errno })
    }

    fn bytes(&self, call: &'static str, n: u32, argument: &mut [u8]) -> Result<i32> {
        ioctl_bytes(&self.file, number(n), argument).map_err(|errno| Error::Call { call, errno })
    }
}

/// `dev/vfio/<n>`, opened.
pub struct Group {
    /// The file, for calls that this type has no method for.
    pub file: File,
}

impl Group {
    /// Opens the group of an instance, which its `iommu_group` link names.
    ///
    /// # Errors
    /// Of the link or the open.
    pub fn open(root: &Path, uuid: &str) -> Result<Self> {
        Ok(Self { file: open(&Self::path(root, uuid)?)? })
    }

    /// The path of the group file of an instance.
    ///
    /// # Errors
    /// Of the link.
    pub fn path(root: &Path, uuid: &str) -> Result<PathBuf> {
        let link = root.join("sys/bus/mdev/devices").join(uuid).join("iommu_group");
        let target = nix::fcntl::readlink(&link).map_err(|errno| Error::Path { path: link.clone(), errno })?;
        let number = Path::new(&target).file_name().ok_or(Error::Path { path: link, errno: Errno::EINVAL })?;
        Ok(root.join("dev/vfio").join(number))
    }

    /// VFIO_GROUP_GET_STATUS: bit 0 viable, bit 1 has a container.
    ///
    /// # Errors
    /// Of the call.
    ///
    /// # Panics
    /// Never: the answer is as long as the question.
    pub fn status(&self) -> Result<u32> {
        let mut argument = words([8]);
        self.bytes("VFIO_GROUP_GET_STATUS", 3, &mut argument)?;
        Ok(u32::from_ne_bytes(argument[4..8].try_into().expect("4 bytes")))
    }

    /// VFIO_GROUP_SET_CONTAINER.
    ///
    /// # Errors
    /// Of the call.
    pub fn set_container(&self, container: &Container) -> Result<()> {
        let mut argument = container.file.as_raw_fd().to_ne_bytes();
        self.bytes("VFIO_GROUP_SET_CONTAINER", 4, &mut argument).map(drop)
    }

    /// VFIO_GROUP_UNSET_CONTAINER.
    ///
    /// # Errors
    /// Of the call.
    pub fn unset_container(&self) -> Result<()> {
        self.bytes("VFIO_GROUP_UNSET_CONTAINER", 5, &mut []).map(drop)
    }

    fn bytes(&self, call: &'static str, n: u32, argument: &mut [u8]) -> Result<i32> {
        ioctl_bytes(&self.file, number(n), argument).map_err(|errno| Error::Call { call, errno })
    }
}
