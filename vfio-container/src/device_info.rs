//! What a device is made of: VFIO_DEVICE_GET_INFO, GET_REGION_INFO, GET_IRQ_INFO.

use crate::Client;
use crate::door::Access;
use crate::error::VfioError;
use crate::regions::offset_of_region;
use crate::trace::Trace;
use crate::wire::fetch;
use devnode::IoctlReply;
use std::mem::{offset_of, size_of};
use vfio_abi::{DeviceInfo, IrqInfo, RegionInfo};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_RESET, VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use zerocopy::IntoBytes;

pub(crate) fn device(client: &dyn Client, access: &Access, arg: u64) -> Result<IoctlReply, VfioError> {
    const MINIMUM: usize = offset_of!(DeviceInfo, cap_offset);
    let given: DeviceInfo = fetch(client, arg, MINIMUM)?;
    let shape = &access.supplied.shape;
    let info = DeviceInfo {
        argsz: given.argsz,
        flags: shape.flags | if shape.resettable { VFIO_DEVICE_FLAGS_RESET } else { 0 },
        num_regions: count(shape.regions.len()),
        num_irqs: count(shape.irqs.len()),
        ..DeviceInfo::default()
    };
    let room = usize::try_from(given.argsz).unwrap_or(usize::MAX);
    client.write(arg, &info.as_bytes()[..room.min(size_of::<DeviceInfo>())])?;
    Ok(IoctlReply::ok())
}

/// `mappable`: the file shows region 0 to those who map it.
pub(crate) fn region(
    client: &dyn Client,
    access: &Access,
    mappable: bool,
    arg: u64,
    trace: &mut Trace,
) -> Result<IoctlReply, VfioError> {
    let given: RegionInfo = fetch(client, arg, size_of::<RegionInfo>())?;
    trace.arg("index", given.index);
    let region = at(&access.supplied.shape.regions, given.index)?;
    let mut flags = 0;
    if region.readable {
        flags |= VFIO_REGION_INFO_FLAG_READ;
    }
    if region.writable {
        flags |= VFIO_REGION_INFO_FLAG_WRITE;
    }
    let offset = offset_of_region(given.index);
    if mappable && offset == 0 {
        flags |= VFIO_REGION_INFO_FLAG_MMAP;
    }
    let info = RegionInfo { flags, cap_offset: 0, size: region.size, offset, ..given };
    client.write(arg, info.as_bytes())?;
    Ok(IoctlReply::ok())
}

pub(crate) fn irq(client: &dyn Client, access: &Access, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
    let given: IrqInfo = fetch(client, arg, size_of::<IrqInfo>())?;
    trace.arg("index", given.index);
    let irq = at(&access.supplied.shape.irqs, given.index)?;
    let info = IrqInfo { flags: irq.flags, count: irq.count, ..given };
    client.write(arg, info.as_bytes())?;
    Ok(IoctlReply::ok())
}

/// What `index` of a client means.
pub(crate) fn at<T>(items: &[T], index: u32) -> Result<&T, VfioError> {
    usize::try_from(index).ok().and_then(|at| items.get(at)).ok_or(VfioError::NoSuchIndex(index))
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}
