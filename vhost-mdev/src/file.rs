//! An open vhost file: who may use it, and its life.

use crate::VhostMdev;
use crate::error::VhostError;
use crate::log::LogState;
use crate::memory::{Memory, has_own_iommu};
use crate::miss::MissQueue;
use devnode::{Caller, Ioctl, IoctlReply, OpenFile, PollEvents, Read, WaitQueue};
use nix::errno::Errno;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use std::fs::File;
use std::sync::{Arc, OnceLock};
use vfio_container::trace::Trace;
use vfio_container::{Attachment, Client, Home};
use vhost_abi::command::{self, Access};
use vhost_abi::{MESSAGE_SIZE, Message};
use virtio_mdev_api::doorbell::Doorbells;
use virtio_mdev_api::{Session, Status};

/// An open vhost file.
///
/// Calls that touch the device are served one at a time, as in the kernel; each looks into its client before it takes
/// the lock, so a client that blocks there blocks itself alone.
pub struct VhostFile {
    pub(crate) node: Arc<VhostMdev>,
    owner: OnceLock<Home>,
    /// Where the client may ring, for a device that watches.
    doorbells: Option<Arc<Doorbells>>,
    pub(crate) misses: Arc<MissQueue>,
    /// `None` once the file is closed or revoked.
    state: Mutex<Option<State>>,
}

/// What changes while the file is open.
pub(crate) struct State {
    pub memory: Memory,
    pub backend_features: u64,
    pub log: LogState,
    /// Whether the client is asked for what is not mapped.
    pub answers_misses: bool,
    /// The container that the owner last proved to hold, for a device that goes on by a call of somebody else.
    pub proven: Option<Attachment>,
}

impl VhostFile {
    /// Resets the device and gives it empty IOTLBs.
    pub(crate) fn open(node: Arc<VhostMdev>, doorbells: Option<Arc<Doorbells>>) -> Result<Self, VhostError> {
        node.session().reset()?;
        node.session().use_desc_groups(false)?;
        node.session().set_doorbells(doorbells.clone())?;
        let memory = Memory::new(node.session())?;
        let log = LogState::default();
        let state = State { memory, backend_features: 0, log, answers_misses: false, proven: None };
        Ok(Self { node, owner: OnceLock::new(), doorbells, misses: MissQueue::new(), state: Mutex::new(Some(state)) })
    }

    pub(crate) fn session(&self) -> &Session {
        self.node.session()
    }

    pub(crate) fn owner_pid(&self) -> Option<i32> {
        self.owner.get().map(Home::pid)
    }

    pub(crate) fn lock(&self) -> Result<MappedMutexGuard<'_, State>, VhostError> {
        MutexGuard::try_map(self.state.lock(), Option::as_mut).map_err(|_| VhostError::Gone)
    }

    /// The device loses everything it has of the client. Whether this call did it.
    pub(crate) fn shut(&self) -> bool {
        let mut state = self.state.lock();
        let Some(mut open) = state.take() else { return false };
        let session = self.session();
        if let Err(error) = session.reset() {
            tracing::warn!(instance = session.link().name(), %error, "cannot be reset");
        }
        session.set_config_call(None);
        if let Err(error) = session.set_doorbells(None) {
            tracing::debug!(instance = session.link().name(), %error, "keeps its doorbells");
        }
        open.memory.clear(session);
        drop(state);
        self.misses.waiters().wake();
        true
    }

    /// The group left its container.
    pub(crate) fn group_detached(&self) {
        if let Ok(mut state) = self.lock() {
            state.memory.lose_if_detached(self.session());
        }
    }

    /// The device file gives up the memory it came with.
    pub(crate) fn lose_container(&self) {
        if let Ok(mut state) = self.lock() {
            state.memory.lose_container(self.session());
        }
    }

    /// A device that was stopped is to go on. The container is its memory where the device file is what this file was opened
    /// for, or where the owner proved to hold it. Looks into nobody.
    pub(crate) fn give_memory(&self, of_device_file: bool) -> Result<(), VhostError> {
        let session = self.session();
        if has_own_iommu(session) || !session.status()?.contains(Status::DRIVER_OK) {
            return Ok(());
        }
        let group = self.node.group();
        let mut state = self.lock()?;
        let proven = || state.proven.as_ref().and_then(|attachment| group.hold_in(attachment));
        let hold = if of_device_file { group.hold() } else { proven() };
        state.memory.go_on(session, hold)
    }

    /// Makes `client` the owner.
    pub(crate) fn set_owner(&self, client: &dyn Client) -> Result<(), VhostError> {
        if self.owner.get().is_some() {
            return Err(VhostError::Owned);
        }
        let (home, proven) = (client.home()?, self.attachment(client));
        let mut state = self.lock()?;
        self.owner.set(home).map_err(|_| VhostError::Owned)?;
        state.proven = proven;
        Ok(())
    }

    pub(crate) fn check(&self, client: &dyn Client, access: Access) -> Result<(), VhostError> {
        match (access, self.owner.get()) {
            (Access::Any, _) | (Access::Mutating, None) => Ok(()),
            (_, Some(owner)) if client.lives_in(owner) => Ok(()),
            _ => Err(VhostError::NotOwner),
        }
    }

    /// Serves an ioctl of `client`.
    pub fn serve(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let mut trace = Trace::begin([self.node.trace().clone()]);
        let known = command::find(call.cmd);
        let outcome = self.lock().map(drop).and_then(|()| {
            let (name, access) = known.ok_or(VhostError::Unknown(call.cmd))?;
            self.check(client, access)?;
            self.dispatch(client, call, name, &mut trace)
        });
        trace.answer(client, "vhost", known.map_or("unknown", |(name, _)| name), outcome)
    }

    /// Serves a `write(2)`: one IOTLB message, of the owner. Answers the size of a whole message, as the kernel does
    /// even if the end of its padding was left out.
    pub fn serve_write(&self, client: &dyn Client, data: &[u8]) -> Result<usize, Errno> {
        let mut trace = Trace::begin([self.node.trace().clone()]);
        let decoded = Message::decode(data);
        let name = decoded.as_ref().map_or("write", |message| message.request.name());
        let outcome = self.lock().map(drop).and_then(|()| {
            let message = decoded?;
            self.check(client, Access::Owner)?;
            self.message(client, message, &mut trace)
        });
        trace.answer(client, "vhost", name, outcome.map(|()| IoctlReply::value(72)))?;
        Ok(MESSAGE_SIZE.min(data.len()))
    }
}

impl OpenFile for VhostFile {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.serve(caller, call)
    }

    fn write(&self, caller: &Caller, _offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.serve_write(caller, data)
    }

    fn read(&self, caller: &Caller, read: &Read) -> Result<Vec<u8>, Errno> {
        self.serve_read(caller, read)
    }

    fn waiters(&self) -> Option<&WaitQueue> {
        Some(self.misses.waiters())
    }

    fn poll(&self, caller: &Caller, wanted: PollEvents) -> PollEvents {
        self.serve_poll(caller, wanted)
    }

    fn backing(&self) -> Option<Arc<File>> {
        self.doorbells.as_ref().map(|doorbells| Arc::clone(doorbells.file()))
    }

    fn release(&self) {
        self.node.close(self);
    }
}

impl std::fmt::Debug for VhostFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostFile").field("node", &self.node).finish_non_exhaustive()
    }
}
