//! A device that is no virtio device: one register, which reads as what was written last, and an interrupt at every write.

use crate::faults::Faults;
use nix::errno::Errno;
use std::sync::Arc;
use virtio_mdev_api::dma::AddressSpace;
use virtio_mdev_api::vfio::flags::{VFIO_DEVICE_FLAGS_PLATFORM, VFIO_IRQ_INFO_EVENTFD};
use virtio_mdev_api::vfio::{DeviceShape, Interrupts, IrqShape, Opened, OwnAnswer, OwnCall, RegionShape, VfioMdev};
use virtio_mdev_api::{AttributeSpec, Refusal};
use virtio_net::Seat;

/// Bytes of the register.
const SIZE: usize = 8;

pub struct Register {
    bytes: [u8; SIZE],
    interrupts: Option<Arc<Interrupts>>,
    faults: Faults,
    _seat: Seat,
}

impl Register {
    pub fn new(seat: Seat) -> Self {
        Self { bytes: [0; SIZE], interrupts: None, faults: Faults::default(), _seat: seat }
    }

    /// What of the register begins at `offset`.
    fn from(&mut self, offset: u64) -> &mut [u8] {
        let from = usize::try_from(offset).unwrap_or(SIZE).min(SIZE);
        &mut self.bytes[from..]
    }
}

impl VfioMdev for Register {
    fn shape(&self) -> DeviceShape {
        DeviceShape {
            flags: VFIO_DEVICE_FLAGS_PLATFORM,
            resettable: true,
            regions: vec![RegionShape { size: SIZE as u64, readable: true, writable: true }],
            irqs: vec![IrqShape { count: 1, flags: VFIO_IRQ_INFO_EVENTFD }],
        }
    }

    fn open(&mut self, opened: Opened) -> Result<(), Refusal> {
        self.faults.enter("open");
        self.interrupts = Some(opened.interrupts);
        Ok(())
    }

    fn release(&mut self) {
        self.faults.enter("release");
        self.interrupts = None;
    }

    fn set_memory(&mut self, _memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        self.faults.enter("set_memory");
        Ok(())
    }

    fn read(&mut self, _region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        self.faults.enter("read");
        out.iter_mut().zip(self.from(offset)).for_each(|(to, byte)| *to = *byte);
        Ok(())
    }

    fn write(&mut self, _region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.faults.enter("write");
        self.from(offset).iter_mut().zip(data).for_each(|(to, byte)| *to = *byte);
        if let Some(interrupts) = &self.interrupts {
            interrupts.raise(0, 0);
        }
        Ok(())
    }

    /// Answers its input backwards, whatever the number.
    fn ioctl(&mut self, call: OwnCall) -> Result<OwnAnswer, Refusal> {
        self.faults.enter("ioctl");
        Ok(OwnAnswer { value: 0, output: call.input.into_iter().rev().collect() })
    }

    fn irqs_changed(&mut self, _index: u32) {
        self.faults.enter("irqs_changed");
    }

    fn reset(&mut self) -> Result<(), Refusal> {
        self.faults.enter("reset");
        self.bytes = [0; SIZE];
        Ok(())
    }

    fn attributes(&self) -> Vec<AttributeSpec> {
        self.faults.common_attributes()
    }

    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        self.faults.show(name).ok_or_else(|| none(name))
    }

    fn store_attribute(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        self.faults.store(name, value).ok_or_else(|| none(name))?
    }
}

fn none(name: &str) -> Refusal {
    Refusal::new(Errno::ENOENT, format!("no attribute {name}"))
}
