//! The mdev driver `vhost_mdev`: gives a virtio instance its vhost ioctl file, `dev/vhost-mdev/<uuid>`.
//!
//! The file speaks the vhost-mdev ABI in the form it lives on in, vhost-vdpa: numbers, layouts and rules are those of
//! `/dev/vhost-vdpa-N`, and a client of either works. All device logic is below, in
//! [`Session`](virtio_mdev_api::Session); what is done here is to decode, to say who may, and to find the device its
//! memory.
//!
//! The same instance has a VFIO device file, whose face is a [`VirtioDevice`]: its queues are driven by the same ioctls there,
//! as vhost-mdev meant it.
//!
//! The dirty log, which the kernel refuses on such a file, is offered, and so are MISS messages for a client that reads.
//!
//! Known deviations from the kernel: a failed IOTLB message answers the errno of its failure, where the kernel answers
//! EFAULT for all but one; and a network device's configuration space reads as zeros up to its eighth byte even if it
//! is shorter, because QEMU reads eight bytes whatever the size.

mod device;
mod error;
mod file;
mod iotlb;
mod log;
mod memory;
mod miss;
mod moving;
mod node;
mod serve;

pub use device::VirtioDevice;
pub use file::VhostFile;
pub use miss::MissQueue;
pub use node::VhostMdev;
