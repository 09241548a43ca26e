//! What a device is made of.

/// Numbers of `linux/vfio.h` that a shape is told in.
pub mod flags {
    /// `VFIO_DEVICE_FLAGS_PCI`: the device is a PCI function.
    pub const VFIO_DEVICE_FLAGS_PCI: u32 = 1 << 1;
    /// `VFIO_DEVICE_FLAGS_PLATFORM`: it is of no bus that clients know.
    pub const VFIO_DEVICE_FLAGS_PLATFORM: u32 = 1 << 2;
    /// `VFIO_IRQ_INFO_EVENTFD`: it is signalled by eventfd.
    pub const VFIO_IRQ_INFO_EVENTFD: u32 = 1 << 0;
    /// `VFIO_IRQ_INFO_MASKABLE`: it can be masked.
    pub const VFIO_IRQ_INFO_MASKABLE: u32 = 1 << 1;
    /// `VFIO_IRQ_INFO_AUTOMASKED`: it is masked by being signalled.
    pub const VFIO_IRQ_INFO_AUTOMASKED: u32 = 1 << 2;
    /// `VFIO_IRQ_INFO_NORESIZE`: all of the index are set up at once.
    pub const VFIO_IRQ_INFO_NORESIZE: u32 = 1 << 3;
}

/// What a device is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceShape {
    /// What kind of device: of `VFIO_DEVICE_FLAGS_*` those that name a bus.
    pub flags: u32,
    /// Whether VFIO_DEVICE_RESET works.
    pub resettable: bool,
    /// The regions, by index. One of size 0 is not there.
    pub regions: Vec<RegionShape>,
    /// The interrupts, by index. One of count 0 is not there.
    pub irqs: Vec<IrqShape>,
}

impl DeviceShape {
    /// Whether it is shown as a PCI function.
    pub fn is_pci(&self) -> bool {
        self.flags & flags::VFIO_DEVICE_FLAGS_PCI != 0
    }
}

/// A region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegionShape {
    /// In bytes.
    pub size: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
}

/// An index of interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IrqShape {
    /// How many there are.
    pub count: u32,
    /// `VFIO_IRQ_INFO_*`.
    pub flags: u32,
}
