//! The device as the contract has it.

use crate::card::{CONFIG, Card};
use crate::config::{BAR_SIZE, CONFIG_SIZE};
use crate::poller::Served;
use crate::ports::Taken;
use crate::state;
use nix::errno::Errno;
use virtio_mdev_api::vfio::flags::*;
use virtio_mdev_api::vfio::{DeviceShape, IrqShape, Movable, Opened, RegionShape, VfioMdev};
use virtio_mdev_api::{AttributeSpec, Refusal};

/// `VFIO_PCI_NUM_REGIONS`.
const REGIONS: usize = 9;

/// An instance.
pub struct Device {
    card: Served,
    ports: usize,
    _seats: Taken,
}

impl Device {
    /// The device of `card`, in whose place `seats` are taken.
    pub fn new(name: &str, card: Card, seats: Taken) -> Result<Self, Refusal> {
        let ports = card.ports().len();
        Ok(Self { card: Served::new(name, card)?, ports, _seats: seats })
    }
}

impl VfioMdev for Device {
    fn shape(&self) -> DeviceShape {
        let mut regions = vec![RegionShape::default(); REGIONS];
        let bars = regions.iter_mut().take(self.ports);
        bars.for_each(|bar| *bar = RegionShape { size: BAR_SIZE, readable: true, writable: true });
        let config = RegionShape { size: CONFIG_SIZE as u64, readable: true, writable: true };
        if let Some(region) = usize::try_from(CONFIG).ok().and_then(|at| regions.get_mut(at)) {
            *region = config;
        }
        let intx = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
        let msi = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE;
        let irqs = [intx, msi].map(|flags| IrqShape { count: 1, flags }).into();
        DeviceShape { flags: VFIO_DEVICE_FLAGS_PCI, resettable: true, regions, irqs }
    }

    fn movable(&self) -> Option<Movable> {
        let size = u64::try_from(self.card.with(|card| card.save()).len()).ok()?;
        Some(Movable { identity: state::identity(self.ports), size })
    }

    fn open(&mut self, opened: Opened) -> Result<(), Refusal> {
        self.card.with(|card| card.open(opened.interrupts));
        Ok(())
    }

    fn release(&mut self) {
        self.card.with(Card::release);
    }

    fn read(&mut self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        self.card.with(|card| card.read(region, offset, out))
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.card.with(|card| card.write(region, offset, data))
    }

    fn irqs_changed(&mut self, index: u32) {
        self.card.with(|card| card.irqs_changed(index));
    }

    fn reset(&mut self) -> Result<(), Refusal> {
        self.card.with(Card::reset);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Refusal> {
        self.card.with(|card| card.set_stopped(true));
        Ok(())
    }

    fn run(&mut self) -> Result<(), Refusal> {
        self.card.with(|card| card.set_stopped(false));
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, Refusal> {
        Ok(self.card.with(|card| card.save()))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Refusal> {
        Ok(self.card.with(|card| card.restore(state))?)
    }

    fn attributes(&self) -> Vec<AttributeSpec> {
        let terminals = (0..self.ports).map(|port| format!("tty{port}")).filter(|_| self.card.has_terminals());
        let names = ["ports", "backend"].map(str::to_owned).into_iter().chain(terminals);
        names.map(|name| AttributeSpec { name, writable: false }).collect()
    }

    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        match name {
            "ports" => return Ok(self.ports.to_string()),
            "backend" => return Ok(if self.card.has_terminals() { "pty" } else { "loop" }.to_owned()),
            _ => {}
        }
        let port = name.strip_prefix("tty").and_then(|number| number.parse::<usize>().ok());
        let path = port.and_then(|port| {
            self.card.with(|card| {
                let pty = card.ports().get(port)?.pty()?;
                // A terminal that is lost has no name.
                Some(pty.path().map_or_else(String::new, |path| path.display().to_string()))
            })
        });
        path.ok_or_else(|| Refusal::new(Errno::ENOENT, format!("no attribute {name}")))
    }
}
