//! A parent whose instances return every frame they are sent.
//!
//! No frame is ever lost on the way: while the driver has posted no receive buffer, what it transmits stays in its
//! transmit ring. The type `net-iommu` has an IOMMU of its own, so that the `vhost` DMA model has a device to be used
//! with; `net-cvq` has its control queue in a group of its own, so that queues of one device have several memories.
//!
//! Types that begin with `source` and `sink` are half of it: a source fills the driver's receive buffers and drops what
//! it is sent, a sink takes what it is sent and gives nothing. Each direction can be measured alone with them.

mod iommu;
mod port;
mod sink;
mod source;

use iommu::IommuDevice;
use nix::errno::Errno;
use port::LoopbackPort;
use sink::SinkPort;
use source::{Source, SourcePort};
use std::sync::Arc;
use virtio_mdev_api::{CreateRequest, Device, DmaModel, ParameterSpec, Parent, Refusal, TypeInfo};
use virtio_net::features::Profile;
use virtio_net::{LinkState, NetDevice, NetParameters, Offer, Pool, Seats};

pub use virtio_net::PoolOptions;

/// How many instances there can be unless said otherwise.
pub const DEFAULT_CAPACITY: u32 = 1024;

struct Type {
    name: &'static str,
    pretty_name: &'static str,
    what: &'static str,
    offer: Offer,
    dma_model: DmaModel,
    wire: Wire,
}

/// Where frames go, and whether any come.
#[derive(Clone, Copy)]
enum Wire {
    Back,
    Source,
    Sink,
}

const MIGRATABLE: Offer = offer(Profile::Migratable);
const FAST: Offer = offer(Profile::Fast);

const fn offer(profile: Profile) -> Offer {
    Offer {
        features: profile.features(),
        with_control: profile.with_control(),
        with_doorbells: profile.with_doorbells(),
        control: false,
        ring_group: false,
    }
}

const TYPES: [Type; 8] = [
    Type {
        name: "net",
        pretty_name: "loopback network card",
        what: "virtio-net that returns every frame it is sent; can be migrated",
        offer: MIGRATABLE,
        dma_model: DmaModel::Vfio,
        wire: Wire::Back,
    },
    Type {
        name: "net-fast",
        pretty_name: "loopback network card, fast",
        what: "virtio-net that returns every frame it is sent; all features of the ring engine, not to be migrated",
        offer: FAST,
        dma_model: DmaModel::Vfio,
        wire: Wire::Back,
    },
    Type {
        name: "net-cvq",
        pretty_name: "loopback network card with a control queue",
        what: "virtio-net that returns every frame it is sent; control queue and rings in groups of their own",
        offer: Offer { control: true, ring_group: true, ..MIGRATABLE },
        dma_model: DmaModel::Vfio,
        wire: Wire::Back,
    },
    Type {
        name: "net-iommu",
        pretty_name: "loopback network card with its own IOMMU",
        what: "virtio-net that returns every frame it is sent; takes mappings by IOTLB messages alone",
        offer: MIGRATABLE,
        dma_model: DmaModel::Vhost,
        wire: Wire::Back,
    },
    Type {
        name: "source",
        pretty_name: "source of frames",
        what: "virtio-net that fills all receive buffers with frames and drops what it is sent; can be migrated",
        offer: MIGRATABLE,
        dma_model: DmaModel::Vfio,
        wire: Wire::Source,
    },
    Type {
        name: "source-fast",
        pretty_name: "source of frames, fast",
        what: "virtio-net that fills all receive buffers with frames and drops what it is sent; all features of the ring \
               engine, not to be migrated",
        offer: FAST,
        dma_model: DmaModel::Vfio,
        wire: Wire::Source,
    },
    Type {
        name: "sink",
        pretty_name: "sink of frames",
        what: "virtio-net that takes every frame it is sent and returns none; can be migrated",
        offer: MIGRATABLE,
        dma_model: DmaModel::Vfio,
        wire: Wire::Sink,
    },
    Type {
        name: "sink-fast",
        pretty_name: "sink of frames, fast",
        what: "virtio-net that takes every frame it is sent and returns none; all features of the ring engine, not to be \
               migrated",
        offer: FAST,
        dma_model: DmaModel::Vfio,
        wire: Wire::Sink,
    },
];

impl Type {
    /// The parameters that it takes beside those of every network card.
    fn own_parameters(&self) -> Vec<ParameterSpec> {
        match self.wire {
            Wire::Source => vec![source::frame_parameter()],
            Wire::Back | Wire::Sink => Vec::new(),
        }
    }
}

/// The parent.
#[derive(Debug)]
pub struct Loopback {
    name: String,
    seats: Arc<Seats>,
    pool: Arc<Pool>,
}

impl Loopback {
    /// A parent called `name` with room for `capacity` instances, of all types together.
    pub fn new(name: impl Into<String>, capacity: u32) -> Self {
        Self::with_pool(name, capacity, PoolOptions::default())
    }

    /// The same, whose queues are served as `pool` says.
    pub fn with_pool(name: impl Into<String>, capacity: u32, pool: PoolOptions) -> Self {
        let name = name.into();
        let pool = Pool::new(&name, pool);
        Self { name, seats: Seats::new(capacity), pool }
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
            parameters: [kind.offer.parameters(), kind.own_parameters()].concat(),
        };
        TYPES.iter().map(describe).collect()
    }

    fn available(&self, _type_name: &str) -> u32 {
        self.seats.free()
    }

    fn create(&self, request: CreateRequest) -> Result<Device, Refusal> {
        let kind = TYPES.iter().find(|kind| kind.name == request.type_name);
        let kind = kind.ok_or_else(|| Refusal::new(Errno::EINVAL, format!("no type {}", request.type_name)))?;
        let parameters = NetParameters::parse(&request, &kind.offer, &kind.own_parameters())?;
        let source = Source::parse(&request, &parameters)?;
        let seat = self.seats.take()?;
        let link = request.link;
        let state = Arc::new(LinkState::new(link.clone()));
        let pairs = 0..parameters.pairs;
        Ok(Device::Virtio(match kind.wire {
            Wire::Back => {
                let device = NetDevice::new(
                    &parameters,
                    link,
                    state,
                    pairs.map(|_| LoopbackPort).collect(),
                    Box::new(seat),
                    &self.pool,
                )?;
                match kind.dma_model {
                    DmaModel::Vfio => Box::new(device),
                    DmaModel::Vhost => Box::new(IommuDevice::new(device)),
                }
            }
            Wire::Source => {
                let ports = pairs.map(|_| SourcePort::new(&source)).collect();
                Box::new(NetDevice::new(&parameters, link, state, ports, Box::new(source.controls(seat)), &self.pool)?)
            }
            Wire::Sink => Box::new(NetDevice::new(
                &parameters,
                link,
                state,
                pairs.map(|_| SinkPort).collect(),
                Box::new(seat),
                &self.pool,
            )?),
        }))
    }
}
