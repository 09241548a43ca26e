//! `vfio-driver ROOT UUID [FRAMES]`: drives a virtio-net device whose memory is mapped through a VFIO container.
//!
//! ROOT is where the files are, such as `/run/umdev`. Three files make a device: the container holds the mappings, the
//! group connects the device to the container, the vhost file drives it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::ExitCode;
use umdev_samples::net::Net;
use umdev_samples::sys::{ioctl, ioctl_value, open};
use umdev_samples::{Error, Result, queue, report};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE1v2_IOMMU,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The calls' numbers: `_IO(';', 100 + n)` of `linux/vfio.h`.
mod call {
    pub const GET_API_VERSION: u32 = 0x3b64;
    pub const CHECK_EXTENSION: u32 = 0x3b65;
    pub const SET_IOMMU: u32 = 0x3b66;
    pub const GROUP_GET_STATUS: u32 = 0x3b67;
    pub const GROUP_SET_CONTAINER: u32 = 0x3b68;
    pub const GROUP_UNSET_CONTAINER: u32 = 0x3b69;
    pub const MAP_DMA: u32 = 0x3b71;
    pub const UNMAP_DMA: u32 = 0x3b72;
}

/// `struct vfio_group_status`. Every structure of VFIO says how long its caller knows it to be.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

/// `struct vfio_iommu_type1_dma_map`.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Map {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`, without a bitmap.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

fn argsz<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("a small structure")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let driven = match &arguments[1..] {
        [root, uuid] => drive(Path::new(root), uuid, 1000),
        [root, uuid, frames] if frames.parse::<u32>().is_ok() => {
            drive(Path::new(root), uuid, frames.parse().unwrap_or(0))
        }
        _ => {
            eprintln!("usage: vfio-driver ROOT UUID [FRAMES]");
            return ExitCode::from(2);
        }
    };
    report("vfio-driver", driven)
}

fn drive(root: &Path, uuid: &str, frames: u32) -> Result<u32> {
    // The container and the group come first: a vhost file whose group has no container has no memory.
    let container = open_container(root)?;
    let group = open_group(root, uuid)?;
    attach(&group, &container)?;
    let mut net = Net::own(open(&root.join("dev/vhost-mdev").join(uuid))?)?;
    map(&container, &net)?;

    net.start()?;
    net.exchange(frames)?;
    net.stop()?;

    // The reverse order. Without it the end of the process does the same.
    unmap(&container, net.memory().size())?;
    drop(net);
    ioctl_value(&group, "VFIO_GROUP_UNSET_CONTAINER", call::GROUP_UNSET_CONTAINER, 0)?;
    Ok(frames)
}

fn open_container(root: &Path) -> Result<File> {
    let container = open(&root.join("dev/vfio/vfio"))?;
    let version = ioctl_value(&container, "VFIO_GET_API_VERSION", call::GET_API_VERSION, 0)?;
    let type1 = VFIO_TYPE1v2_IOMMU.into();
    let can = ioctl_value(&container, "VFIO_CHECK_EXTENSION", call::CHECK_EXTENSION, type1)?;
    match (u32::try_from(version), can) {
        (Ok(VFIO_API_VERSION), 1) => Ok(container),
        _ => Err(Error::Wrong(format!("VFIO version {version}, type 1 mappings: {can}"))),
    }
}

/// The group's number is the last part of where the device's `iommu_group` leads.
fn open_group(root: &Path, uuid: &str) -> Result<File> {
    let link = root.join("sys/bus/mdev/devices").join(uuid).join("iommu_group");
    let target = fs::read_link(&link).map_err(|error| Error::Wrong(format!("{}: {error}", link.display())))?;
    let number = target.file_name().ok_or_else(|| Error::Wrong(format!("{} leads nowhere", link.display())))?;
    open(&root.join("dev/vfio").join(number))
}

fn attach(group: &File, container: &File) -> Result<()> {
    let mut status = GroupStatus { argsz: argsz::<GroupStatus>(), flags: 0 };
    ioctl(group, "VFIO_GROUP_GET_STATUS", call::GROUP_GET_STATUS, &mut status)?;
    if status.flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
        return Err(Error::Wrong("the group is not viable: a device in it has another driver".into()));
    }
    let mut number = container.as_raw_fd();
    ioctl(group, "VFIO_GROUP_SET_CONTAINER", call::GROUP_SET_CONTAINER, &mut number)?;
    // Only a container with a group in it can be given its kind of mappings.
    ioctl_value(container, "VFIO_SET_IOMMU", call::SET_IOMMU, VFIO_TYPE1v2_IOMMU.into()).map(drop)
}

fn map(container: &File, net: &Net) -> Result<()> {
    let mut map = Map {
        argsz: argsz::<Map>(),
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: net.memory().address(),
        iova: queue::IOVA,
        size: net.memory().size(),
    };
    ioctl(container, "VFIO_IOMMU_MAP_DMA", call::MAP_DMA, &mut map).map(drop)
}

fn unmap(container: &File, size: u64) -> Result<()> {
    let mut unmap = Unmap { argsz: argsz::<Unmap>(), flags: 0, iova: queue::IOVA, size };
    ioctl(container, "VFIO_IOMMU_UNMAP_DMA", call::UNMAP_DMA, &mut unmap)?;
    match unmap.size {
        all if all == size => Ok(()),
        some => Err(Error::Wrong(format!("{some} bytes were unmapped, not {size}"))),
    }
}
