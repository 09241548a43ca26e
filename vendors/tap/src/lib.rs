//! A parent whose instances are virtio-net devices on a TAP interface of the host.
//!
//! The interface comes with the instance and goes with it. The virtio-net header passes through, so that the kernel and
//! the guest leave checksums and segmentation to each other as negotiated.

mod controls;
mod gather;
mod given;
mod name;
mod own;
mod port;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tun;

use controls::TapControls;
use name::{checked_name, interface_name};
use nix::errno::Errno;
use own::OwnTap;
use std::sync::{Arc, OnceLock};
use tun::{OFFLOAD_USO4, OFFLOAD_USO6};
use virtio_mdev_api::{CreateRequest, Device, DmaModel, ParameterSpec, Parent, Refusal, TypeInfo, Values};
use virtio_net::features::{ECN, OFFLOADS, Profile, USO};
use virtio_net::{LinkState, NetDevice, NetParameters, Offer, Pool, PoolOptions, Seats};

pub use given::{GivenError, GivenTap, Half};
pub use port::{Frames, TapPort};
pub use tun::{OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, Tun, TunQueue};

/// Name, pretty name, description, and the features besides offloads.
const TYPES: [(&str, &str, &str, Profile); 2] = [
    ("net", "TAP network card", "virtio-net on a TAP interface; can be migrated", Profile::Migratable),
    (
        "net-fast",
        "TAP network card, fast",
        "virtio-net on a TAP interface; all features of the ring engine, not to be migrated",
        Profile::Fast,
    ),
];

fn offer(profile: Profile) -> Offer {
    // QEMU does not migrate cards with UDP segmentation.
    let uso = if profile == Profile::Fast && has_uso() { USO } else { 0 };
    let features = profile.features() | OFFLOADS | ECN | uso;
    let control = profile.has_control_queue();
    let with_control = profile.reception() | profile.with_control();
    Offer { features, with_control, with_doorbells: profile.with_doorbells(), control, ring_group: false }
}

/// Whether the kernel's interfaces know UDP segmentation, which is since Linux 6.2. One is made to ask it, once.
fn has_uso() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let ask =
        || Tun::create(PROBE, 1).is_ok_and(|tun| tun.set_offload(OFFLOAD_CSUM | OFFLOAD_USO4 | OFFLOAD_USO6).is_ok());
    *KNOWN.get_or_init(ask)
}

fn own_parameters() -> [ParameterSpec; 1] {
    [ParameterSpec {
        name: "ifname",
        values: Values::Shape("NAME"),
        default: None,
        what: "interface, 1 to 15 bytes; umdev and the first digits of the UUID unless given",
    }]
}

/// How a TAP parent is to be.
#[derive(Debug, Clone)]
pub struct TapOptions {
    /// How many instances there can be, of all types together.
    pub capacity: u32,
    /// How their queues are served.
    pub pool: PoolOptions,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self { capacity: 1024, pool: PoolOptions::default() }
    }
}

/// An interface that is gone at once.
const PROBE: &str = "umdevprobe%d";

/// The parent.
#[derive(Debug)]
pub struct Tap {
    name: String,
    seats: Arc<Seats>,
    pool: Arc<Pool>,
}

impl Tap {
    /// A parent called `name`. Its interfaces are made in the network namespace of the thread that creates an instance.
    pub fn new(name: impl Into<String>, options: TapOptions) -> Self {
        let name = name.into();
        let pool = Pool::new(&name, options.pool);
        Self { name, seats: Seats::new(options.capacity), pool }
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether TAP interfaces can be made here. The only sure way to know is to make one; it is gone at once.
    pub fn permitted() -> Result<(), Refusal> {
        match Tun::create(PROBE, 1) {
            Ok(_) => Ok(()),
            Err(errno @ (Errno::ENOENT | Errno::ENODEV | Errno::ENXIO)) => {
                Err(Refusal::new(errno, "there is no /dev/net/tun: load the module tun"))
            }
            Err(errno @ (Errno::EPERM | Errno::EACCES)) => {
                Err(Refusal::new(errno, "TAP interfaces need CAP_NET_ADMIN and access to /dev/net/tun"))
            }
            Err(errno) => Err(Refusal::new(errno, format!("TAP interfaces cannot be made: {}", errno.desc()))),
        }
    }
}

impl Parent for Tap {
    fn driver_name(&self) -> &str {
        "tap"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let describe = |&(name, pretty_name, what, profile): &(&str, &str, &str, Profile)| TypeInfo {
            name: name.to_owned(),
            pretty_name: pretty_name.to_owned(),
            description: what.to_owned(),
            device_api: "virtio-mdev",
            dma_model: DmaModel::Vfio,
            parameters: [&offer(profile).parameters()[..], &own_parameters()].concat(),
        };
        TYPES.iter().map(describe).collect()
    }

    fn available(&self, _type_name: &str) -> u32 {
        self.seats.free()
    }

    fn create(&self, request: CreateRequest) -> Result<Device, Refusal> {
        let kind = TYPES.iter().find(|kind| kind.0 == request.type_name);
        let (_, _, _, profile) =
            kind.ok_or_else(|| Refusal::new(Errno::EINVAL, format!("no type {}", request.type_name)))?;
        let parameters = NetParameters::parse(&request, &offer(*profile), &own_parameters())?;
        let name = interface_name(&request.uuid, request.parameters.get("ifname").map(String::as_str))?;
        let seat = self.seats.take()?;
        let tun = Arc::new(create_interface(&name, parameters.pairs, parameters.mtu)?);
        let link = Arc::new(LinkState::new(request.link.clone()));
        let controls = TapControls { tun: Arc::clone(&tun), link: Arc::clone(&link), _seat: seat };
        let ports = tun.queues().map(|queue| TapPort::new(OwnTap::new(queue))).collect();
        let device = NetDevice::new(&parameters, request.link, link, ports, Box::new(controls), &self.pool)?;
        Ok(Device::Virtio(Box::new(device)))
    }
}

/// A new interface called `name`, with so many queues, that is up. It is made in the network namespace of this thread.
pub fn create_interface(name: &str, queues: u16, mtu: u16) -> Result<Tun, Refusal> {
    let name = checked_name(name)?;
    let tun = Tun::create(name, queues).map_err(|errno| match errno {
        Errno::EBUSY => Refusal::new(Errno::EEXIST, format!("there is an interface {name} already")),
        Errno::EPERM => Refusal::new(errno, format!("making interface {name} needs CAP_NET_ADMIN")),
        errno => Refusal::new(errno, format!("interface {name} cannot be made: {}", errno.desc())),
    })?;
    tun.bring_up(mtu).map_err(|errno| {
        Refusal::new(errno, format!("interface {name} does not come up with an MTU of {mtu}: {}", errno.desc()))
    })?;
    Ok(tun)
}
