//! The memory a session's device works in.

use super::{Session, SessionError, iommu};
use crate::Capabilities;
use crate::dma::AddressSpace;
use std::sync::Arc;

impl Session {
    /// Gives the device its memory, or takes it away. Refused with EBUSY while a queue runs.
    pub fn set_space(&self, space: Option<Arc<AddressSpace>>) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        if state.queues.iter().any(|queue| queue.running) {
            return Err(SessionError::RingLive);
        }
        state.iommu = None;
        state.space = None;
        let Some(space) = space else { return Ok(()) };
        if self.info.capabilities.contains(Capabilities::OWN_IOMMU) {
            state.iommu = Some(iommu::forward(&space, self.device.clone(), self.link.clone())?);
        }
        state.space = Some(space);
        Ok(())
    }

    /// The memory went away under the device: its queues stop, and a driver that was running sees
    /// DEVICE_NEEDS_RESET.
    pub fn lose_space(&self) -> Result<(), SessionError> {
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
        state.iommu = None;
        state.space = None;
        Ok(())
    }
}
