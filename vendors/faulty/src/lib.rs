//! A parent whose instances misbehave on command, for tests of what stands above a vendor and of clients.
//!
//! An instance is a loopback network card until one of its attributes below `faults/` is written:
//!
//! | Attribute | Value | What the device does wrong |
//! |---|---|---|
//! | `lose_call` | n | every n-th interrupt is lost |
//! | `late_call_ms` | ms | interrupts come this much later |
//! | `needs_reset_after` | n | it asks for a reset at the n-th frame after a reset |
//! | `slow_suspend_ms` | ms | stopping a queue takes this long |
//! | `torn_config` | n | every n-th read of configuration space mixes old and new |
//! | `short_used` | bytes | frames come back this much shorter, down to their header |
//! | `wrong_ring_state` | n | a stopped queue says that it stands n chains further |
//! | `unlogged` | 1 | queues that start do not tell what they write |
//! | `stale_maps` | 1 | queues keep to what was mapped when they started |
//! | `one_space` | 1 | queues that start use the memory of the first one, whatever their address space |
//! | `hang` | callback | the callback does not return |
//! | `panic` | callback | the callback panics |
//!
//! 0, or no word at all, is health. Callbacks are the methods of [`virtio_mdev_api::VirtioMdev`] by name.
//!
//! The type `register` is no virtio device but one register of eight bytes. It has `hang` and `panic` alone, with the methods of
//! [`virtio_mdev_api::vfio::VfioMdev`].

mod device;
mod faults;
mod memory;
mod port;
mod register;
mod relay;

use device::FaultyDevice;
use faults::Faults;
use nix::errno::Errno;
use port::FaultyPort;
use register::Register;
use std::sync::Arc;
use virtio_mdev_api::{CreateRequest, Device, DmaModel, Parent, Refusal, TypeInfo};
use virtio_net::features::Profile;
use virtio_net::{LinkState, NetDevice, NetParameters, Offer, Pool, PoolOptions, Seats};

const TYPE: &str = "net";
const REGISTER: &str = "register";
const OFFER: Offer = Offer {
    features: Profile::Migratable.features(),
    with_control: 0,
    with_doorbells: 0,
    control: false,
    ring_group: false,
};

/// The parent.
#[derive(Debug)]
pub struct Faulty {
    name: String,
    seats: Arc<Seats>,
    pool: Arc<Pool>,
}

impl Faulty {
    /// A parent called `name` with room for `capacity` instances.
    pub fn new(name: impl Into<String>, capacity: u32) -> Self {
        let name = name.into();
        let pool = Pool::new(&name, PoolOptions::default());
        Self { name, seats: Seats::new(capacity), pool }
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Parent for Faulty {
    fn driver_name(&self) -> &'static str {
        "faulty"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let net = TypeInfo {
            name: TYPE.to_owned(),
            pretty_name: "faulty network card".to_owned(),
            description: "loopback virtio-net that misbehaves as its faults/ attributes say; for tests".to_owned(),
            device_api: "virtio-mdev",
            dma_model: DmaModel::Vfio,
            parameters: OFFER.parameters(),
        };
        let register = TypeInfo {
            name: REGISTER.to_owned(),
            pretty_name: "faulty register".to_owned(),
            description: "a register that is driven through VFIO and misbehaves as told; for tests".to_owned(),
            device_api: "vfio-platform",
            dma_model: DmaModel::Vfio,
            parameters: Vec::new(),
        };
        vec![net, register]
    }

    fn available(&self, _type_name: &str) -> u32 {
        self.seats.free()
    }

    fn create(&self, request: CreateRequest) -> Result<Device, Refusal> {
        if request.type_name == REGISTER {
            if let Some(key) = request.parameters.keys().next() {
                return Err(Refusal::new(Errno::EINVAL, format!("unknown parameter {key}; none are known")));
            }
            return Ok(Device::Vfio(Box::new(Register::new(self.seats.take()?))));
        }
        if request.type_name != TYPE {
            return Err(Refusal::new(Errno::EINVAL, format!("no type {}", request.type_name)));
        }
        let parameters = NetParameters::parse(&request, &OFFER, &[])?;
        let seat = self.seats.take()?;
        let link = request.link;
        let state = Arc::new(LinkState::new(link.clone()));
        let faults = Arc::new(Faults::default());
        let port = |_| FaultyPort::new(Arc::clone(&faults), link.clone());
        let ports = (0..parameters.pairs).map(port).collect();
        let net = NetDevice::new(&parameters, link, state, ports, Box::new(seat), &self.pool)?;
        Ok(Device::Virtio(Box::new(FaultyDevice::new(net, faults))))
    }
}
