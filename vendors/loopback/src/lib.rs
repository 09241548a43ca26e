//! A parent whose instances return every frame they are sent.
//!
//! No frame is ever lost on the way: while the driver has posted no receive buffer, what it transmits stays in its
//! transmit ring. The type `net-iommu` has an IOMMU of its own, so that the `vhost` DMA model has a device to be used
//! with; `net-cvq` has its control queue in a group of its own, so that queues of one device have several memories.

mod iommu;
mod port;

use iommu::IommuDevice;
use nix::errno::Errno;
use port::LoopbackPort;
use std::sync::Arc;
use virtio_mdev_api::{CreateRequest, Device, DmaModel, Parent, Refusal, TypeInfo};
use virtio_net::features::Profile;
use virtio_net::{LinkState, NetDevice, NetParameters, Offer, Seats};

/// How many instances there can be unless said otherwise.
pub const DEFAULT_CAPACITY: u32 = 1024;

struct Type {
    name: &'static str,
    pretty_name: &'static str,
    what: &'static str,
    offer: Offer,
    dma_model: DmaModel,
}

const MIGRATABLE: Offer = Offer { features: Profile::Migratable.features(), control: false, ring_group: false };

const TYPES: [Type; 4] = [
    Type {
        name: "net",
        pretty_name: "loopback network card",
        what: "virtio-net that returns every frame it is sent; can be migrated",
        offer: MIGRATABLE,
        dma_model: DmaModel::Vfio,
    },
    Type {
        name: "net-fast",
        pretty_name: "loopback network card, fast",
        what: "virtio-net that returns every frame it is sent; all features of the ring engine, not to be migrated",
        offer: Offer { features: Profile::Fast.features(), ..MIGRATABLE },
        dma_model: DmaModel::Vfio,
    },
    Type {
        name: "net-cvq",
        pretty_name: "loopback network card with a control queue",
        what: "virtio-net that returns every frame it is sent; control queue and rings in groups of their own",
        offer: Offer { control: true, ring_group: true, ..MIGRATABLE },
        dma_model: DmaModel::Vfio,
    },
    Type {
        name: "net-iommu",
        pretty_name: "loopback network card with its own IOMMU",
        what: "virtio-net that returns every frame it is sent; takes mappings by IOTLB messages alone",
        offer: MIGRATABLE,
        dma_model: DmaModel::Vhost,
    },
];

/// The parent.
#[derive(Debug)]
pub struct Loopback {
    name: String,
    seats: Arc<Seats>,
}

impl Loopback {
    /// A parent called `name` with room for `capacity` instances, of all types together.
    pub fn new(name: impl Into<String>, capacity: u32) -> Self {
        Self { name: name.into(), seats: Seats::new(capacity) }
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Parent for Loopback {
    fn driver_name(&self) -> &str {
        "loopback"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let describe = |kind: &Type| TypeInfo {
            name: kind.name.to_owned(),
            pretty_name: kind.pretty_name.to_owned(),
            description: kind.what.to_owned(),
            device_api: "virtio-mdev",
            dma_model: kind.dma_model,
            parameters: kind.offer.parameters(),
        };
        TYPES.iter().map(describe).collect()
    }

    fn available(&self, _type_name: &str) -> u32 {
        self.seats.free()
    }

    fn create(&self, request: CreateRequest) -> Result<Device, Refusal> {
        let kind = TYPES.iter().find(|kind| kind.name == request.type_name);
        let kind = kind.ok_or_else(|| Refusal::new(Errno::EINVAL, format!("no type {}", request.type_name)))?;
        let parameters = NetParameters::parse(&request, &kind.offer, &[])?;
        let seat = self.seats.take()?;
        let link = request.link;
        let state = Arc::new(LinkState::new(link.clone()));
        let ports = (0..parameters.pairs).map(|_| LoopbackPort).collect();
        let device = NetDevice::new(&parameters, link, state, ports, Box::new(seat))?;
        Ok(Device::Virtio(match kind.dma_model {
            DmaModel::Vfio => Box::new(device),
            DmaModel::Vhost => Box::new(IommuDevice::new(device)),
        }))
    }
}
