//! The memory a session's device works in.

use super::{Session, SessionError, iommu};
use crate::Capabilities;
use crate::dirty::WriterGuard;
use crate::dma::{AddressSpace, SubscriptionGuard};
use std::sync::Arc;

/// An address space of the device.
pub(super) struct Space {
    pub memory: Arc<AddressSpace>,
    /// Keeps the device's own IOMMU as the memory is.
    _iommu: Option<SubscriptionGuard>,
    /// Tells who records what is written to the memory.
    _writer: Option<WriterGuard>,
}

impl Session {
    /// Gives the device the memory of address space `asid`, or takes it away. Refused with EINVAL when there is no such
    /// address space, with EBUSY while a queue runs.
    pub fn set_space(&self, asid: u32, memory: Option<Arc<AddressSpace>>) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        self.check_asid(asid)?;
        if state.queues.iter().any(|queue| queue.running) {
            return Err(SessionError::RingLive);
        }
        // First, so that a device of its own IOMMU has room for the new ones.
        state.spaces.remove(&asid);
        let Some(memory) = memory else { return Ok(()) };
        let iommu = if self.info.capabilities.contains(Capabilities::OWN_IOMMU) {
            Some(iommu::forward(&memory, asid, self.device.clone(), self.link.clone())?)
        } else {
            None
        };
        // The record is about address space 0.
        let writer = (asid == 0).then(|| memory.writers().join(&self.dirty));
        state.spaces.insert(asid, Space { memory, _iommu: iommu, _writer: writer });
        Ok(())
    }

    /// The memory of address space `asid` went away under the device: its queues stop, and a driver that was running
    /// sees DEVICE_NEEDS_RESET.
    pub fn lose_space(&self, asid: u32) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        let was_running = state.queues.iter().any(|queue| queue.running);
        for index in 0..state.queues.len() {
            if state.queues[index].running {
                self.stop_queue(&mut state, index)?;
            }
        }
        if was_running {
            self.link.fault(None, "its memory was taken away");
        }
        state.spaces.remove(&asid);
        Ok(())
    }
}
