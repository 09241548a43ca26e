//! What the mdev driver bound to an instance supplies to the VFIO device file.

use crate::Client;
use devnode::{Ioctl, IoctlReply};
use nix::errno::Errno;
use std::sync::Arc;
use virtio_mdev_api::Refusal;
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::AddressSpace;
use virtio_mdev_api::doorbell::Doorbells;
use virtio_mdev_api::vfio::{DeviceShape, IrqChange};

/// The device behind a VFIO device file.
///
/// The file checks what every device has in common before it asks: sizes and ranges, who may call, that the descriptors
/// are eventfds. Calls may overlap, but for [`open`](Self::open), [`close`](Self::close) and the memory given between them;
/// each may take as long as a call of a vendor may.
pub trait VfioDevice: Send + Sync {
    /// What the device is made of. The same for as long as it lives.
    fn shape(&self) -> DeviceShape;

    /// The first file of the device was opened, for use: EBUSY when somebody uses the device in another way.
    fn open(&self) -> Result<(), Refusal>;

    /// The last file is closed. The device has its memory no more.
    fn close(&self);

    /// From now on the device works in `memory`; `None` takes it away, and when that returns no device touches it.
    fn set_memory(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal>;

    /// Fills `out` from `region` at `offset`. All of it lies within the region.
    fn read(&self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal>;

    /// Writes `data` to `region` at `offset`. All of it lies within the region.
    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal>;

    /// VFIO_DEVICE_SET_IRQS. The interrupts are among those of the shape.
    fn set_irqs(&self, change: IrqChange) -> Result<(), Refusal>;

    /// VFIO_DEVICE_RESET.
    fn reset(&self) -> Result<(), Refusal>;

    /// A call of another type than VFIO's, on the device file of `client`.
    fn ioctl(&self, _client: &dyn Client, _call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        Err(Errno::ENOTTY)
    }

    /// What region 0 shows to those who map it: asked for when a file of the device's own node is opened, before anybody may
    /// use the device, and the same as long as anybody has it. `None`: no region can be mapped.
    fn doorbells(&self) -> Option<Arc<Doorbells>> {
        None
    }

    /// How its state moves to another device; `None` when it cannot.
    fn migration(&self) -> Option<&dyn Migratable> {
        None
    }

    /// Where it reports what it writes to its memory; `None` when it writes nothing.
    fn dirty(&self) -> Option<&Arc<DirtyRecord>> {
        None
    }
}

/// A device whose state can be moved to another one of its type.
///
/// Its methods are called one at a time, for VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE; VFIO_DEVICE_RESET, and whatever else the
/// device serves, may come between any two of them and at the same time.
pub trait Migratable: Send + Sync {
    /// Names what a state of the device fits: type and version of its layout, and what the type offers. Two devices that say
    /// the same, or where [`accepts`](Self::accepts) says so, can continue each other.
    fn identity(&self) -> Vec<u8>;

    /// Whether a device that said `identity` can be continued by this one.
    fn accepts(&self, identity: &[u8]) -> Result<(), Refusal>;

    /// Stops the device; when it returns, the device touches no memory and raises no interrupt, and its state stands still.
    /// That a device is stopped which is so already changes nothing. An error leaves it running.
    fn stop(&self) -> Result<(), Refusal>;

    /// Undoes [`stop`](Self::stop), or begins after [`restore`](Self::restore). An error leaves it stopped.
    fn run(&self) -> Result<(), Refusal>;

    /// The state of the stopped device.
    fn save(&self) -> Result<Vec<u8>, Refusal>;

    /// About how many bytes a state has, whatever the device does now.
    fn state_size(&self) -> u64;

    /// Takes a state, checked as if a client had said it: a refusal leaves the device as it was. It is stopped.
    fn restore(&self, state: &[u8]) -> Result<(), Refusal>;
}
