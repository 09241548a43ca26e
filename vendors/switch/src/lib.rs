//! A parent that is a learning switch, whose ports are instances.
//!
//! A port has a kind: access (one VLAN, no tags), trunk (several, with tags) or uplink (all of them). The task that serves
//! what one driver sends puts it into the rings of the others, copied once: nothing waits between two ports, and who has no
//! buffers, is being reset or has slow memory loses frames, not others. The switch's own way out is a TAP interface.

mod bucket;
mod burst;
mod checksum;
mod clock;
mod controls;
mod counters;
mod egress;
mod forward;
mod frame;
mod hub;
mod member;
mod offload;
mod parameters;
mod port;
mod secret;
mod sync;
mod table;
mod uplink;
mod vlan;

pub use clock::Clock;

use clock::Monotonic;
use controls::PortControls;
use counters::Counters;
use hub::Hub;
use member::Exit;
use nix::errno::Errno;
use port::SwitchPort;
use std::sync::{Arc, OnceLock};
use table::Table;
use uplink::Uplink;
use virtio_mdev_api::{AttributeSpec, CreateRequest, Device, DmaModel, Parent, Refusal, TypeInfo};
use virtio_net::features::{OFFLOADS, Profile, VIRTIO_NET_F_RSS};
use virtio_net::{LinkState, NetDevice, NetParameters, Offer, Pool, PoolOptions, Seats};
use vlan::Kind;

struct Type {
    name: &'static str,
    pretty_name: &'static str,
    what: &'static str,
    kind: Kind,
    profile: Profile,
}

const fn of(name: &'static str, pretty_name: &'static str, what: &'static str, kind: Kind, profile: Profile) -> Type {
    Type { name, pretty_name, what, kind, profile }
}

const TYPES: [Type; 6] = {
    use Kind::{Access, Trunk, Uplink};
    use Profile::{Fast, Migratable};
    const ACCESS: &str = "virtio-net that is a port of a switch, in one VLAN and without tags; can be migrated";
    const ACCESS_FAST: &str = "virtio-net that is a port of a switch, in one VLAN and without tags; all features of the ring engine, not to be migrated";
    const TRUNK: &str = "virtio-net that is a port of a switch, in several VLANs and with tags; can be migrated";
    const TRUNK_FAST: &str = "virtio-net that is a port of a switch, in several VLANs and with tags; all features of the ring engine, not to be migrated";
    const UPLINK: &str = "virtio-net that is the way out of a switch, in all VLANs and with tags; can be migrated";
    const UPLINK_FAST: &str = "virtio-net that is the way out of a switch, in all VLANs and with tags; all features of the ring engine, not to be migrated";
    [
        of("access", "access port", ACCESS, Access, Migratable),
        of("access-fast", "access port, fast", ACCESS_FAST, Access, Fast),
        of("trunk", "trunk port", TRUNK, Trunk, Migratable),
        of("trunk-fast", "trunk port, fast", TRUNK_FAST, Trunk, Fast),
        of("uplink", "uplink port", UPLINK, Uplink, Migratable),
        of("uplink-fast", "uplink port, fast", UPLINK_FAST, Uplink, Fast),
    ]
};

impl Type {
    fn offer(&self) -> Offer {
        // Which of a port's queues gets a frame is the switch's to say.
        let with_control = self.profile.reception() & !VIRTIO_NET_F_RSS | self.profile.with_control();
        let control = self.profile.has_control_queue();
        Offer {
            features: self.profile.features() | OFFLOADS,
            with_control,
            with_doorbells: self.profile.with_doorbells(),
            control,
            ring_group: false,
        }
    }
}

/// How a switch is to be.
#[derive(Clone)]
pub struct SwitchOptions {
    /// How many instances there can be, of all types together; at most [`MAX_CAPACITY`].
    pub capacity: u32,
    /// Addresses the forwarding table has room for; at most [`MAX_FDB`].
    pub fdb: u32,
    /// Seconds an address is known after it was a source.
    pub ageing: u32,
    /// The TAP interface of the host that is a port of the switch. It is made with the parent.
    pub uplink: Option<String>,
    /// How the queues of its ports, and the interface, are served.
    pub pool: PoolOptions,
}

/// Where the parent shows what was dropped at its own uplink.
const UPLINK_GROUP: &str = "uplink-statistics/";

/// Most instances of a switch.
pub const MAX_CAPACITY: u32 = 16_384;

/// Most addresses a switch knows, which are 128 MiB.
pub const MAX_FDB: u32 = 1 << 20;

impl Default for SwitchOptions {
    fn default() -> Self {
        Self { capacity: 1024, fdb: 8192, ageing: 300, uplink: None, pool: PoolOptions::default() }
    }
}

/// The parent.
pub struct Switch {
    name: String,
    seats: Arc<Seats>,
    hub: Arc<Hub>,
    ageing: u32,
    uplink: Option<Uplink>,
    pool: Arc<Pool>,
}

impl Switch {
    /// A switch called `name`.
    pub fn new(name: impl Into<String>, options: &SwitchOptions) -> Result<Self, Refusal> {
        Self::with_clock(name, options, Arc::new(Monotonic))
    }

    /// The same, with a clock of its own.
    pub fn with_clock(
        name: impl Into<String>,
        options: &SwitchOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Refusal> {
        let name = name.into();
        for (key, value, most) in [("capacity", options.capacity, MAX_CAPACITY), ("fdb", options.fdb, MAX_FDB)] {
            if !(1..=most).contains(&value) {
                return Err(Refusal::new(Errno::EINVAL, format!("{key}={value}: not a number in 1..{most}")));
            }
        }
        // One more for the host.
        let table = Table::new(options.fdb, options.capacity + 1, options.ageing);
        let hub = Hub::new(name.clone(), table, clock);
        let pool = Pool::new(&name, options.pool.clone());
        let uplink = options.uplink.as_deref().map(|interface| Uplink::new(&hub, interface, &pool)).transpose()?;
        Ok(Self { name, seats: Seats::new(options.capacity), hub, ageing: options.ageing, uplink, pool })
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Parent for Switch {
    fn driver_name(&self) -> &str {
        "switch"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let describe = |kind: &Type| TypeInfo {
            name: kind.name.to_owned(),
            pretty_name: kind.pretty_name.to_owned(),
            description: kind.what.to_owned(),
            device_api: "virtio-mdev",
            dma_model: DmaModel::Vfio,
            parameters: [kind.offer().parameters(), parameters::specs(kind.kind)].concat(),
        };
        TYPES.iter().map(describe).collect()
    }

    fn available(&self, _type_name: &str) -> u32 {
        self.seats.free()
    }

    fn create(&self, request: CreateRequest) -> Result<Device, Refusal> {
        let kind = TYPES.iter().find(|kind| kind.name == request.type_name);
        let kind = kind.ok_or_else(|| Refusal::new(Errno::EINVAL, format!("no type {}", request.type_name)))?;
        let card = NetParameters::parse(&request, &kind.offer(), &parameters::specs(kind.kind))?;
        let settings = Arc::new(parameters::parse(kind.kind, card.mac, &request.parameters)?);
        let seat = self.seats.take()?;
        let link = Arc::new(LinkState::new(request.link.clone()));
        let joined = Arc::new(OnceLock::new());
        let place = Arc::new(OnceLock::new());
        let port = |pair| SwitchPort::new(Arc::clone(&self.hub), Arc::clone(&settings), Arc::clone(&place), pair);
        let controls = PortControls {
            hub: Arc::clone(&self.hub),
            settings: Arc::clone(&settings),
            link: Arc::clone(&link),
            joined: Arc::clone(&joined),
            _seat: seat,
        };
        let ports = (0..card.pairs).map(port).collect();
        let device = NetDevice::new(&card, request.link, link, ports, Box::new(controls), &self.pool)?;
        let exit = Exit::Driver(device.lanes().clone());
        let member = self.hub.join(request.uuid.to_string(), settings, exit);
        // Nobody else sets them.
        let _ = place.set(member.id());
        let _ = joined.set(member);
        Ok(Device::Virtio(Box::new(device)))
    }

    fn attributes(&self, type_name: Option<&str>) -> Vec<AttributeSpec> {
        let attribute = |name: String| AttributeSpec { name, writable: false };
        if type_name.is_some() {
            return Vec::new();
        }
        let own = ["ageing", "fdb", "uplink"].map(str::to_owned).into_iter();
        let counters = Counters::names().filter(|_| self.uplink.is_some()).map(|name| format!("{UPLINK_GROUP}{name}"));
        own.chain(counters).map(attribute).collect()
    }

    fn show_attribute(&self, _type_name: Option<&str>, name: &str) -> Result<String, Refusal> {
        let uplink = self.uplink.as_ref();
        let counter = || uplink?.counters().show(name.strip_prefix(UPLINK_GROUP)?);
        match name {
            "ageing" => Ok(self.ageing.to_string()),
            "fdb" => Ok(self.hub.fdb()),
            "uplink" => Ok(uplink.map_or_else(String::new, |uplink| format!("tap:{}", uplink.name()))),
            _ => counter().map_or_else(
                || Err(Refusal::new(Errno::ENOENT, format!("no attribute {name}"))),
                |count| Ok(count.to_string()),
            ),
        }
    }
}
