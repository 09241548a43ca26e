//! A session as a value: what a successor needs, besides descriptors and memory, to continue it.

use super::{Session, SessionError};
use crate::features::{self, VIRTIO_F_RING_PACKED};
use crate::{QueueConfig, QueueState, Status};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A session between two of its calls. Eventfds and the address space travel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSession {
    /// The status byte.
    pub status: u8,
    /// The features the driver accepted.
    pub features: u64,
    /// Whether the driver suspended the device.
    pub suspended: bool,
    /// The address space id of each group that is not in the first one.
    #[serde(default)]
    pub asids: BTreeMap<u32, u32>,
    /// Whether rings are in groups of their own.
    #[serde(default)]
    pub desc_groups: bool,
    /// The queues, by index.
    pub queues: Vec<SavedQueue>,
}

/// A queue of a [`SavedSession`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    /// Size and addresses.
    pub config: QueueConfig,
    /// Where it stands.
    pub state: QueueState,
    /// Whether the driver enabled it.
    pub enabled: bool,
}

impl Session {
    /// Stops the device and says where it stands. [`restore`](Self::restore), here or in a successor, continues.
    pub fn save(&self) -> Result<SavedSession, SessionError> {
        let mut state = self.lock()?;
        for index in 0..state.queues.len() {
            if state.queues[index].running {
                self.stop_queue(&mut state, index)?;
            }
        }
        let queues = state.queues.iter();
        let queues =
            queues.map(|queue| SavedQueue { config: queue.config, state: queue.state, enabled: queue.enabled });
        Ok(SavedSession {
            status: state.status.bits(),
            features: state.features,
            suspended: state.suspended,
            asids: state.asids.clone(),
            desc_groups: state.desc_groups,
            queues: queues.collect(),
        })
    }

    /// Continues a saved session. Kicks, calls and the address space were given before. What was saved is checked as
    /// if a client had said it.
    pub fn restore(&self, saved: &SavedSession) -> Result<(), SessionError> {
        let status = Status::from_bits(saved.status).ok_or(SessionError::Saved("status"))?;
        let mut state = self.lock()?;
        if saved.queues.len() != state.queues.len() {
            return Err(SessionError::Saved("number of queues"));
        }
        let known = |(group, asid): (&u32, &u32)| *group < self.info.groups() && self.check_asid(*asid).is_ok();
        if !saved.asids.iter().all(known) {
            return Err(SessionError::Saved("address space of a group"));
        }
        for (queue, info) in saved.queues.iter().zip(&self.info.queues) {
            self.check_saved(saved, queue, info.max_size)?;
        }
        if saved.features != 0 {
            features::check(self.info.features, saved.features)?;
            let accepted = saved.features;
            self.accept(&mut state, accepted)?;
        }
        state.features = saved.features;
        state.suspended = saved.suspended;
        state.asids.clone_from(&saved.asids);
        state.desc_groups = saved.desc_groups;
        for (queue, saved) in state.queues.iter_mut().zip(&saved.queues) {
            queue.config = saved.config;
            queue.state = saved.state;
            queue.enabled = saved.enabled;
        }
        if status.contains(Status::DRIVER_OK) {
            self.start(&mut state, status)?;
        } else {
            self.update(&mut state, status)?;
        }
        self.tell(&state);
        Ok(())
    }

    fn check_saved(&self, saved: &SavedSession, queue: &SavedQueue, max_size: u16) -> Result<(), SessionError> {
        let size = queue.config.size;
        if size == 0 || size > max_size || !size.is_power_of_two() {
            return Err(SessionError::Saved("ring size"));
        }
        let packed = saved.features & VIRTIO_F_RING_PACKED != 0;
        if queue.state.fits(packed, size) { Ok(()) } else { Err(SessionError::Saved("ring state")) }
    }
}
