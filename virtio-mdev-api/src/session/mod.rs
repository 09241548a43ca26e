//! The session between a device and whoever drives it: the one place where the rules of status, features and queues
//! are enforced, for every front end and above every vendor.
//!
//! A queue runs when four things are true: DRIVER_OK is set, the queue is enabled, and the session is neither suspended by
//! its driver nor frozen by who moves it. Whichever becomes true last starts it; whichever ends first stops it. So DRIVER_OK,
//! ring enable, suspend, resume and the end of a migration are one path, and no order of a client's calls is assumed.

mod engine;
mod error;
mod groups;
mod iommu;
mod memory;
mod queues;
mod saved;
#[cfg(test)]
mod tests;

pub use engine::Engine;
pub use error::SessionError;
pub use saved::{SavedQueue, SavedSession};

use crate::dirty::DirtyRecord;
use crate::doorbell::Doorbells;
use crate::executor::Guarded;
use crate::features::{self, VIRTIO_F_RING_PACKED};
use crate::notify::{CallSlot, EventFd};
use crate::{
    AttributeSpec, DeviceInfo, DeviceLink, QueueConfig, QueueInfo, QueueState, Refusal, Status, Transition, VirtioMdev,
};
use memory::Space;
use nix::errno::Errno;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a call waits for another on the same session. Longer than any vendor call may take.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// How often configuration space is read before a device is told to make up its mind.
const CONFIG_READS: u32 = 64;

/// What a person is told about an instance in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// DRIVER_OK is not set.
    Idle,
    /// DRIVER_OK is set.
    Running,
    /// The device asked for a reset.
    NeedsReset,
    /// Vendor code hung or panicked: only removing the instance helps.
    Broken,
}

/// The session of one device.
pub struct Session {
    info: DeviceInfo,
    link: DeviceLink,
    device: Guarded<dyn VirtioMdev>,
    dirty: Arc<DirtyRecord>,
    /// What [`condition`](Self::condition) shows without waiting for `state`.
    driver_ok: AtomicBool,
    state: Mutex<State>,
}

struct State {
    status: Status,
    features: u64,
    suspended: bool,
    /// Nothing runs, and the driver does not know: the device is to be moved. A reset by the driver changes nothing of it.
    frozen: bool,
    queues: Vec<Queue>,
    /// Where the driver rings, one for each queue.
    doorbells: Option<Arc<Doorbells>>,
    /// The memory of the device, by address space id.
    spaces: BTreeMap<u32, Space>,
    /// The address space id of each group that is not in the first one.
    asids: BTreeMap<u32, u32>,
    /// Whether rings are in groups of their own, where the device can do that.
    desc_groups: bool,
}

struct Queue {
    /// Of the queue and of its ring, with the features accepted.
    groups: (u32, Option<u32>),
    config: QueueConfig,
    state: QueueState,
    enabled: bool,
    running: bool,
    kick: Option<EventFd>,
    call: Arc<CallSlot>,
    err: Arc<CallSlot>,
}

impl Queue {
    /// After a reset of what was in the place of the queue. Who is interrupted without a call stays.
    fn renewed(&self, info: &QueueInfo) -> Self {
        Self { call: Arc::new(self.call.renewed()), ..Self::new(info) }
    }

    /// As it is made.
    fn new(info: &QueueInfo) -> Self {
        Self {
            groups: (info.group, info.desc_group),
            config: QueueConfig { size: info.max_size, ..QueueConfig::default() },
            state: QueueState::initial(false),
            enabled: false,
            running: false,
            kick: None,
            call: Arc::default(),
            err: Arc::default(),
        }
    }
}

impl Session {
    /// The session of `device`, in the state after a reset. `info` is what the device said of itself.
    pub fn new(device: Box<dyn VirtioMdev>, info: DeviceInfo, link: DeviceLink, deadline: Duration) -> Self {
        let queues = info.queues.iter().map(Queue::new).collect();
        Self {
            link,
            device: Guarded::new(device, deadline),
            dirty: DirtyRecord::new(),
            driver_ok: AtomicBool::new(false),
            state: Mutex::new(State {
                status: Status::empty(),
                features: 0,
                suspended: false,
                frozen: false,
                queues,
                doorbells: None,
                spaces: BTreeMap::new(),
                asids: BTreeMap::new(),
                desc_groups: false,
            }),
            info,
        }
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The device's upward line.
    pub fn link(&self) -> &DeviceLink {
        &self.link
    }

    /// Where the device reports the pages it wrote in address space 0.
    pub fn dirty(&self) -> &Arc<DirtyRecord> {
        &self.dirty
    }

    /// The device in one word. Never waits.
    pub fn condition(&self) -> Condition {
        if self.device.broken().is_some() {
            return Condition::Broken;
        }
        if self.link.needs_reset() {
            return Condition::NeedsReset;
        }
        if self.driver_ok.load(Ordering::Acquire) { Condition::Running } else { Condition::Idle }
    }

    /// Why the device is broken, if it is.
    pub fn broken(&self) -> Option<String> {
        self.device.broken().map(ToString::to_string)
    }

    /// The status byte, DEVICE_NEEDS_RESET included.
    pub fn status(&self) -> Result<Status, SessionError> {
        Ok(self.visible(&*self.lock()?))
    }

    /// Writes the status byte: [`Status::write`] says what is legal.
    pub fn set_status(&self, written: u8) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        match self.visible(&state).write(written)? {
            Transition::Reset => self.reset_locked(&mut state)?,
            Transition::Update(new) => self.update(&mut state, new)?,
            Transition::Start(new) => {
                self.update(&mut state, new - Status::DRIVER_OK)?;
                self.start(&mut state, new)?;
            }
        }
        self.tell(&state);
        Ok(())
    }

    /// Lets others see whether the driver runs.
    fn tell(&self, state: &State) {
        self.driver_ok.store(state.status.contains(Status::DRIVER_OK), Ordering::Release);
        self.link.changed();
    }

    fn visible(&self, state: &State) -> Status {
        if self.link.needs_reset() { state.status | Status::NEEDS_RESET } else { state.status }
    }

    /// Takes a status that starts nothing.
    fn update(&self, state: &mut State, new: Status) -> Result<(), SessionError> {
        let new = new - Status::NEEDS_RESET;
        if (new - state.status).contains(Status::FEATURES_OK) {
            features::check(self.info.features, state.features)?;
        }
        if new != state.status {
            self.device.call("status_changed", move |device| device.status_changed(new))?;
            state.status = new;
        }
        Ok(())
    }

    fn start(&self, state: &mut State, new: Status) -> Result<(), SessionError> {
        let before = state.status;
        state.status = new - Status::NEEDS_RESET;
        self.settle_or(state, |state| state.status = before)?;
        let status = state.status;
        self.device.call("status_changed", move |device| device.status_changed(status))?;
        Ok(())
    }

    /// Back to the state after creation: every group is in address space 0. The address spaces stay attached, and what
    /// is mapped in them stays mapped.
    pub fn reset(&self) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        self.reset_locked(&mut state)?;
        self.tell(&state);
        Ok(())
    }

    fn reset_locked(&self, state: &mut State) -> Result<(), SessionError> {
        let before = (state.status, state.suspended);
        (state.status, state.suspended) = (Status::empty(), false);
        if let Err(error) = self.settle(state) {
            // A queue that nobody could stop still works on its ring: the driver is to try again before it reuses it.
            (state.status, state.suspended) = before;
            return Err(error);
        }
        self.device.call("reset", |device| device.reset())?;
        state.features = 0;
        state.asids.clear();
        for (queue, info) in state.queues.iter_mut().zip(&self.info.queues) {
            *queue = queue.renewed(info);
        }
        self.link.clear_fault();
        Ok(())
    }

    /// The features the driver accepted.
    pub fn features(&self) -> Result<u64, SessionError> {
        Ok(self.lock()?.features)
    }

    /// Accepts features: a subset of those offered, before FEATURES_OK.
    pub fn set_features(&self, accepted: u64) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        if state.status.contains(Status::FEATURES_OK) {
            return Err(SessionError::FeaturesFixed);
        }
        features::check(self.info.features, accepted)?;
        self.accept(&mut state, accepted)?;
        let packed = accepted & VIRTIO_F_RING_PACKED != 0;
        if packed != (state.features & VIRTIO_F_RING_PACKED != 0) {
            state.queues.iter_mut().for_each(|queue| queue.state = QueueState::initial(packed));
        }
        state.features = accepted;
        Ok(())
    }

    /// Reads configuration space; the range must lie within it. What is read is of one generation; EAGAIN from a device
    /// whose space never stands still.
    pub fn read_config(&self, offset: u32, len: u32) -> Result<Vec<u8>, SessionError> {
        self.check_config(offset, len)?;
        let len = usize::try_from(len).map_err(|_| SessionError::ConfigRange { offset, len })?;
        let link = self.link.clone();
        let read = self.device.call("read_config", move |device| {
            let mut bytes = vec![0; len];
            let settled = (0..CONFIG_READS).any(|_| {
                let before = link.generation();
                device.read_config(offset, &mut bytes);
                link.generation() == before
            });
            settled.then_some(bytes)
        })?;
        read.ok_or(SessionError::ConfigUnsettled)
    }

    /// Writes configuration space; the range must lie within it.
    pub fn write_config(&self, offset: u32, data: Vec<u8>) -> Result<(), SessionError> {
        self.check_config(offset, u32::try_from(data.len()).unwrap_or(u32::MAX))?;
        Ok(self.device.call("write_config", move |device| device.write_config(offset, &data))??)
    }

    fn check_config(&self, offset: u32, len: u32) -> Result<(), SessionError> {
        let room = self.info.config_size.checked_sub(offset);
        if len == 0 || room.is_none_or(|room| len > room) {
            return Err(SessionError::ConfigRange { offset, len });
        }
        Ok(())
    }

    /// Whom configuration interrupts go to.
    pub fn set_config_call(&self, call: Option<EventFd>) {
        self.link.config_call().set(call);
    }

    /// Whom configuration interrupts go to while there is no [`set_config_call`](Self::set_config_call).
    pub fn set_config_irq(&self, irq: Option<EventFd>) {
        self.link.config_call().set_standing(irq);
    }

    /// Interrupts as if the configuration had changed.
    pub fn trigger_config(&self) -> Result<(), SessionError> {
        Ok(self.link.config_call().signal().map_err(lost_interrupt)?)
    }

    /// Stops all queues, their state readable and settable. Without DRIVER_OK there is nothing to stop.
    pub fn suspend(&self) -> Result<(), SessionError> {
        self.set_suspended(true)
    }

    /// Undoes [`suspend`](Self::suspend).
    pub fn resume(&self) -> Result<(), SessionError> {
        self.set_suspended(false)
    }

    fn set_suspended(&self, suspended: bool) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        if !state.status.contains(Status::DRIVER_OK) {
            return Ok(());
        }
        let before = std::mem::replace(&mut state.suspended, suspended);
        self.settle_or(&mut state, |state| state.suspended = before)
    }

    /// Has the queues follow what was changed; where they cannot, `undo` takes it back.
    fn settle_or(&self, state: &mut State, undo: impl FnOnce(&mut State)) -> Result<(), SessionError> {
        let settled = self.settle(state);
        if settled.is_err() {
            undo(state);
            // The first failure is the one to tell of.
            let _ = self.settle(state);
        }
        settled
    }

    /// Ends the session: the device is reset where it still answers, and dropped. Later calls answer ENODEV.
    pub fn retire(&self) {
        if let Err(error) = self.reset() {
            tracing::warn!(instance = %self.link.name(), %error, "no reset before the end");
        }
        if let Some(mut state) = self.state.try_lock_for(LOCK_PATIENCE) {
            state.spaces.clear();
        }
        self.set_config_call(None);
        self.set_config_irq(None);
        self.device.discard();
    }

    /// The vendor's attributes of the instance.
    pub fn attributes(&self) -> Result<Vec<AttributeSpec>, SessionError> {
        Ok(self.device.call("attributes", |device| device.attributes())?)
    }

    /// The text of a vendor attribute.
    pub fn show_attribute(&self, name: &str) -> Result<String, Refusal> {
        let name = name.to_owned();
        self.device.call("show_attribute", move |device| device.show_attribute(&name))?
    }

    /// A new value for a vendor attribute.
    pub fn store_attribute(&self, name: &str, value: &str) -> Result<(), Refusal> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.device.call("store_attribute", move |device| device.store_attribute(&name, &value))?
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, SessionError> {
        if let Some(fault) = self.device.broken() {
            return Err(SessionError::Vendor(crate::executor::VendorFault::Broken(Box::new(fault.clone()))));
        }
        self.state.try_lock_for(LOCK_PATIENCE).ok_or(SessionError::Occupied)
    }
}

fn lost_interrupt(errno: Errno) -> Refusal {
    Refusal::new(errno, "the interrupt was lost")
}
