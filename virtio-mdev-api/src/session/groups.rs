//! Virtqueue groups: which address space a queue works in.

use super::{Session, SessionError, State};
use crate::Status;
use crate::dma::AddressSpace;
use std::sync::Arc;

impl Session {
    /// Puts `group` into address space `asid`, until the next reset: as with the devices of Linux that have groups
    /// (`vdpa_sim`, mlx5), a reset puts all of them back into address space 0. Refused with EINVAL when there is no such
    /// group or address space, with EBUSY while DRIVER_OK is set.
    pub fn set_group_asid(&self, group: u32, asid: u32) -> Result<(), SessionError> {
        let mut state = self.lock()?;
        if group >= self.info.groups() {
            return Err(SessionError::NoSuchGroup { group });
        }
        self.check_asid(asid)?;
        if state.status.contains(Status::DRIVER_OK) {
            return Err(SessionError::GroupsFixed);
        }
        state.asids.insert(group, asid);
        Ok(())
    }

    /// Whether queues that start from now on have their rings in the address space of their
    /// [`desc_group`](crate::QueueInfo::desc_group). A driver that knows nothing of such groups means the address space
    /// of the queue.
    pub fn use_desc_groups(&self, on: bool) -> Result<(), SessionError> {
        self.lock()?.desc_groups = on;
        Ok(())
    }

    pub(super) fn check_asid(&self, asid: u32) -> Result<(), SessionError> {
        if asid < self.info.address_spaces.max(1) { Ok(()) } else { Err(SessionError::NoSuchSpace { asid }) }
    }

    /// The address space ids of a queue: that of its buffers, and that of its ring.
    pub(super) fn asids_of(&self, state: &State, index: usize) -> (u32, u32) {
        let queue = &self.info.queues[index];
        let ring_group = queue.desc_group.filter(|_| state.desc_groups).unwrap_or(queue.group);
        (state.asid(queue.group), state.asid(ring_group))
    }
}

impl State {
    fn asid(&self, group: u32) -> u32 {
        self.asids.get(&group).copied().unwrap_or(0)
    }

    pub(super) fn memory(&self, asid: u32) -> Result<Arc<AddressSpace>, SessionError> {
        let space = self.spaces.get(&asid).ok_or(SessionError::NoMemory { asid })?;
        Ok(Arc::clone(&space.memory))
    }
}
