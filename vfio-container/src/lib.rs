//! VFIO groups and containers: map calls become a DMA address space.
//!
//! A [`ContainerNode`] is `/dev/vfio/vfio`: every open is a container of its own. A [`Group`] is `/dev/vfio/<n>`: it is
//! attached to a container by whoever holds both, and from then on the device of the group may use the container's
//! [`AddressSpace`](virtio_mdev_api::dma::AddressSpace), as long as its driver can prove to be that holder.
//!
//! A [`DeviceFile`] is what VFIO_GROUP_GET_DEVICE_FD gives: a [`VfioDevice`], which the driver bound to the instance supplies,
//! behind the checks that all devices have in common. A [`HandleNode`] is how it is had.
//!
//! The container tells which pages the devices of its groups wrote, for clients that copy memory while it is used.
//!
//! Groups behave as VFIO's emulated groups do (those of mdev devices): nothing is pinned, and there is no hardware whose
//! reserved ranges or page sizes could restrict a mapping.

mod attachment;
mod bitmap;
pub mod call;
mod cdev;
mod client;
mod container;
mod container_file;
mod device;
mod device_file;
mod device_info;
mod dirty;
mod door;
mod error;
mod feature;
mod group;
mod group_file;
mod handle;
mod info;
mod iommu;
pub mod iommufd;
mod irqs;
mod mappings;
mod migration;
mod regions;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
mod usage;
mod wire;

pub use attachment::{Attachment, GroupHold};
pub use cdev::CdevNode;
pub use client::{Client, Home, log_bitmap, regions};
pub use container_file::{ContainerFile, ContainerNode};
pub use device::{Migratable, VfioDevice};
pub use device_file::DeviceFile;
pub use group::Group;
pub use group_file::GroupFile;
pub use handle::{HandleFile, HandleNode, StreamNode};
pub use mappings::{MAX_MAPPINGS, MAX_REGIONS, Mappings};
pub use migration::{DataStream, State as MigrationState};
pub use virtio_mdev_api::vfio::{DeviceShape, IrqAction, IrqChange, IrqData, IrqShape, RegionShape};
