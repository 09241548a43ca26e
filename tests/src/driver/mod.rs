//! A small user-space virtio-net driver: nothing but `open`, `ioctl`, `mmap` and eventfds on the files of an instance.
//!
//! It keeps full control of its rings, so that tests can write into them what no honest driver would. Ring addresses
//! are IOVAs; memory is one memfd mapped at [`memory::IOVA`], through the VFIO container or by IOTLB messages.

pub mod abi;
mod client;
mod daemon;
pub mod device;
mod error;
pub mod iommufd;
pub mod memory;
mod migration;
pub mod packed;
mod ring;
pub mod sys;
mod vfio;
mod vhost;
mod vhost_net;

pub use client::{Client, HEADER, Options, QUEUE_SIZE, Via};
pub use daemon::{Daemon, eventually, new_uuid};
pub use device::Device;
pub use error::{CallResult, DriverError};
pub use memory::Memory;
pub use migration::DataStream;
pub use ring::{Descriptor, Ring, Used};
pub use vfio::{Container, Group, group_number};
pub use vhost::{Vhost, config_argument};
