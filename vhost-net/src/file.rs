//! An open vhost-net file: who may use it, and its life.

use crate::error::NetError;
use crate::node::Place;
use crate::state::State;
use devnode::{Caller, Ioctl, IoctlReply, OpenFile};
use nix::errno::Errno;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use std::sync::Arc;
use vfio_container::Client;
use vfio_container::trace::Trace;
use vhost_abi::command::{self, Access};

/// An open vhost-net file: a device.
///
/// Calls are served one at a time, as in the kernel; each looks into its client before it takes the lock, so a client
/// that blocks there blocks itself alone.
pub struct VhostNetFile {
    /// `None` once the file is closed.
    state: Mutex<Option<State>>,
}

/// That a client may do something, as long as the owner stays.
#[derive(Clone, Copy)]
pub(crate) struct Permit {
    owners: u64,
}

impl VhostNetFile {
    pub(crate) fn new(place: Arc<Place>) -> Self {
        Self { state: Mutex::new(Some(State::new(0, place))) }
    }

    fn lock(&self) -> Result<MappedMutexGuard<'_, State>, NetError> {
        MutexGuard::try_map(self.state.lock(), Option::as_mut).map_err(|_| NetError::Gone)
    }

    /// The device, for a client that was permitted to use it.
    pub(crate) fn permitted(&self, permit: Permit) -> Result<MappedMutexGuard<'_, State>, NetError> {
        let state = self.lock()?;
        if state.owners == permit.owners { Ok(state) } else { Err(NetError::NotOwner) }
    }

    /// Whether `client` may do what needs `access`. Looks into the client.
    fn permit(&self, client: &dyn Client, access: Access) -> Result<Permit, NetError> {
        let state = self.lock()?;
        let (owner, permit) = (state.owner.clone(), Permit { owners: state.owners });
        drop(state);
        match (access, owner) {
            (Access::Any, _) | (Access::Mutating, None) => Ok(permit),
            (_, Some(owner)) if client.lives_in(&owner) => Ok(permit),
            _ => Err(NetError::NotOwner),
        }
    }

    /// Makes `client` the owner.
    pub(crate) fn set_owner(&self, client: &dyn Client) -> Result<(), NetError> {
        if self.lock()?.owner.is_some() {
            return Err(NetError::Owned);
        }
        let home = client.home()?;
        let mut state = self.lock()?;
        if state.owner.is_some() {
            return Err(NetError::Owned);
        }
        state.owner = Some(home);
        state.owners += 1;
        Ok(())
    }

    /// Serves an ioctl of `client`.
    pub fn serve(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let mut trace = Trace::begin([]);
        let known = command::find(call.cmd);
        let outcome = known.ok_or(NetError::Unknown(call.cmd)).and_then(|(name, access)| {
            let permit = self.permit(client, access)?;
            self.dispatch(client, permit, call, name, &mut trace)
        });
        trace.answer(client, "vhost-net", known.map_or("unknown", |(name, _)| name), outcome)
    }

    /// The device loses everything it has of its client.
    fn shut(&self) {
        let Some(mut state) = self.state.lock().take() else { return };
        if let Err(error) = state.stop() {
            tracing::warn!(device = state.name(), %error, "does not stop");
        }
    }
}

impl OpenFile for VhostNetFile {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.serve(caller, call)
    }

    fn release(&self) {
        self.shut();
    }
}

impl Drop for VhostNetFile {
    fn drop(&mut self) {
        self.shut();
    }
}

impl std::fmt::Debug for VhostNetFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostNetFile").finish_non_exhaustive()
    }
}
