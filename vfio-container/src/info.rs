//! VFIO_IOMMU_GET_INFO: what the IOMMU of a container is, and its capabilities.

use crate::Client;
use crate::error::VfioError;
use crate::iommu::{Iommu, MAX_BITMAP, PAGE};
use crate::wire::fetch;
use devnode::IoctlReply;
use nix::errno::Errno;
use std::mem::{offset_of, size_of};
use vfio_abi::{CapDmaAvail, CapHeader, CapMigration, IommuInfo};
use vfio_bindings::bindings::vfio::{
    VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_INFO_PGSIZES, VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
};
use zerocopy::{Immutable, IntoBytes};

/// The capabilities in the order of the kernel. There are no ranges of IOVAs: nothing restricts emulated groups.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Capabilities {
    migration: CapMigration,
    avail: CapDmaAvail,
}

/// Answers with the capabilities after the structure where the caller made room for them; says how much room they need
/// where it did not.
pub(crate) fn get_info(client: &dyn Client, iommu: &Iommu, arg: u64) -> Result<IoctlReply, VfioError> {
    const MINIMUM: usize = offset_of!(IommuInfo, cap_offset);
    const CAPS: usize = size_of::<IommuInfo>();
    const WHOLE: usize = CAPS + size_of::<Capabilities>();
    let given: IommuInfo = fetch(client, arg, MINIMUM)?;
    let argsz = usize::try_from(given.argsz).unwrap_or(usize::MAX);
    let mut info = IommuInfo {
        argsz: given.argsz,
        flags: VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
        page_sizes: iommu.page_sizes(),
        ..IommuInfo::default()
    };
    if argsz < WHOLE {
        info.argsz = number(WHOLE);
    } else {
        info.cap_offset = number(CAPS);
        let at = arg.checked_add(u64::from(info.cap_offset)).ok_or(Errno::EFAULT)?;
        client.write(at, capabilities(iommu, CAPS).as_bytes())?;
    }
    client.write(arg, &info.as_bytes()[..argsz.min(CAPS)])?;
    Ok(IoctlReply::ok())
}

/// The chain, to be found `offset` bytes into the answer.
fn capabilities(iommu: &Iommu, offset: usize) -> Capabilities {
    let header =
        |id: u32, next: usize| CapHeader { id: u16::try_from(id).unwrap_or_default(), version: 1, next: number(next) };
    Capabilities {
        migration: CapMigration {
            header: header(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, offset + offset_of!(Capabilities, avail)),
            page_sizes: PAGE,
            max_bitmap: MAX_BITMAP,
            ..CapMigration::default()
        },
        avail: CapDmaAvail {
            header: header(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 0),
            avail: number(iommu.room()),
            ..CapDmaAvail::default()
        },
    }
}

fn number(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
