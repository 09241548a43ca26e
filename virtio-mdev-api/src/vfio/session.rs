//! The session between a device that is no virtio device and whoever drives it.

use super::flags::{VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE};
use super::{DeviceShape, Interrupts, IrqChange, IrqShape, Movable, Opened, OwnAnswer, OwnCall, RegionShape, VfioMdev};
use crate::dirty::DirtyRecord;
use crate::dma::AddressSpace;
use crate::executor::{Guarded, VendorFault};
use crate::session::{Condition, Engine};
use crate::{DeviceLink, HasErrno, Refusal};
use nix::errno::Errno;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// `VFIO_PCI_REQ_IRQ_INDEX`: the last of those that every PCI function has.
const REQUEST: u32 = 4;
/// `VFIO_PCI_NUM_IRQS`.
const PCI_IRQS: usize = 5;

/// Why a session refused a call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VfioSessionError {
    /// A region that is not there, a range outside of it, or an access that it does not have.
    #[error("{len} bytes at {offset:#x} of region {region} cannot be {what}")]
    Access {
        /// The region.
        region: u32,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: usize,
        /// Read or written.
        what: &'static str,
    },
    /// A reset of a device that has none.
    #[error("the device cannot be reset")]
    NoReset,
    /// The state of another kind of device, or of another version.
    #[error("the state is of {theirs:?}, and the device is {ours:?}")]
    Foreign {
        /// What the state was said to fit.
        theirs: String,
        /// What the device says.
        ours: String,
    },
    /// The vendor's code hung or panicked.
    #[error(transparent)]
    Vendor(#[from] VendorFault),
    /// The vendor refused.
    #[error("{0}")]
    Refused(Refusal),
}

impl From<Refusal> for VfioSessionError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl HasErrno for VfioSessionError {
    fn errno(&self) -> Errno {
        match self {
            Self::Access { .. } | Self::Foreign { .. } => Errno::EINVAL,
            Self::NoReset => Errno::ENOTTY,
            Self::Vendor(fault) => fault.errno(),
            Self::Refused(refusal) => refusal.errno(),
        }
    }
}

/// The session of one device.
///
/// What a client may do is checked by whoever serves its calls; here it is made sure that the device never sees a range it has
/// not, and that its interrupts are silent while it is stopped.
pub struct VfioSession {
    shape: DeviceShape,
    movable: Option<Movable>,
    link: DeviceLink,
    device: Guarded<dyn VfioMdev>,
    interrupts: Arc<Interrupts>,
    dirty: Arc<DirtyRecord>,
}

impl VfioSession {
    /// The session of `device`, which is of `shape` and `movable` so. A PCI function gets an interrupt by which its client is
    /// [asked](Self::ask) to let go.
    pub fn new(
        device: Box<dyn VfioMdev>,
        mut shape: DeviceShape,
        movable: Option<Movable>,
        link: DeviceLink,
        deadline: Duration,
    ) -> Self {
        if shape.is_pci() {
            let request = IrqShape { count: 1, flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE };
            shape.irqs.resize(PCI_IRQS, IrqShape::default());
            shape.irqs[PCI_IRQS - 1] = request;
        }
        let interrupts = Arc::new(Interrupts::new(&shape.irqs));
        let device = Guarded::new(device, deadline);
        Self { shape, movable, link, device, interrupts, dirty: DirtyRecord::new() }
    }

    /// What the device is made of.
    pub fn shape(&self) -> &DeviceShape {
        &self.shape
    }

    /// What its state is; `None` when it cannot be moved.
    pub fn movable(&self) -> Option<&Movable> {
        self.movable.as_ref()
    }

    /// Where the device reports what it writes to its memory.
    pub fn dirty(&self) -> &Arc<DirtyRecord> {
        &self.dirty
    }

    /// A client opens the device, which begins as after its creation where it can be reset.
    pub fn open(&self) -> Result<(), VfioSessionError> {
        if self.shape.resettable {
            self.reset()?;
        }
        let opened = Opened { interrupts: Arc::clone(&self.interrupts), dirty: Arc::clone(&self.dirty) };
        Ok(self.device.call("open", move |device| device.open(opened))??)
    }

    /// The client is gone: the device has nothing of it any more.
    pub fn close(&self) {
        self.interrupts.clear();
        let released = self.device.call("release", |device| {
            device.release();
            device.set_memory(None)
        });
        let released = released.map_err(VfioSessionError::from).and_then(|taken| Ok(taken?));
        if let Err(error) = released {
            tracing::warn!(instance = self.link.name(), %error, "not released");
        }
        // Whatever it raised meanwhile was for nobody.
        self.interrupts.clear();
    }

    /// From now on the device may work in `memory`; `None` takes it away, and when that returns it does not touch it.
    pub fn set_memory(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), VfioSessionError> {
        Ok(self.device.call("set_memory", move |device| device.set_memory(memory))??)
    }

    /// Fills `out` from `region` at `offset`.
    pub fn read(&self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), VfioSessionError> {
        self.check(region, offset, out.len(), "read", |shape| shape.readable)?;
        let mut bytes = vec![0; out.len()];
        let read = self.device.call("read", move |device| device.read(region, offset, &mut bytes).map(|()| bytes));
        out.copy_from_slice(&read??);
        Ok(())
    }

    /// Writes `data` to `region` at `offset`.
    pub fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), VfioSessionError> {
        self.check(region, offset, data.len(), "written", |shape| shape.writable)?;
        let data = data.to_vec();
        Ok(self.device.call("write", move |device| device.write(region, offset, &data))??)
    }

    fn check(
        &self,
        region: u32,
        offset: u64,
        len: usize,
        what: &'static str,
        has: impl Fn(&RegionShape) -> bool,
    ) -> Result<(), VfioSessionError> {
        let shape = usize::try_from(region).ok().and_then(|at| self.shape.regions.get(at));
        let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
        let within = shape.zip(end).is_some_and(|(shape, end)| has(shape) && end <= shape.size);
        if within { Ok(()) } else { Err(VfioSessionError::Access { region, offset, len, what }) }
    }

    /// A call of a type of the vendor's own.
    pub fn ioctl(&self, call: OwnCall) -> Result<OwnAnswer, VfioSessionError> {
        Ok(self.device.call("ioctl", move |device| device.ioctl(call))??)
    }

    /// Changes whom the device interrupts, and what is masked.
    pub fn set_irqs(&self, change: &IrqChange) -> Result<(), VfioSessionError> {
        self.interrupts.change(change)?;
        let index = change.index;
        if self.shape.is_pci() && index == REQUEST {
            // Not the vendor's.
            return Ok(());
        }
        Ok(self.device.call("irqs_changed", move |device| device.irqs_changed(index))?)
    }

    /// Asks the client to let go of the device: of a PCI function, and where the client wants to be asked.
    pub fn ask(&self) {
        if self.shape.is_pci() {
            self.interrupts.raise(REQUEST, 0);
        }
    }

    /// Back to the state after creation, and at work. Those who are interrupted stay.
    pub fn reset(&self) -> Result<(), VfioSessionError> {
        if !self.shape.resettable {
            return Err(VfioSessionError::NoReset);
        }
        self.device.call("reset", |device| device.reset())??;
        self.link.clear_fault();
        self.interrupts.let_go();
        self.link.changed();
        Ok(())
    }

    /// Whether a state that fits `identity` fits this device.
    pub fn accepts(&self, identity: &[u8]) -> Result<(), VfioSessionError> {
        let ours = self.movable.as_ref().map_or(&[][..], |movable| &movable.identity);
        if self.movable.is_some() && identity == ours {
            return Ok(());
        }
        let words = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned();
        Err(VfioSessionError::Foreign { theirs: words(identity), ours: words(ours) })
    }

    /// Stops the device; when this returns it changes nothing by itself and raises no interrupt.
    pub fn stop(&self) -> Result<(), VfioSessionError> {
        self.device.call("stop", |device| device.stop())??;
        self.interrupts.hold();
        Ok(())
    }

    /// Undoes [`stop`](Self::stop), or begins after [`restore`](Self::restore).
    pub fn run(&self) -> Result<(), VfioSessionError> {
        self.device.call("run", |device| device.run())??;
        self.interrupts.let_go();
        Ok(())
    }

    /// The state of the stopped device.
    pub fn save(&self) -> Result<Vec<u8>, VfioSessionError> {
        Ok(self.device.call("save", |device| device.save())??)
    }

    /// Takes a state; a refusal leaves the device as it was.
    pub fn restore(&self, state: &[u8]) -> Result<(), VfioSessionError> {
        let state = state.to_vec();
        Ok(self.device.call("restore", move |device| device.restore(&state))??)
    }
}

impl Engine for VfioSession {
    fn link(&self) -> &DeviceLink {
        &self.link
    }

    /// A device of its own kind does not tell whether it works.
    fn condition(&self) -> Condition {
        match self.device.broken() {
            Some(_) => Condition::Broken,
            None if self.link.needs_reset() => Condition::NeedsReset,
            None => Condition::Idle,
        }
    }

    fn broken(&self) -> Option<String> {
        self.device.broken().map(ToString::to_string)
    }

    fn retire(&self) {
        self.close();
        self.device.discard();
    }

    fn show_attribute(&self, name: &str) -> Result<String, Refusal> {
        let name = name.to_owned();
        self.device.call("show_attribute", move |device| device.show_attribute(&name))?
    }

    fn store_attribute(&self, name: &str, value: &str) -> Result<(), Refusal> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.device.call("store_attribute", move |device| device.store_attribute(&name, &value))?
    }
}
