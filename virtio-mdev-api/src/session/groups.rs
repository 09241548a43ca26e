//! Virtqueue groups: which address space a queue works in.

use super::{Session, SessionError, State};
use crate::dma::AddressSpace;
use crate::{QueueInfo, Refusal, Status};
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

    /// The group of a queue, and that of its ring where the device can tell them apart. They may be others when features
    /// are accepted: the control queue of a network card is the last of those a driver uses.
    pub fn queue_groups(&self, index: u32) -> Result<(u32, Option<u32>), SessionError> {
        let state = self.lock()?;
        Ok(state.queues[self.check_index(index)?].groups)
    }

    /// Tells the device of the features, and learns of the groups its queues are in then.
    pub(super) fn accept(&self, state: &mut State, features: u64) -> Result<(), SessionError> {
        let accepted = self.device.call("set_features", move |device| {
            device.set_features(features)?;
            Ok(device.info().queues)
        })?;
        let accepted: Result<Vec<QueueInfo>, Refusal> = accepted;
        state.set_groups(&accepted?, self.info.groups());
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
        let (group, desc_group) = state.queues[index].groups;
        let ring_group = desc_group.filter(|_| state.desc_groups).unwrap_or(group);
        (state.asid(group), state.asid(ring_group))
    }
}

impl State {
    /// The queues are in the groups that the device says, of those there are.
    pub(super) fn set_groups(&mut self, queues: &[QueueInfo], groups: u32) {
        let known = |group: u32| group.min(groups - 1);
        for (queue, info) in self.queues.iter_mut().zip(queues) {
            queue.groups = (known(info.group), info.desc_group.map(known));
        }
    }

    fn asid(&self, group: u32) -> u32 {
        self.asids.get(&group).copied().unwrap_or(0)
    }

    pub(super) fn memory(&self, asid: u32) -> Result<Arc<AddressSpace>, SessionError> {
        let space = self.spaces.get(&asid).ok_or(SessionError::NoMemory { asid })?;
        Ok(Arc::clone(&space.memory))
    }
}
