//! A network device that is healthy inside, and whose calls go through its faults.

use crate::faults::Faults;
use crate::memory::Memory;
use crate::port::FaultyPort;
use crate::relay::Relay;
use std::collections::BTreeMap;
use std::sync::Arc;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{AttributeSpec, DeviceInfo, QueueStart, QueueState, Refusal, Status, VirtioMdev};
use virtio_net::NetDevice;

/// The last three bytes of the MAC address: the half that a torn read has from another time.
const TORN: std::ops::Range<u32> = 3..6;

pub struct FaultyDevice {
    net: NetDevice<FaultyPort>,
    faults: Arc<Faults>,
    relays: BTreeMap<u16, Relay>,
    memory: Memory,
}

impl FaultyDevice {
    pub fn new(net: NetDevice<FaultyPort>, faults: Arc<Faults>) -> Self {
        Self { net, faults, relays: BTreeMap::new(), memory: Memory::default() }
    }

    /// Where a queue falsely says that it stands.
    fn falsified(&self, state: QueueState) -> QueueState {
        let further = u16::try_from(self.faults.wrong_ring_state.get()).unwrap_or(u16::MAX);
        match state {
            QueueState::Split { avail } => QueueState::Split { avail: avail.wrapping_add(further) },
            QueueState::Packed { avail, avail_wrap, used, used_wrap } => {
                let avail = avail.wrapping_add(further) & 0x7fff;
                QueueState::Packed { avail, avail_wrap, used, used_wrap }
            }
        }
    }
}

impl VirtioMdev for FaultyDevice {
    fn info(&self) -> DeviceInfo {
        self.net.info()
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        self.faults.enter("set_features");
        self.net.set_features(features)
    }

    fn read_config(&mut self, offset: u32, out: &mut [u8]) {
        self.faults.enter("read_config");
        self.net.read_config(offset, out);
        if self.faults.torn_config.strikes() {
            let torn = (offset..).zip(out).filter(|(at, _)| TORN.contains(at));
            torn.for_each(|(_, byte)| *byte = !*byte);
        }
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Refusal> {
        self.faults.enter("write_config");
        self.net.write_config(offset, data)
    }

    fn start_queue(&mut self, index: u16, queue: QueueStart) -> Result<(), Refusal> {
        self.faults.enter("start_queue");
        let queue = self.memory.give(&self.faults, queue)?;
        let (relay, call) = Relay::start(Arc::clone(&self.faults), Arc::clone(&queue.call))?;
        self.net.start_queue(index, QueueStart { call, ..queue })?;
        self.relays.insert(index, relay);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<Option<QueueState>, Refusal> {
        self.faults.enter("stop_queue");
        std::thread::sleep(self.faults.slow_suspend_ms.duration());
        let stood = self.net.stop_queue(index)?;
        self.relays.remove(&index);
        Ok(stood.map(|state| self.falsified(state)))
    }

    fn set_kick(&mut self, index: u16, kick: Option<EventFd>) {
        self.faults.enter("set_kick");
        self.net.set_kick(index, kick);
    }

    fn status_changed(&mut self, status: Status) {
        self.faults.enter("status_changed");
        self.net.status_changed(status);
    }

    fn reset(&mut self) {
        self.faults.enter("reset");
        self.faults.needs_reset_after.rewind();
        self.memory.forget();
        self.net.reset();
    }

    fn save_state(&mut self) -> Result<Vec<u8>, Refusal> {
        self.faults.enter("save_state");
        self.net.save_state()
    }

    fn restore_state(&mut self, state: &[u8]) -> Result<(), Refusal> {
        self.faults.enter("restore_state");
        self.net.restore_state(state)
    }

    fn attributes(&self) -> Vec<AttributeSpec> {
        let mut attributes = self.net.attributes();
        attributes.extend(self.faults.attributes());
        attributes
    }

    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        self.faults.show(name).map_or_else(|| self.net.show_attribute(name), Ok)
    }

    fn store_attribute(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        self.faults.store(name, value).unwrap_or_else(|| self.net.store_attribute(name, value))
    }
}
