//! vhost-vfio: joins unmodified QEMU, over vhost-user, to an instance's vhost and VFIO files.
//!
//! On one side a front end (QEMU's `-netdev vhost-user`, DPDK's virtio_user) sends messages over a Unix socket; on the other lie the files of a
//! virtio-mdev instance, as any client sees them. The front end's memory becomes MAP_DMA calls with IOVA = guest physical address, its kick and call
//! eventfds are handed on as they are, and from then on no packet and no notification passes this process.
//!
//! From the bottom up: [`memory`] and [`ring`] are what was said, [`mapping`] a region's file mapped, [`instance`] the ioctls behind a trait,
//! [`device`] decides when the instance runs, [`backend`] speaks vhost-user, [`server`] serves one front end after the other.

pub mod backend;
pub mod device;
pub mod error;
pub mod events;
pub mod features;
pub mod instance;
pub mod mapping;
pub mod memory;
pub mod ring;
pub mod server;
pub mod socket;
mod sys;
mod task;

pub use error::Error;
