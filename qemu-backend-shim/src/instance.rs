//! The instance as this program uses it: a handful of ioctls on its vhost file and on its VFIO container.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use vfio_bindings::bindings::vfio;
use vhost::vhost_kern::vhost_binding::{vhost_vring_addr, vhost_vring_file, vhost_vring_state};

use crate::error::Error;
use crate::ring::Addresses;
use crate::sys;

/// Backend feature bits of vhost_types.h that concern this program.
pub mod backend_feature {
    /// VHOST_VDPA_SUSPEND works.
    pub const SUSPEND: u64 = 1 << 4;
    /// Rings may be enabled after DRIVER_OK.
    pub const ENABLE_AFTER_DRIVER_OK: u64 = 1 << 6;
}

/// virtio device id of a network device (virtio 1.2, 5.1.1).
const VIRTIO_ID_NET: u32 = 1;

/// What a started front end needs of an instance. The tests put a recorder in its place.
#[allow(missing_docs)] // each method is the ioctl of its name
pub trait Instance: Send {
    /// Whether the instance still exists, answered without touching the device.
    fn present(&self) -> Result<(), Error>;
    fn features(&self) -> Result<u64, Error>;
    fn backend_features(&self) -> u64;
    fn status(&self) -> Result<u8, Error>;
    fn set_status(&self, status: u8) -> Result<(), Error>;
    fn set_features(&self, features: u64) -> Result<(), Error>;
    fn set_vring_num(&self, ring: u32, size: u32) -> Result<(), Error>;
    fn set_vring_base(&self, ring: u32, base: u32) -> Result<(), Error>;
    /// `iova` are the ring's areas as the device addresses them.
    fn set_vring_addr(&self, ring: u32, iova: Addresses) -> Result<(), Error>;
    fn set_vring_kick(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error>;
    fn set_vring_call(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error>;
    fn set_vring_err(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error>;
    fn set_vring_enable(&self, ring: u32, enable: bool) -> Result<(), Error>;
    fn suspend(&self) -> Result<(), Error>;
    fn vring_base(&self, ring: u32) -> Result<u32, Error>;
    /// MAP_DMA, readable and writable. The memory at `vaddr` stays mapped until `unmap`.
    fn map(&self, iova: u64, size: u64, vaddr: u64) -> Result<(), Error>;
    fn unmap(&self, iova: u64, size: u64) -> Result<(), Error>;
}

/// The files of a real instance, held for the life of the process: a second holder of the vhost file is refused by it.
#[derive(Debug)]
pub struct MdevInstance {
    vhost: File,
    container: File,
    /// Membership in the container ends with this file.
    _group: File,
    sysfsdev: PathBuf,
    backend_features: u64,
}

impl MdevInstance {
    /// Opens what belongs to `sysfsdev` (`…/sys/bus/mdev/devices/UUID`) below `root`: container, group, vhost file, in this order, so that the vhost
    /// file is opened by a process that already holds the container with the instance's group in it.
    pub fn open(root: &Path, sysfsdev: &Path) -> Result<Self, Error> {
        let uuid = sysfsdev.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        uuid::Uuid::parse_str(uuid)
            .map_err(|e| Error::Unsuitable(format!("{}: the last part is no UUID: {e}", sysfsdev.display())))?;
        let link = sysfsdev.join("iommu_group");
        let target = fs::read_link(&link).map_err(|e| file_error(&link, &e))?;
        let number = target.file_name().unwrap_or_default();

        let container = open(&root.join("dev/vfio/vfio"))?;
        let group = open(&root.join("dev/vfio").join(number))?;
        join(&container, &group)?;
        let vhost = open(&root.join("dev/vhost-mdev").join(uuid))?;
        call("VHOST_SET_OWNER", sys::vhost_set_owner(&vhost))?;

        let mut id = 0;
        call("VHOST_VDPA_GET_DEVICE_ID", sys::vhost_vdpa_get_device_id(&vhost, &mut id))?;
        if id != VIRTIO_ID_NET {
            return Err(Error::Unsuitable(format!("virtio device id {id}: only network devices (1) can be served")));
        }
        let backend_features = negotiate_backend_features(&vhost)?;
        let instance = Self { vhost, container, _group: group, sysfsdev: sysfsdev.into(), backend_features };
        instance.set_status(0)?;
        Ok(instance)
    }
}

impl Instance for MdevInstance {
    fn present(&self) -> Result<(), Error> {
        fs::symlink_metadata(&self.sysfsdev).map(drop).map_err(|e| file_error(&self.sysfsdev, &e))
    }

    fn features(&self) -> Result<u64, Error> {
        let mut features = 0;
        call("VHOST_GET_FEATURES", sys::vhost_get_features(&self.vhost, &mut features))?;
        Ok(features)
    }

    fn backend_features(&self) -> u64 {
        self.backend_features
    }

    fn status(&self) -> Result<u8, Error> {
        let mut status = 0;
        call("VHOST_VDPA_GET_STATUS", sys::vhost_vdpa_get_status(&self.vhost, &mut status))?;
        Ok(status)
    }

    fn set_status(&self, status: u8) -> Result<(), Error> {
        call("VHOST_VDPA_SET_STATUS", sys::vhost_vdpa_set_status(&self.vhost, &status))
    }

    fn set_features(&self, features: u64) -> Result<(), Error> {
        call("VHOST_SET_FEATURES", sys::vhost_set_features(&self.vhost, &features))
    }

    fn set_vring_num(&self, index: u32, num: u32) -> Result<(), Error> {
        call("VHOST_SET_VRING_NUM", sys::vhost_set_vring_num(&self.vhost, &vhost_vring_state { index, num }))
    }

    fn set_vring_base(&self, index: u32, num: u32) -> Result<(), Error> {
        call("VHOST_SET_VRING_BASE", sys::vhost_set_vring_base(&self.vhost, &vhost_vring_state { index, num }))
    }

    fn set_vring_addr(&self, index: u32, iova: Addresses) -> Result<(), Error> {
        let addr = vhost_vring_addr {
            index,
            flags: 0,
            desc_user_addr: iova.desc,
            used_user_addr: iova.used,
            avail_user_addr: iova.avail,
            log_guest_addr: 0,
        };
        call("VHOST_SET_VRING_ADDR", sys::vhost_set_vring_addr(&self.vhost, &addr))
    }

    fn set_vring_kick(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        call("VHOST_SET_VRING_KICK", sys::vhost_set_vring_kick(&self.vhost, &vring_file(ring, fd)))
    }

    fn set_vring_call(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        call("VHOST_SET_VRING_CALL", sys::vhost_set_vring_call(&self.vhost, &vring_file(ring, fd)))
    }

    fn set_vring_err(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        call("VHOST_SET_VRING_ERR", sys::vhost_set_vring_err(&self.vhost, &vring_file(ring, fd)))
    }

    fn set_vring_enable(&self, index: u32, enable: bool) -> Result<(), Error> {
        let state = vhost_vring_state { index, num: enable.into() };
        call("VHOST_VDPA_SET_VRING_ENABLE", sys::vhost_vdpa_set_vring_enable(&self.vhost, &state))
    }

    fn suspend(&self) -> Result<(), Error> {
        call("VHOST_VDPA_SUSPEND", sys::vhost_vdpa_suspend(&self.vhost))
    }

    fn vring_base(&self, index: u32) -> Result<u32, Error> {
        let mut state = vhost_vring_state { index, num: 0 };
        call("VHOST_GET_VRING_BASE", sys::vhost_get_vring_base(&self.vhost, &mut state))?;
        Ok(state.num)
    }

    fn map(&self, iova: u64, size: u64, vaddr: u64) -> Result<(), Error> {
        let flags = vfio::VFIO_DMA_MAP_FLAG_READ | vfio::VFIO_DMA_MAP_FLAG_WRITE;
        let map = vfio::vfio_iommu_type1_dma_map {
            argsz: argsz::<vfio::vfio_iommu_type1_dma_map>(),
            flags,
            vaddr,
            iova,
            size,
        };
        call("VFIO_IOMMU_MAP_DMA", sys::vfio_iommu_map_dma(&self.container, &map))
    }

    fn unmap(&self, iova: u64, size: u64) -> Result<(), Error> {
        let argsz = argsz::<vfio::vfio_iommu_type1_dma_unmap>();
        let mut unmap = vfio::vfio_iommu_type1_dma_unmap { argsz, iova, size, ..Default::default() };
        call("VFIO_IOMMU_UNMAP_DMA", sys::vfio_iommu_unmap_dma(&self.container, &mut unmap))
    }
}

/// Puts the group into the fresh container, as type 1 v2 (v1 would let an unmap split a mapping).
fn join(container: &File, group: &File) -> Result<(), Error> {
    let version =
        sys::vfio_get_api_version(container).map_err(|errno| Error::Call { call: "VFIO_GET_API_VERSION", errno })?;
    if version != 0 {
        return Err(Error::Unsuitable(format!("VFIO API version {version} is not 0")));
    }
    let mut status = vfio::vfio_group_status { argsz: argsz::<vfio::vfio_group_status>(), flags: 0 };
    call("VFIO_GROUP_GET_STATUS", sys::vfio_group_get_status(group, &mut status))?;
    if status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE == 0 {
        return Err(Error::Unsuitable("the VFIO group is not viable".into()));
    }
    call("VFIO_GROUP_SET_CONTAINER", sys::vfio_group_set_container(group, &container.as_raw_fd()))?;
    if sys::vfio_check_extension(container, vfio::VFIO_TYPE1v2_IOMMU) != Ok(1) {
        return Err(Error::Unsuitable("the container offers no type 1 v2 IOMMU".into()));
    }
    call("VFIO_SET_IOMMU", sys::vfio_set_iommu(container, vfio::VFIO_TYPE1v2_IOMMU))
}

/// Acknowledges what this program makes use of. An instance without backend features at all is served too.
fn negotiate_backend_features(vhost: &File) -> Result<u64, Error> {
    let mut offered = 0;
    match sys::vhost_get_backend_features(vhost, &mut offered) {
        Ok(_) => {}
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP) => return Ok(0),
        Err(errno) => return Err(Error::Call { call: "VHOST_GET_BACKEND_FEATURES", errno }),
    }
    let wanted = offered & (backend_feature::SUSPEND | backend_feature::ENABLE_AFTER_DRIVER_OK);
    call("VHOST_SET_BACKEND_FEATURES", sys::vhost_set_backend_features(vhost, &wanted))?;
    Ok(wanted)
}

fn vring_file(index: u32, fd: Option<BorrowedFd<'_>>) -> vhost_vring_file {
    // -1 is VHOST_FILE_UNBIND
    vhost_vring_file { index, fd: fd.map_or(-1, |fd| fd.as_raw_fd()) }
}

fn argsz<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

fn call(call: &'static str, result: Result<i32, Errno>) -> Result<(), Error> {
    result.map(drop).map_err(|errno| Error::Call { call, errno })
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|e| file_error(path, &e))
}

fn file_error(path: &Path, error: &io::Error) -> Error {
    Error::File { path: path.into(), errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)) }
}
