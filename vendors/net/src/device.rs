//! A virtio-net device with one queue pair (virtio 1.3 §5.1).

use crate::config::{CONFIG_SIZE, LinkState, NetConfig};
use crate::features::effective;
use crate::parameters::NetParameters;
use crate::port::{Controls, Port};
use crate::service::NetService;
use crate::stats::Statistics;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use virtio_mdev_api::dma::Limits;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{
    AttributeSpec, Capabilities, DeviceInfo, DeviceLink, QueueInfo, QueueStart, QueueState, Refusal, VirtioMdev,
};
use virtqueue::{Health, Queue, Waker, Worker};

/// The device id of network cards (virtio 1.3 §5).
pub const VIRTIO_ID_NET: u32 = 1;
/// Receive and transmit.
pub const QUEUES: u16 = 2;
/// Largest ring: what QEMU and DPDK go up to.
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// A virtio-net device on a port: queue 0 receives, queue 1 transmits.
pub struct NetDevice<P: Port> {
    features: u64,
    config: NetConfig,
    link: Arc<LinkState>,
    statistics: Arc<Statistics>,
    health: Arc<Health>,
    controls: Box<dyn Controls>,
    waker: Arc<Waker>,
    run: Run<P>,
    /// Queues that are running.
    running: Vec<u16>,
    /// Queues that could not run because their configuration is no ring's, with the state they were started in.
    refused: BTreeMap<u16, QueueState>,
}

enum Run<P: Port> {
    /// No queue is running.
    Idle(Box<NetService<P>>),
    Running(Worker<NetService<P>>),
    /// The thread is lost, and the port with it.
    Lost,
}

impl<P: Port> NetDevice<P> {
    /// A device that offers `features`, on `port`. `link_state` was made with `link`.
    pub fn new(
        features: u64,
        parameters: &NetParameters,
        link: DeviceLink,
        link_state: Arc<LinkState>,
        port: P,
        controls: Box<dyn Controls>,
    ) -> Result<Self, Refusal> {
        let waker = Waker::new().map_err(|errno| Refusal::new(errno, "no eventfd for the device's thread"))?;
        let (health, statistics) = (Health::new(link), Arc::new(Statistics::default()));
        let NetParameters { mac, mtu } = *parameters;
        let service = NetService::new(port, Arc::clone(&health), Arc::clone(&link_state), Arc::clone(&statistics), mtu);
        Ok(Self {
            features,
            config: NetConfig { mac, mtu, pairs: 1 },
            link: link_state,
            statistics,
            health,
            controls,
            waker: Arc::new(waker),
            run: Run::Idle(Box::new(service)),
            running: Vec::new(),
            refused: BTreeMap::new(),
        })
    }

    fn start_thread(&mut self, features: u64) -> Result<(), Refusal> {
        let mut service = match std::mem::replace(&mut self.run, Run::Lost) {
            Run::Idle(service) => service,
            running => {
                self.run = running;
                return Ok(());
            }
        };
        service.features = effective(features);
        if let Err(refusal) = service.port.start(service.features) {
            self.run = Run::Idle(service);
            return Err(refusal);
        }
        let (waker, health) = (Arc::clone(&self.waker), Arc::clone(&self.health));
        match Worker::spawn(self.health.link().name(), *service, waker, health) {
            Ok(worker) => {
                self.run = Run::Running(worker);
                Ok(())
            }
            Err((error, service)) => {
                self.run = Run::Idle(Box::new(service));
                Err(error.into())
            }
        }
    }

    /// Ends the thread when no queue is left.
    fn end_idle_thread(&mut self) {
        if !self.running.is_empty() {
            return;
        }
        match std::mem::replace(&mut self.run, Run::Lost) {
            Run::Running(worker) => match worker.end() {
                Ok(service) => self.run = Run::Idle(Box::new(service)),
                Err(error) => self.health.fault(None, &error.to_string()),
            },
            other => self.run = other,
        }
    }
}

impl<P: Port> VirtioMdev for NetDevice<P> {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            device_id: VIRTIO_ID_NET,
            vendor_id: 0,
            queues: vec![QueueInfo { max_size: MAX_QUEUE_SIZE, group: 0, desc_group: None }; usize::from(QUEUES)],
            features: self.features,
            config_size: CONFIG_SIZE,
            queue_align: 16,
            address_spaces: 1,
            limits: Limits::default(),
            capabilities: Capabilities::empty(),
        }
    }

    fn set_features(&mut self, _features: u64) -> Result<(), Refusal> {
        // Queues are started with them.
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
        if index >= QUEUES {
            return Err(Refusal::new(Errno::EINVAL, format!("queue {index}: there are {QUEUES}")));
        }
        let (features, state) = (start.features, start.state);
        let (health, waker) = (Arc::clone(&self.health), Arc::clone(&self.waker));
        match Queue::start(index, start, MAX_QUEUE_SIZE, health, waker) {
            Ok(queue) => {
                self.start_thread(features)?;
                if let Run::Running(worker) = &self.run {
                    worker.start_queue(queue)?;
                    self.running.push(index);
                    return Ok(());
                }
                Err(Refusal::new(Errno::EIO, "the device's thread is lost"))
            }
            Err(error) => {
                // The driver's doing: it sees DEVICE_NEEDS_RESET, not a failed call.
                self.health.ring_fault(index, &error);
                self.refused.insert(index, state);
                Ok(())
            }
        }
    }

    fn stop_queue(&mut self, index: u16) -> Result<Option<QueueState>, Refusal> {
        if let Some(state) = self.refused.remove(&index) {
            return Ok(Some(state));
        }
        let Run::Running(worker) = &self.run else { return Ok(None) };
        match worker.stop_queue(index) {
            Ok(state) => {
                self.running.retain(|running| *running != index);
                self.end_idle_thread();
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
        if let Run::Running(worker) = &self.run {
            worker.set_kick(index, kick);
        }
    }

    fn reset(&mut self) {
        // The MAC address stays: QEMU sets it before the reset that begins every start.
        self.health.reset();
    }

    fn attributes(&self) -> Vec<AttributeSpec> {
        let mut attributes = Statistics::attributes();
        attributes.extend(["mac", "mtu"].map(|name| AttributeSpec { name: name.to_owned(), writable: false }));
        attributes.extend(self.controls.attributes());
        attributes
    }

    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        match name {
            "mac" => return Ok(self.config.mac.to_string()),
            "mtu" => return Ok(self.config.mtu.to_string()),
            _ => {}
        }
        if let Some(count) = self.statistics.show(name) {
            return Ok(count.to_string());
        }
        let none = || Err(Refusal::new(Errno::ENOENT, format!("no attribute {name}")));
        self.controls.show(name).unwrap_or_else(none)
    }

    fn store_attribute(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let read_only = || Err(Refusal::new(Errno::EACCES, format!("attribute {name} is read-only")));
        self.controls.store(name, value).unwrap_or_else(read_only)
    }
}
