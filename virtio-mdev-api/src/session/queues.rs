//! Queues: their set-up, and the one place where they start and stop.

use super::{Session, SessionError, State, lost_interrupt};
use crate::dirty::DirtyRecord;
use crate::doorbell::Doorbells;
use crate::executor::VendorFault;
use crate::features::VIRTIO_F_RING_PACKED;
use crate::notify::EventFd;
use crate::{QueueConfig, QueueStart, QueueState, Refusal, Status};
use std::sync::Arc;

impl Session {
    /// Sets the ring size: a power of two, or any for a driver that accepted packed rings (virtio 1.3 §2.8.10.1). Refused
    /// with EBUSY while the driver runs.
    pub fn set_queue_size(&self, index: u32, size: u32) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        let index = self.check_index(index)?;
        if live(&state) {
            return Err(SessionError::RingLive);
        }
        let max = self.info.queues[index].max_size;
        let any = state.features & VIRTIO_F_RING_PACKED != 0;
        let size = u16::try_from(size).ok();
        let size = size.filter(|&size| size > 0 && size <= max && (any || size.is_power_of_two()));
        state.queues[index].config.size = size.ok_or(SessionError::QueueSize { max })?;
        Ok(())
    }

    /// Sizes and addresses of all queues.
    pub fn queue_configs(&self) -> Result<Vec<QueueConfig>, SessionError> {
        Ok(self.lock()?.queues.iter().map(|queue| queue.config).collect())
    }

    /// Sets the ring addresses. Refused with EINVAL while the driver runs.
    pub fn set_queue_addresses(&self, index: u32, desc: u64, driver: u64, device: u64) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        let index = self.check_index(index)?;
        check_frozen(&state)?;
        check_alignment(desc, driver, device)?;
        let config = &mut state.queues[index].config;
        *config = QueueConfig { desc, driver, device, ..*config };
        Ok(())
    }

    /// Sets where the queue begins, as VHOST_SET_VRING_BASE encodes it. Refused with EINVAL while the driver runs. A place
    /// beyond the ring, whose size may be set later, is refused when the queue starts.
    pub fn set_queue_base(&self, index: u32, base: u32) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        let index = self.check_index(index)?;
        check_frozen(&state)?;
        let packed = state.features & VIRTIO_F_RING_PACKED != 0;
        let start = QueueState::from_vring_base(packed, base).ok_or(SessionError::QueueBase { base })?;
        state.queues[index].state = start;
        Ok(())
    }

    /// Where the queue stands, as VHOST_GET_VRING_BASE encodes it; EBUSY while it runs.
    pub fn queue_base(&self, index: u32) -> Result<u32, SessionError> {
        let state = self.lock()?;
        let queue = &state.queues[self.check_index(index)?];
        if queue.running { Err(SessionError::RingLive) } else { Ok(queue.state.to_vring_base()) }
    }

    /// Enables or disables a queue, at any time.
    pub fn set_queue_enabled(&self, index: u32, enabled: bool) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        let index = self.check_index(index)?;
        let before = std::mem::replace(&mut state.queues[index].enabled, enabled);
        let settled = self.settle(&mut state);
        if settled.is_err() {
            state.queues[index].enabled = before;
        }
        settled
    }

    /// Replaces a queue's kick, at any time.
    pub fn set_kick(&self, index: u32, kick: Option<EventFd>) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        let index = self.check_index(index)?;
        state.queues[index].kick.clone_from(&kick);
        if state.queues[index].running {
            let number = number(index);
            self.device.call("set_kick", move |device| device.set_kick(number, kick))?;
        }
        Ok(())
    }

    /// Where the driver rings beside its kicks, from the next start of a queue on. For a device with
    /// [`DOORBELL_PAGE`](crate::Capabilities::DOORBELL_PAGE).
    pub fn set_doorbells(&self, doorbells: Option<Arc<Doorbells>>) -> Result<(), SessionError> {
        self.lock()?.doorbells = doorbells;
        Ok(())
    }

    /// Replaces whom a queue's interrupts go to, at any time and at once.
    pub fn set_call(&self, index: u32, call: Option<EventFd>) -> Result<(), SessionError> {
        self.lock()?.queues[self.check_index(index)?].call.set(call);
        Ok(())
    }

    /// Replaces whom a queue's interrupts go to while there is no [`set_call`](Self::set_call). It outlives resets.
    pub fn set_irq(&self, index: u32, irq: Option<EventFd>) -> Result<(), SessionError> {
        self.lock()?.queues[self.check_index(index)?].call.set_standing(irq);
        Ok(())
    }

    /// Interrupts as if the queue had used a buffer.
    pub fn trigger(&self, index: u32) -> Result<(), SessionError> {
        let call = Arc::clone(&self.lock()?.queues[self.check_index(index)?].call);
        Ok(call.signal().map_err(lost_interrupt)?)
    }

    /// Rings a queue's kick on behalf of a driver that has no eventfd to ring. A queue that was given none gets one; a
    /// queue that does not run looks at its ring when it starts.
    pub fn kick(&self, index: u32) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        let at = self.check_index(index)?;
        let queue = &mut state.queues[at];
        if !queue.running {
            return Ok(());
        }
        let kick = match &queue.kick {
            Some(kick) => kick.clone(),
            None => {
                let kick = EventFd::new().map_err(|errno| Refusal::new(errno, "there is no eventfd for the kick"))?;
                let (number, ours) = (number(at), Some(kick.clone()));
                self.device.call("set_kick", move |device| device.set_kick(number, ours))?;
                state.queues[at].kick.insert(kick).clone()
            }
        };
        drop(state);
        if let Err(errno) = kick.signal() {
            // The client's own eventfd, which it made block: its counter says that there is something to see.
            tracing::debug!(instance = %self.link.name(), index, %errno, "a kick was dropped");
        }
        Ok(())
    }

    /// Replaces whom a queue's errors are told to.
    pub fn set_err(&self, index: u32, err: Option<EventFd>) -> Result<(), SessionError> {
        self.lock()?.queues[self.check_index(index)?].err.set(err);
        Ok(())
    }

    /// Starts every queue that should run and stops every queue that should not.
    pub(super) fn settle(&self, state: &mut State) -> Result<(), SessionError> {
        let live = live(state) && !state.frozen;
        for index in 0..self.info.queues.len() {
            let queue = &state.queues[index];
            match (queue.running, live && queue.enabled) {
                (true, false) => self.stop_queue(state, index)?,
                (false, true) if !self.link.needs_reset() => self.start_queue(state, index)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn start_queue(&self, state: &mut State, index: usize) -> Result<(), SessionError> {
        let (asid, ring_asid) = self.asids_of(state, index);
        let queue = &state.queues[index];
        check_areas(&queue.config, state.features)?;
        // Only now are size and place both known.
        if !queue.state.fits(state.features & VIRTIO_F_RING_PACKED != 0, queue.config.size) {
            return Err(SessionError::QueueBase { base: queue.state.to_vring_base() });
        }
        let start = QueueStart {
            config: queue.config,
            state: queue.state,
            features: state.features,
            asid,
            space: state.memory(asid)?,
            ring_asid,
            ring_space: state.memory(ring_asid)?,
            kick: queue.kick.clone(),
            doorbell: state.doorbells.as_ref().and_then(|doorbells| doorbells.of_queue(index)),
            call: Arc::clone(&queue.call),
            err: Arc::clone(&queue.err),
            dirty: self.dirty_of(asid, ring_asid),
        };
        let number = number(index);
        self.device.call("start_queue", move |device| device.start_queue(number, start))??;
        state.queues[index].running = true;
        Ok(())
    }

    /// The record is about address space 0, which is the guest's. Nobody copies the others while the device runs.
    fn dirty_of(&self, asid: u32, ring_asid: u32) -> Arc<DirtyRecord> {
        match (asid, ring_asid) {
            (0, _) => Arc::clone(&self.dirty),
            (_, 0) => DirtyRecord::of_ring(Arc::clone(&self.dirty)),
            _ => DirtyRecord::new(),
        }
    }

    pub(super) fn stop_queue(&self, state: &mut State, index: usize) -> Result<(), SessionError> {
        let number = number(index);
        let stopped = self.device.call("stop_queue", move |device| device.stop_queue(number))?;
        let stopped = stopped.map_err(|reason| {
            let fault = VendorFault::Failed { call: "stop_queue", reason };
            self.device.break_with(fault.clone());
            fault
        })?;
        let queue = &mut state.queues[index];
        queue.running = false;
        if let Some(stood) = stopped {
            queue.state = stood;
        }
        Ok(())
    }

    pub(super) fn check_index(&self, index: u32) -> Result<usize, SessionError> {
        let wanted = usize::try_from(index).ok().filter(|&at| at < self.info.queues.len());
        wanted.ok_or(SessionError::NoSuchQueue { index })
    }
}

fn live(state: &State) -> bool {
    state.status.contains(Status::DRIVER_OK) && !state.suspended
}

/// Ring addresses and state stand still while the driver runs.
fn check_frozen(state: &State) -> Result<(), SessionError> {
    if live(state) { Err(SessionError::DriverRuns) } else { Ok(()) }
}

/// Queue indices fit 16 bits: a device has at most 65,536 queues (virtio 1.3 §2.6).
fn number(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

pub(super) fn check_alignment(desc: u64, driver: u64, device: u64) -> Result<(), SessionError> {
    if desc.is_multiple_of(16) && driver.is_multiple_of(2) && device.is_multiple_of(4) {
        return Ok(());
    }
    Err(SessionError::QueueAlignment { desc, driver, device })
}

/// No ring area may wrap around the end of the address space.
pub(super) fn check_areas(config: &QueueConfig, features: u64) -> Result<(), SessionError> {
    let lens = QueueConfig::area_lens(config.size, features & VIRTIO_F_RING_PACKED != 0);
    let mut areas = [config.desc, config.driver, config.device].into_iter().zip(lens);
    match areas.find(|(start, len)| start.checked_add(len - 1).is_none()) {
        Some((start, len)) => Err(SessionError::QueueWraps { start, len }),
        None => Ok(()),
    }
}
