//! The VFIO and iommufd ABI (`linux/vfio.h`, `linux/iommufd.h`): numbers and structures, for servers and clients. No I/O, no policy.
//!
//! Commands are encoded `_IO`: they carry no size, their arguments say it in their first field.

pub mod command;
pub mod handle;
pub mod iommufd;
pub mod migration;
mod wire;

pub use wire::{
    BitmapArg, CapDmaAvail, CapHeader, CapMigration, DeviceFeature, DeviceInfo, DirtyGet, DirtyPagesArg, DmaMap,
    DmaUnmap, GroupStatus, IommuInfo, IrqInfo, IrqSet, RegionInfo,
};
