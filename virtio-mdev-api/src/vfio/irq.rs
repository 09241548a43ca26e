//! VFIO_DEVICE_SET_IRQS as data.

use crate::notify::EventFd;

/// One call of VFIO_DEVICE_SET_IRQS.
#[derive(Debug, Clone)]
pub struct IrqChange {
    /// Which index.
    pub index: u32,
    /// The first interrupt of it that is meant.
    pub start: u32,
    /// What is done.
    pub action: IrqAction,
    /// To which, and with what.
    pub data: IrqData,
}

/// `VFIO_IRQ_SET_ACTION_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqAction {
    /// No interrupt until it is unmasked.
    Mask,
    /// Undoes a mask, and brings what came meanwhile.
    Unmask,
    /// With eventfds: whom to interrupt. Else: as if the device interrupted.
    Trigger,
}

/// `VFIO_IRQ_SET_DATA_*`.
#[derive(Debug, Clone)]
pub enum IrqData {
    /// So many interrupts from the first. None at all, with [`IrqAction::Trigger`], takes down the whole index.
    None(u32),
    /// Each where it is true.
    Bool(Vec<bool>),
    /// An eventfd for each; `None` takes one away.
    EventFd(Vec<Option<EventFd>>),
}
