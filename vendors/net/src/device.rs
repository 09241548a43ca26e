//! A virtio-net device (virtio 1.3 §5.1).

use crate::config::{CONFIG_SIZE, LinkState, NetConfig, Wanted};
use crate::control::control_queue;
use crate::features::{
    COALESCING, SEVERAL_PAIRS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_HASH_REPORT,
    VIRTIO_NET_F_MAC, effective,
};
use crate::lane::{Lane, Lanes};
use crate::mac::Mac;
use crate::pair::{Pair, Shared};
use crate::parameters::{Doorbell, Duplex, NetParameters, UNKNOWN};
use crate::port::{Controls, Port};
use crate::service::ControlService;
use crate::state::CardState;
use crate::stats::CardStatistics;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use virtio_mdev_api::dma::Limits;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{
    AttributeSpec, Capabilities, DeviceInfo, DeviceLink, QueueInfo, QueueStart, QueueState, Refusal, Status, VirtioMdev,
};
use virtqueue::{Health, Pool, Queue, Task, Waker, WorkerError};

/// The device id of network cards (virtio 1.3 §5).
pub const VIRTIO_ID_NET: u32 = 1;
/// The groups of queues, each of which can be given memory of its own: those of frames, the control queue, and the rings
/// of the first.
const DATA_GROUP: u32 = 0;
const CONTROL_GROUP: u32 = 1;
const RING_GROUP: u32 = 2;

/// A virtio-net device on a port for each queue pair: even queues receive, odd ones transmit, the last one takes
/// commands where the device has a control queue.
pub struct NetDevice<P: Port> {
    features: u64,
    queue_size: u16,
    ring_group: bool,
    doorbell: Doorbell,
    speed: Option<u32>,
    duplex: Option<Duplex>,
    config: Arc<NetConfig>,
    /// What the driver accepted, or all that is offered before it did.
    accepted: u64,
    driver_ok: bool,
    link: Arc<LinkState>,
    statistics: Arc<CardStatistics>,
    lanes: Lanes,
    health: Arc<Health>,
    controls: Box<dyn Controls>,
    pairs: Vec<Task<Pair<P>>>,
    control: Task<ControlService>,
    /// Queues that are running, with the task and the slot they run in.
    running: BTreeMap<u16, (Unit, usize)>,
    /// Queues that nobody serves, with the state they were started in: their configuration is no ring's, or they are not
    /// among those that were negotiated.
    unserved: BTreeMap<u16, QueueState>,
}

/// What serves a queue.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Pair(usize),
    Control,
}

impl<P: Port> NetDevice<P> {
    /// A device on `ports`, one for each of its queue pairs, served by threads of `pool`. `link_state` was made with
    /// `link`.
    pub fn new(
        parameters: &NetParameters,
        link: DeviceLink,
        link_state: Arc<LinkState>,
        ports: Vec<P>,
        controls: Box<dyn Controls>,
        pool: &Arc<Pool>,
    ) -> Result<Self, Refusal> {
        let NetParameters { pairs, queue_size, features, ring_group, doorbell, speed, duplex, .. } = *parameters;
        let (health, statistics) = (Health::new(link), CardStatistics::new(pairs));
        debug_assert_eq!(ports.len(), usize::from(pairs));
        // Who chooses nothing is told nothing of what it would have chosen by.
        debug_assert!(P::OUTSIDE || features & VIRTIO_NET_F_HASH_REPORT == 0);
        let config = Arc::new(NetConfig::new(parameters));
        let chooser = || P::OUTSIDE.then(|| Arc::clone(&config));
        let lane = |number| Lane::new(number, Arc::clone(&link_state), Arc::clone(&statistics), chooser());
        let lanes = Lanes::new((0..pairs).map(lane).collect(), Arc::clone(&config));
        let shared = Shared {
            config: Arc::clone(&config),
            health: Arc::clone(&health),
            link: Arc::clone(&link_state),
            lanes: lanes.clone(),
        };
        let waker = || Waker::new().map(Arc::new).map_err(WorkerError::Start);
        let pair = |(number, port)| -> Result<_, WorkerError> {
            let waker = waker()?;
            let pair = Pair::new(shared.clone(), number, port, Arc::clone(&waker));
            Ok(Task::new(pair, waker, Arc::clone(&health), Arc::clone(pool)))
        };
        let pairs = (0..pairs).zip(ports).map(pair).collect::<Result<Vec<_>, _>>()?;
        let wakers = pairs.iter().map(|pair| Arc::clone(pair.waker())).collect();
        let control = Task::new(ControlService::new(shared, wakers), waker()?, Arc::clone(&health), Arc::clone(pool));
        Ok(Self {
            features,
            queue_size,
            ring_group,
            doorbell,
            speed,
            duplex,
            config,
            accepted: features,
            driver_ok: false,
            link: link_state,
            statistics,
            lanes,
            health,
            controls,
            pairs,
            control,
            running: BTreeMap::new(),
            unserved: BTreeMap::new(),
        })
    }

    /// The ways to its driver.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Readies everything for the first queue: ports with a back end have frames for the driver whichever queues there are.
    fn start_service(&mut self, features: u64) -> Result<(), Refusal> {
        for pair in &mut self.pairs {
            pair.service().ok_or(WorkerError::Gone)?.start(features)?;
        }
        self.control.service().ok_or(WorkerError::Gone)?.start(features);
        for pair in &mut self.pairs {
            if pair.service().is_some_and(|service| service.has_back_end()) {
                pair.run()?;
            }
        }
        Ok(())
    }

    /// Ends what serves when no queue is left.
    fn end_service(&mut self) {
        if !self.running.is_empty() {
            return;
        }
        let ended = self.pairs.iter_mut().map(Task::end).chain([self.control.end()]);
        let failed: Vec<_> = ended.filter_map(Result::err).collect();
        if let Some(error) = failed.first() {
            self.health.fault(None, &error.to_string());
        }
    }

    /// What serves queue `index`, with `features` in effect, and the place of its slot there; `None` when it is not among
    /// the queues there are then.
    fn unit(&self, index: u16, features: u64) -> Option<(Unit, usize)> {
        if control_queue(features, self.config.pairs()) == Some(index) {
            return Some((Unit::Control, 0));
        }
        let pairs = if features & SEVERAL_PAIRS != 0 { self.pairs.len() } else { 1 };
        let pair = usize::from(index / 2);
        (pair < pairs).then_some((Unit::Pair(pair), usize::from(index % 2)))
    }

    fn waker(&self, unit: Unit) -> &Arc<Waker> {
        match unit {
            Unit::Pair(pair) => self.pairs[pair].waker(),
            Unit::Control => self.control.waker(),
        }
    }

    fn has_control_queue(&self) -> bool {
        self.features & VIRTIO_NET_F_CTRL_VQ != 0
    }

    fn queues(&self) -> u16 {
        2 * self.config.pairs() + u16::from(self.has_control_queue())
    }

    /// As with `vdpa dev set … mac`: not where no address is offered, and not under a running driver, which would not
    /// look at it again.
    fn set_mac(&mut self, value: &str) -> Result<(), Refusal> {
        let refuse = |errno, why: &str| Refusal::new(errno, format!("mac={value}: {why}"));
        if self.features & VIRTIO_NET_F_MAC == 0 {
            return Err(refuse(Errno::EOPNOTSUPP, "features= leaves the address out"));
        }
        let mac: Mac = value.parse().map_err(|why| refuse(Errno::EINVAL, why))?;
        if self.driver_ok || !self.running.is_empty() {
            return Err(refuse(Errno::EBUSY, "the driver runs; the address can be changed when it has stopped"));
        }
        if mac != self.config.mac() {
            self.config.set_mac(mac);
            self.controls.address_changed(mac);
            self.health.link().config_changed();
        }
        Ok(())
    }

    fn state(&self) -> CardState {
        let config = &self.config;
        let wanted = Wanted::clone(&config.wanted());
        let patience = config.moderations().iter().map(|moderation| moderation.patience()).collect();
        CardState { mtu: config.mtu(), pairs: config.pairs(), enabled: config.enabled(), wanted, patience }
    }
}

impl<P: Port> VirtioMdev for NetDevice<P> {
    fn info(&self) -> DeviceInfo {
        let control = control_queue(self.accepted, self.config.pairs());
        let groups = |index| {
            if Some(index) == control { (CONTROL_GROUP, CONTROL_GROUP) } else { (DATA_GROUP, RING_GROUP) }
        };
        let queue = |index| {
            let (group, ring) = groups(index);
            QueueInfo { max_size: self.queue_size, group, desc_group: self.ring_group.then_some(ring) }
        };
        DeviceInfo {
            device_id: VIRTIO_ID_NET,
            vendor_id: 0,
            queues: (0..self.queues()).map(queue).collect(),
            features: self.features,
            config_size: CONFIG_SIZE,
            queue_align: 16,
            address_spaces: if self.has_control_queue() { 2 } else { 1 },
            limits: Limits::default(),
            capabilities: match self.doorbell {
                Doorbell::EventFd => Capabilities::empty(),
                Doorbell::Page => Capabilities::DOORBELL_PAGE,
            },
        }
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        // Queues are started with them; here they say which one takes commands.
        self.accepted = effective(features);
        self.config.begin(self.accepted);
        Ok(())
    }

    fn read_config(&mut self, offset: u32, out: &mut [u8]) {
        self.config.read(self.link.is_up(), offset, out);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Refusal> {
        self.config.write(offset, data);
        Ok(())
    }

    fn start_queue(&mut self, index: u16, start: QueueStart) -> Result<(), Refusal> {
        if index >= self.queues() {
            return Err(Refusal::new(Errno::EINVAL, format!("queue {index}: there are {}", self.queues())));
        }
        let (features, state) = (effective(start.features), start.state);
        let Some((unit, place)) = self.unit(index, features) else {
            self.unserved.insert(index, state);
            return Ok(());
        };
        let (health, waker) = (Arc::clone(&self.health), Arc::clone(self.waker(unit)));
        match Queue::start(index, start, self.queue_size, health, waker) {
            Ok(mut queue) => {
                if features & COALESCING != 0
                    && let Some(moderation) = self.config.moderations().get(usize::from(index))
                    && !matches!(unit, Unit::Control)
                {
                    queue.moderate(Arc::clone(moderation));
                }
                if self.running.is_empty() {
                    self.start_service(features)?;
                }
                match unit {
                    Unit::Pair(pair) => self.pairs[pair].start_queue(place, queue)?,
                    Unit::Control => self.control.start_queue(place, queue)?,
                }
                self.running.insert(index, (unit, place));
                Ok(())
            }
            Err(error) => {
                // The driver's doing: it sees DEVICE_NEEDS_RESET, not a failed call.
                self.health.ring_fault(index, &error);
                self.unserved.insert(index, state);
                Ok(())
            }
        }
    }

    fn stop_queue(&mut self, index: u16) -> Result<Option<QueueState>, Refusal> {
        if let Some(state) = self.unserved.remove(&index) {
            return Ok(Some(state));
        }
        let stopped = match self.running.get(&index) {
            Some(&(Unit::Pair(pair), place)) => self.pairs[pair].stop_queue(place),
            Some(&(Unit::Control, place)) => self.control.stop_queue(place),
            None => return Ok(None),
        };
        match stopped {
            Ok(state) => {
                self.running.remove(&index);
                self.end_service();
                Ok(state)
            }
            Err(error) => {
                // The thread may still be in the client's memory.
                self.health.fault(Some(index), &error.to_string());
                Err(error.into())
            }
        }
    }

    fn set_kick(&mut self, index: u16, kick: Option<EventFd>) {
        match self.running.get(&index) {
            Some(&(Unit::Pair(pair), place)) => self.pairs[pair].set_kick(place, kick),
            Some(&(Unit::Control, place)) => self.control.set_kick(place, kick),
            None => {}
        }
    }

    fn status_changed(&mut self, status: Status) {
        self.driver_ok = status.contains(Status::DRIVER_OK);
    }

    fn reset(&mut self) {
        self.accepted = self.features;
        self.driver_ok = false;
        self.config.begin(0);
        // The MAC address stays: QEMU sets it before the reset that begins every start.
        self.health.reset();
    }

    fn save_state(&mut self) -> Result<Vec<u8>, Refusal> {
        Ok(self.state().encode())
    }

    fn restore_state(&mut self, state: &[u8]) -> Result<(), Refusal> {
        let CardState { enabled, wanted, patience, .. } = self.state().decode(state)?;
        self.config.enable(enabled);
        self.config.set_wanted(wanted);
        for (moderation, patience) in self.config.moderations().iter().zip(patience) {
            moderation.set_patience(patience);
        }
        // What is between the driver and its peers learns from its frames where it is now; its interrupt comes with those
        // of all that go on.
        self.config.set_announce(self.accepted & VIRTIO_NET_F_GUEST_ANNOUNCE != 0);
        Ok(())
    }

    fn attributes(&self) -> Vec<AttributeSpec> {
        let mut attributes = self.statistics.attributes();
        let read = ["mtu", "pairs", "pairs_enabled", "queue-size", "features", "speed", "duplex", "doorbell"]
            .map(|name| (name, false));
        let card = [("mac", true)].into_iter().chain(read);
        attributes.extend(card.map(|(name, writable)| AttributeSpec { name: name.to_owned(), writable }));
        attributes.extend(self.controls.attributes());
        attributes
    }

    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        match name {
            "mac" => return Ok(self.config.mac().to_string()),
            "mtu" => return Ok(self.config.mtu().to_string()),
            "pairs" => return Ok(self.config.pairs().to_string()),
            "pairs_enabled" => return Ok(self.config.enabled().to_string()),
            "queue-size" => return Ok(self.queue_size.to_string()),
            "features" => return Ok(format!("{:#x}", self.features)),
            "speed" => return Ok(self.speed.map_or_else(|| UNKNOWN.to_owned(), |speed| speed.to_string())),
            "duplex" => return Ok(self.duplex.map_or(UNKNOWN, Duplex::as_str).to_owned()),
            "doorbell" => return Ok(self.doorbell.as_str().to_owned()),
            _ => {}
        }
        if let Some(count) = self.statistics.show(name) {
            return Ok(count.to_string());
        }
        let none = || Err(Refusal::new(Errno::ENOENT, format!("no attribute {name}")));
        self.controls.show(name).unwrap_or_else(none)
    }

    fn store_attribute(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        if name == "mac" {
            return self.set_mac(value);
        }
        let read_only = || Err(Refusal::new(Errno::EACCES, format!("attribute {name} is read-only")));
        self.controls.store(name, value).unwrap_or_else(read_only)
    }
}
