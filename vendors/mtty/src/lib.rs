//! A parent whose instances are PCI serial cards, as those of the kernel's sample driver of the same name are.
//!
//! A card is a PCI function 4348:3253 with a 16550A of eight I/O ports in BAR 0 and, on the card with two ports, another in
//! BAR 1. Linux drives it with `8250_pci`. Where its bytes go, the parameter `backend` says:
//!
//! | `backend` | |
//! |---|---|
//! | `loop` | a plug that connects each port with itself: what is sent comes back |
//! | `pty` | a pseudo terminal of the host for each port, named by the attributes `tty0` and `tty1` |
//!
//! All cards of a parent share its ports.

mod card;
mod config;
mod device;
mod fifo;
mod poller;
mod ports;
mod pty;
mod state;
mod uart;

use card::Card;
use device::Device;
use nix::errno::Errno;
use ports::Ports;
use pty::Pty;
use std::sync::Arc;
use virtio_mdev_api::{CreateRequest, DmaModel, ParameterSpec, Parent, Refusal, TypeInfo, Values};

/// Ports there are unless said otherwise, as in the kernel's sample.
pub const DEFAULT_PORTS: u32 = 24;

const BACKEND: &str = "backend";

/// Name, pretty name, and ports.
const TYPES: [(&str, &str, u32); 2] = [("1", "Single port serial", 1), ("2", "Dual port serial", 2)];

/// The parent.
#[derive(Debug)]
pub struct Mtty {
    name: String,
    ports: Arc<Ports>,
}

impl Mtty {
    /// A parent called `name` whose cards have `ports` ports, all together.
    pub fn new(name: impl Into<String>, ports: u32) -> Self {
        Self { name: name.into(), ports: Ports::new(ports) }
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn backend() -> ParameterSpec {
    ParameterSpec {
        name: BACKEND,
        values: Values::Shape("loop|pty"),
        default: Some("loop".to_owned()),
        what: "where bytes go: back to the port, or to a pseudo terminal that attribute tty0 (tty1) names",
    }
}

fn ports_of(type_name: &str) -> Option<u32> {
    TYPES.iter().find(|(name, ..)| *name == type_name).map(|(.., ports)| *ports)
}

impl Parent for Mtty {
    fn driver_name(&self) -> &str {
        "mtty"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let describe = |&(name, pretty_name, ports): &(&str, &str, u32)| TypeInfo {
            name: name.to_owned(),
            pretty_name: pretty_name.to_owned(),
            description: format!("PCI serial card, 16550A; takes {ports} of the parent's ports; can be migrated"),
            device_api: "vfio-pci",
            dma_model: DmaModel::Vfio,
            parameters: vec![backend()],
        };
        TYPES.iter().map(describe).collect()
    }

    fn available(&self, type_name: &str) -> u32 {
        ports_of(type_name).map_or(0, |ports| self.ports.free() / ports)
    }

    fn create(&self, request: CreateRequest) -> Result<virtio_mdev_api::Device, Refusal> {
        let ports = ports_of(&request.type_name)
            .ok_or_else(|| Refusal::new(Errno::EINVAL, format!("no type {}", request.type_name)))?;
        if let Some(key) = request.parameters.keys().find(|key| *key != BACKEND) {
            return Err(Refusal::new(Errno::EINVAL, format!("unknown parameter {key}; {BACKEND} is known")));
        }
        let with_pty = match request.parameters.get(BACKEND).map_or("loop", String::as_str) {
            "loop" => false,
            "pty" => true,
            other => return Err(backend().refuse(other, "not loop or pty")),
        };
        let seats = self.ports.take(ports)?;
        let lines = (0..ports).map(|_| if with_pty { Pty::new(request.owner).map(Some) } else { Ok(None) });
        let lines = lines.collect::<Result<Vec<_>, _>>();
        let lines = lines.map_err(|errno| Refusal::new(errno, "no pseudo terminal can be had"))?;
        let device = Device::new(request.link.name(), Card::new(lines), seats)?;
        Ok(virtio_mdev_api::Device::Vfio(Box::new(device)))
    }
}
