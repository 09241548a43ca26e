//! A session as a value: what another device needs, besides descriptors and memory, to continue it.

use super::{Session, SessionError, State};
use crate::features::{self, VIRTIO_F_RING_PACKED};
use crate::session::queues::{check_alignment, check_areas};
use crate::{QueueConfig, QueueInfo, QueueState, Refusal, Status, VirtioMdev};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A session that stands still. Eventfds and the address spaces travel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSession {
    /// The status byte, DEVICE_NEEDS_RESET included.
    pub status: u8,
    /// The features the driver accepted.
    pub features: u64,
    /// Whether the driver suspended the device.
    pub suspended: bool,
    /// The address space id of each group that is not in the first one.
    pub asids: BTreeMap<u32, u32>,
    /// Whether rings are in groups of their own.
    pub desc_groups: bool,
    /// The queues, by index.
    pub queues: Vec<SavedQueue>,
    /// All of configuration space.
    pub config: Vec<u8>,
    /// What the device has besides, by [`VirtioMdev::save_state`].
    pub device: Vec<u8>,
}

/// A queue of a [`SavedSession`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedQueue {
    /// Size and addresses.
    pub config: QueueConfig,
    /// Where it stands.
    pub state: QueueState,
    /// Whether the driver enabled it.
    pub enabled: bool,
}

/// What a vendor's device is told to become.
struct Imprint {
    features: u64,
    config: Vec<u8>,
    device: Vec<u8>,
}

impl Session {
    /// From now on no queue runs and no interrupt is raised, whatever the driver does, until [`thaw`](Self::thaw). The
    /// driver sees nothing of it.
    pub fn freeze(&self) -> Result<(), SessionError> {
        self.set_frozen(true)
    }

    /// Undoes [`freeze`](Self::freeze): queues go on where they stood, and look at what was offered meanwhile;
    /// an interrupt that was held back is raised. An error leaves the session frozen.
    pub fn thaw(&self) -> Result<(), SessionError> {
        self.set_frozen(false)
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.lock().is_ok_and(|state| state.frozen)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        let before = std::mem::replace(&mut state.frozen, frozen);
        self.settle_or(&mut state, |state| state.frozen = before)?;
        self.link.hold_interrupts(frozen);
        Ok(())
    }

    /// Says where a frozen session stands; refused with EBUSY of any other. [`restore`](Self::restore), here or in
    /// another device of the same kind, continues.
    pub fn save(&self) -> Result<SavedSession, SessionError> {
        let state = self.lock()?;
        if !state.frozen {
            return Err(SessionError::NotFrozen);
        }
        self.saved(&state)
    }

    fn saved(&self, state: &State) -> Result<SavedSession, SessionError> {
        let queues = state.queues.iter();
        let queues =
            queues.map(|queue| SavedQueue { config: queue.config, state: queue.state, enabled: queue.enabled });
        let size = self.info.config_size;
        Ok(SavedSession {
            status: self.visible(state).bits(),
            features: state.features,
            suspended: state.suspended,
            asids: state.asids.clone(),
            desc_groups: state.desc_groups,
            queues: queues.collect(),
            config: if size == 0 { Vec::new() } else { self.read_config(0, size)? },
            device: self.device.call("save_state", |device| device.save_state())??,
        })
    }

    /// Makes a frozen session what was saved; refused with EBUSY of any other. Kicks, calls and address spaces are given
    /// before it is thawed, in any order. What was saved is checked as if a client had said it, and taken whole or not at all.
    pub fn restore(&self, saved: &SavedSession) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        if !state.frozen {
            return Err(SessionError::NotFrozen);
        }
        let status = self.check_saved(saved)?;
        let before = self.saved(&state)?;
        let groups = match self.imprint(saved, status) {
            Ok(groups) => groups,
            Err(error) => {
                // It had this state a moment ago.
                self.imprint(&before, state.status)?;
                return Err(error);
            }
        };
        state.set_groups(&groups, self.info.groups());
        state.status = status - Status::NEEDS_RESET;
        state.features = saved.features;
        state.suspended = saved.suspended;
        state.asids.clone_from(&saved.asids);
        state.desc_groups = saved.desc_groups;
        for (queue, saved) in state.queues.iter_mut().zip(&saved.queues) {
            queue.config = saved.config;
            queue.state = saved.state;
            queue.enabled = saved.enabled;
        }
        self.link.clear_fault();
        if status.contains(Status::NEEDS_RESET) {
            self.link.fault(None, "it needed a reset where it came from");
        }
        if status.contains(Status::DRIVER_OK) {
            // What its driver knows of configuration space, as the state of a link, may not be so here.
            self.link.config_changed();
        }
        self.tell(&state);
        Ok(())
    }

    /// Has the device become what was saved, and says which groups its queues are in then.
    fn imprint(&self, saved: &SavedSession, status: Status) -> Result<Vec<QueueInfo>, SessionError> {
        let SavedSession { features, config, device, .. } = saved.clone();
        let imprint = Imprint { features, config, device };
        let status = status - Status::NEEDS_RESET;
        Ok(self.device.call("restore_state", move |device| {
            imprint.press(device)?;
            device.status_changed(status);
            Ok::<_, Refusal>(device.info().queues)
        })??)
    }

    fn check_saved(&self, saved: &SavedSession) -> Result<Status, SessionError> {
        let wrong = SessionError::Saved;
        let status = Status::from_bits(saved.status).ok_or(wrong("status"))?;
        let runs = status.contains(Status::DRIVER_OK);
        if runs && !status.contains(Status::FEATURES_OK) || saved.suspended && !runs {
            return Err(wrong("status"));
        }
        if saved.features != 0 || status.contains(Status::FEATURES_OK) {
            features::check(self.info.features, saved.features)?;
        }
        if saved.queues.len() != self.info.queues.len() {
            return Err(wrong("number of queues"));
        }
        if u32::try_from(saved.config.len()) != Ok(self.info.config_size) {
            return Err(wrong("size of configuration space"));
        }
        let known = |(group, asid): (&u32, &u32)| *group < self.info.groups() && self.check_asid(*asid).is_ok();
        if !saved.asids.iter().all(known) || saved.desc_groups && !self.info.has_desc_groups() {
            return Err(wrong("address space of a group"));
        }
        let queues = saved.queues.iter().zip(&self.info.queues);
        queues.into_iter().try_for_each(|(queue, info)| check_queue(saved.features, queue, info.max_size))?;
        Ok(status)
    }
}

impl Imprint {
    fn press(&self, device: &mut dyn VirtioMdev) -> Result<(), Refusal> {
        device.reset();
        if self.features != 0 {
            device.set_features(self.features)?;
        }
        if !self.config.is_empty() {
            device.write_config(0, &self.config)?;
        }
        device.restore_state(&self.device)
    }
}

fn check_queue(features: u64, queue: &SavedQueue, max_size: u16) -> Result<(), SessionError> {
    let QueueConfig { size, desc, driver, device } = queue.config;
    if size == 0 || size > max_size || !size.is_power_of_two() {
        return Err(SessionError::Saved("ring size"));
    }
    check_alignment(desc, driver, device)?;
    check_areas(&queue.config, features)?;
    let packed = features & VIRTIO_F_RING_PACKED != 0;
    if queue.state.fits(packed, size) { Ok(()) } else { Err(SessionError::Saved("ring state")) }
}
