//! What a device is that is no virtio device: regions, interrupts and a state of its own, which a client sees through VFIO.
#![doc = include_str!("../worked_vfio_parent.md")]

mod interrupts;
mod irq;
mod session;
mod shape;

pub use interrupts::Interrupts;
pub use irq::{IrqAction, IrqChange, IrqData};
pub use session::{VfioSession, VfioSessionError};
pub use shape::{DeviceShape, IrqShape, RegionShape, flags};

use crate::dirty::DirtyRecord;
use crate::dma::AddressSpace;
use crate::{AttributeSpec, Refusal};
use nix::errno::Errno;
use std::sync::Arc;

/// What a device gets when a client opened it, and has until it is released.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Whom it interrupts.
    pub interrupts: Arc<Interrupts>,
    /// Where it reports what it writes to its memory.
    pub dirty: Arc<DirtyRecord>,
}

/// A call of a type of the vendor's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCall {
    /// `_IOC(dir, type, nr, size)`.
    pub cmd: u32,
    /// The third argument of `ioctl(2)`. An address in the client, which the vendor cannot reach, or a number.
    pub arg: u64,
    /// The argument's bytes, where the command says that it has some to read.
    pub input: Vec<u8>,
}

/// What such a call answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAnswer {
    /// The return value, never negative.
    pub value: i32,
    /// Bytes for the client: as many as the command says, or none.
    pub output: Vec<u8>,
}

/// What the state of a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movable {
    /// Names what it fits, version included: only a device that says the same is given it.
    pub identity: Vec<u8>,
    /// About how many bytes it has.
    pub size: u64,
}

/// A device as its vendor makes it, where it is no virtio device.
///
/// Calls never overlap: they are made one at a time, on a thread that is the device's own for the length of a call,
/// under no lock of the bus, and each has a deadline. A call that outlives it, or panics, leaves the instance broken.
/// A device sees legal sequences only:
///
/// ```text
///  create ─▶ reset ─▶ open ─▶ (set_memory, read, write, ioctl, stop ─▶ save/restore ─▶ run, reset)* ─▶ release ─▶ …  ─▶ drop
/// ```
///
/// A device that is shown as a PCI function numbers its regions and interrupts as vfio-pci does (`VFIO_PCI_*_INDEX`).
pub trait VfioMdev: Send {
    /// What the device is made of. Asked once, after creation.
    fn shape(&self) -> DeviceShape;

    /// What its state is; `None` when it cannot be moved to another device. Asked once, after creation.
    fn movable(&self) -> Option<Movable> {
        None
    }

    /// A client opened it: it is at work.
    fn open(&mut self, opened: Opened) -> Result<(), Refusal>;

    /// The client is gone: whatever the device got from it, it lets go of.
    fn release(&mut self);

    /// From now on the device may work in `memory`; `None` takes it away, and when that returns the device does not touch it.
    fn set_memory(&mut self, _memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        Ok(())
    }

    /// Fills `out` from `region` at `offset`. All of it lies within the region, which can be read.
    fn read(&mut self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal>;

    /// Writes `data` to `region` at `offset`. All of it lies within the region, which can be written.
    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal>;

    /// A call of a type of the vendor's own.
    fn ioctl(&mut self, _call: OwnCall) -> Result<OwnAnswer, Refusal> {
        Err(Refusal::new(Errno::ENOTTY, "the device has no calls of its own"))
    }

    /// The client changed whom interrupts of `index` go to, or masked or unmasked some. [`Interrupts`] has done it already.
    fn irqs_changed(&mut self, _index: u32) {}

    /// Back to the state after creation, and at work. Asked for only where [`DeviceShape::resettable`] says so.
    fn reset(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Stops the device; when it returns, its state stands still but for what the client does. An interrupt that is
    /// raised now arrives when it runs again.
    fn stop(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Undoes [`stop`](Self::stop), or begins after [`restore`](Self::restore).
    fn run(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    /// The state of the stopped device.
    fn save(&mut self) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::new(Errno::ENOTTY, "the state of the device cannot be moved"))
    }

    /// Takes a state that a device of the same [identity](Movable::identity) is said to have given. A client may have made it up:
    /// a refusal leaves the device as it was. It is stopped.
    fn restore(&mut self, _state: &[u8]) -> Result<(), Refusal> {
        Err(Refusal::new(Errno::ENOTTY, "the state of the device cannot be moved"))
    }

    /// The vendor's own attributes of the instance.
    fn attributes(&self) -> Vec<AttributeSpec> {
        Vec::new()
    }

    /// The text of attribute `name`.
    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        Err(Refusal::new(Errno::ENOENT, format!("no attribute {name}")))
    }

    /// Takes a new value for attribute `name`, without the final newline.
    fn store_attribute(&mut self, name: &str, _value: &str) -> Result<(), Refusal> {
        Err(Refusal::new(Errno::EACCES, format!("attribute {name} is read-only")))
    }
}

#[cfg(test)]
mod tests;
