//! `/dev/vfio/vfio`.

use crate::Client;
use crate::container::Container;
use crate::error::VfioError;
use crate::info::get_info;
use crate::iommu::{Iommu, Version, check_unmap_flags};
use crate::trace::Trace;
use crate::wire::{check_flags, fetch, fetch_rest};
use devnode::{Caller, DeviceNode, Ioctl, IoctlReply, OpenFile, OpenFlags};
use nix::errno::Errno;
use std::mem::size_of;
use std::sync::Arc;
use vfio_abi::command::*;
use vfio_abi::{DirtyGet, DirtyPagesArg, DmaMap, DmaUnmap};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_DMA_CC_IOMMU, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU as VFIO_TYPE1V2_IOMMU, VFIO_UNMAP_ALL,
};
use zerocopy::IntoBytes;

/// Newer headers have dropped it; Linux 6.12 offers it.
const VFIO_TYPE1_NESTING_IOMMU: u32 = 6;

/// The node `/dev/vfio/vfio`: every open of it is a new, empty container.
#[derive(Debug, Default)]
pub struct ContainerNode;

impl ContainerNode {
    /// The node.
    pub fn new() -> Self {
        Self
    }
}

impl DeviceNode for ContainerNode {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(Arc::new(ContainerFile::new()))
    }
}

/// An open container.
#[derive(Default)]
pub struct ContainerFile {
    container: Arc<Container>,
}

impl ContainerFile {
    /// A container without groups.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Serves an ioctl of `client`.
    pub fn serve(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let mut trace = Trace::begin(self.container.listeners());
        let name = vfio_abi::command::name(call.cmd).unwrap_or("unknown");
        let outcome = self.dispatch(client, call, &mut trace);
        trace.answer(client, "container", name, outcome)
    }

    fn dispatch(&self, client: &dyn Client, call: &Ioctl<'_>, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        let arg = call.arg;
        match call.cmd {
            VFIO_GET_API_VERSION => Ok(IoctlReply::value(VFIO_API_VERSION.cast_signed())),
            VFIO_CHECK_EXTENSION => {
                trace.arg("extension", arg);
                Ok(IoctlReply::value(i32::from(self.has_extension(arg))))
            }
            VFIO_SET_IOMMU => {
                trace.arg("type", arg);
                self.set_iommu(client, arg)
            }
            VFIO_IOMMU_GET_INFO => get_info(client, &*self.iommu()?, arg),
            VFIO_IOMMU_MAP_DMA => self.map(client, arg, trace),
            VFIO_IOMMU_UNMAP_DMA => self.unmap(client, arg, trace),
            VFIO_IOMMU_DIRTY_PAGES => self.dirty_pages(client, arg, trace),
            cmd => Err(refuse(cmd)),
        }
    }

    fn iommu(&self) -> Result<Arc<Iommu>, VfioError> {
        self.container.iommu().ok_or(VfioError::NoIommu)
    }

    fn has_extension(&self, extension: u64) -> bool {
        match u32::try_from(extension) {
            Ok(VFIO_TYPE1_IOMMU | VFIO_TYPE1V2_IOMMU | VFIO_TYPE1_NESTING_IOMMU | VFIO_UNMAP_ALL) => true,
            // Memory is memory to a device in software; the kernel knows only once there is an IOMMU.
            Ok(VFIO_DMA_CC_IOMMU) => self.container.iommu().is_some(),
            _ => false,
        }
    }

    fn set_iommu(&self, client: &dyn Client, kind: u64) -> Result<IoctlReply, VfioError> {
        self.container.check_settable()?;
        let version = match u32::try_from(kind) {
            Ok(VFIO_TYPE1_IOMMU) => Version::V1,
            Ok(VFIO_TYPE1V2_IOMMU | VFIO_TYPE1_NESTING_IOMMU) => Version::V2,
            // The kernel finds a driver for every extension, and this one then knows no such type.
            Ok(VFIO_UNMAP_ALL) => return Err(VfioError::NotAType),
            _ => return Err(VfioError::NoSuchType(kind)),
        };
        let home = client.home()?;
        self.container.set_iommu(version, home)?;
        Ok(IoctlReply::ok())
    }

    fn map(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        let iommu = self.iommu()?;
        let map: DmaMap = fetch(client, arg, size_of::<DmaMap>())?;
        trace.arg("flags", map.flags);
        trace.arg("vaddr", map.vaddr);
        trace.arg("iova", map.iova);
        trace.arg("size", map.size);
        iommu.check_home(client)?;
        iommu.map(client, &map)?;
        Ok(IoctlReply::ok())
    }

    fn unmap(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        let iommu = self.iommu()?;
        let unmap: DmaUnmap = fetch(client, arg, size_of::<DmaUnmap>())?;
        trace.arg("flags", unmap.flags);
        trace.arg("iova", unmap.iova);
        trace.arg("size", unmap.size);
        iommu.check_home(client)?;
        let bitmap = if check_unmap_flags(unmap.flags)? {
            Some(fetch_rest(client, arg, size_of::<DmaUnmap>(), unmap.argsz)?)
        } else {
            None
        };
        let size = iommu.unmap(client, &unmap, bitmap)?;
        client.write(arg, DmaUnmap { size, ..unmap }.as_bytes())?;
        Ok(IoctlReply::ok())
    }

    fn dirty_pages(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        const ALLOWED: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_START
            | VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
            | VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
        let iommu = self.iommu()?;
        if iommu.version == Version::V1 {
            return Err(VfioError::NotV2);
        }
        let DirtyPagesArg { argsz, flags } = fetch(client, arg, size_of::<DirtyPagesArg>())?;
        trace.arg("flags", flags);
        check_flags(flags, ALLOWED)?;
        iommu.check_home(client)?;
        match flags {
            VFIO_IOMMU_DIRTY_PAGES_FLAG_START => iommu.start_tracking()?,
            VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP => iommu.stop_tracking()?,
            VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP => {
                let get: DirtyGet = fetch_rest(client, arg, size_of::<DirtyPagesArg>(), argsz)?;
                trace.arg("iova", get.iova);
                trace.arg("size", get.size);
                iommu.get_dirty(client, &get)?;
            }
            _ => return Err(VfioError::Flags { flags, allowed: ALLOWED }),
        }
        Ok(IoctlReply::ok())
    }
}

/// What answers a command that this file does not serve.
pub(crate) fn refuse(cmd: u32) -> VfioError {
    vfio_abi::command::name(cmd).map_or(VfioError::Unknown(cmd), VfioError::NotOffered)
}

impl OpenFile for ContainerFile {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.serve(caller, call)
    }

    /// Groups that are attached keep the container until they are closed too, as in the kernel.
    fn release(&self) {}
}
