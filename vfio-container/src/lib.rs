//! VFIO groups and containers: map calls become a DMA address space.
//!
//! A [`ContainerNode`] is `/dev/vfio/vfio`: every open is a container of its own. A [`Group`] is `/dev/vfio/<n>`: it is
//! attached to a container by whoever holds both, and from then on the device of the group may use the container's
//! [`AddressSpace`](virtio_mdev_api::dma::AddressSpace), as long as its driver can prove to be that holder.
//!
//! The container tells which pages the devices of its groups wrote, for clients that copy memory while it is used.
//!
//! Groups behave as VFIO's emulated groups do (those of mdev devices): nothing is pinned, and there is no hardware whose
//! reserved ranges or page sizes could restrict a mapping.

mod attachment;
mod bitmap;
mod bound;
pub mod call;
mod client;
mod container;
mod container_file;
mod device;
mod dirty;
mod error;
mod group;
mod group_file;
mod info;
mod iommu;
mod mappings;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
mod wire;

pub use attachment::{Attachment, GroupHold};
pub use bound::Bound;
pub use client::{Client, Home, log_bitmap, regions};
pub use container_file::{ContainerFile, ContainerNode};
pub use device::{Migratable, VfioDevice};
pub use group::Group;
pub use group_file::GroupFile;
pub use mappings::{MAX_MAPPINGS, MAX_REGIONS, Mappings};
pub use virtio_mdev_api::vfio::{DeviceShape, IrqAction, IrqChange, IrqData, IrqShape, RegionShape};
