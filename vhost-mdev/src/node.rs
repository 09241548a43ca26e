//! `/dev/vhost-mdev/<uuid>`.

use crate::VhostFile;
use crate::error::VhostError;
use devnode::{Broadcast, Caller, DeviceNode, OpenFile, OpenFlags, Releases};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::fmt;
use std::sync::{Arc, Weak};
use vfio_container::{Client, Group};
use virtio_mdev_api::doorbell::Doorbells;
use virtio_mdev_api::{Capabilities, HasErrno, Session};

/// The vhost node of an instance. One opener at a time.
pub struct VhostMdev {
    session: Arc<Session>,
    group: Arc<Group>,
    trace: Arc<Broadcast>,
    on_open: Box<dyn Fn(bool) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revoked: bool,
    open: Slot,
}

#[derive(Default)]
enum Slot {
    #[default]
    Free,
    /// Being opened, or being closed.
    Busy,
    Open {
        file: Weak<VhostFile>,
        pid: i32,
        uid: u32,
    },
}

impl VhostMdev {
    /// The node of the device behind `session`, whose group is `group`. Listeners of `trace` hear of every call;
    /// `on_open` is told when the file was opened (true) and closed or revoked (false).
    pub fn new(
        session: Arc<Session>,
        group: Arc<Group>,
        trace: Arc<Broadcast>,
        on_open: Box<dyn Fn(bool) + Send + Sync>,
    ) -> Arc<Self> {
        let node = Arc::new(Self { session, group: Arc::clone(&group), trace, on_open, state: Mutex::default() });
        let watcher = Arc::downgrade(&node);
        group.on_detach(Box::new(move || {
            if let Some(file) = watcher.upgrade().and_then(|node| node.file()) {
                file.group_detached();
            }
        }));
        node
    }

    /// Whether a client has the file open.
    pub fn is_open(&self) -> bool {
        matches!(self.state.lock().open, Slot::Open { .. })
    }

    /// Process and user of the client that has the file open: its owner where there is one, else who opened it.
    pub fn holder(&self) -> Option<(i32, u32)> {
        let state = self.state.lock();
        let Slot::Open { file, pid, uid } = &state.open else { return None };
        let owner = file.upgrade().and_then(|file| file.owner_pid());
        Some((owner.unwrap_or(*pid), *uid))
    }

    /// Takes the instance away from whoever uses it: the device is reset, its memory released, and every later call on
    /// an open file, as every later open, answers ENODEV.
    pub fn revoke(&self) {
        self.state.lock().revoked = true;
        if let Some(file) = self.file() {
            self.close(&file);
        }
    }

    /// Opens the node for `client`: the device is reset.
    pub fn open_file(self: &Arc<Self>, client: &dyn Client) -> Result<Arc<VhostFile>, Errno> {
        let doorbells = self.new_doorbells().map_err(|error| error.errno())?;
        self.open_for(pid_of(client), client.uid(), doorbells)
    }

    /// Doorbells of its own for a new client: one that was here before may still have its pages mapped. None for a device
    /// that does not watch any.
    pub(crate) fn new_doorbells(&self) -> Result<Option<Arc<Doorbells>>, VhostError> {
        let info = self.session.info();
        let watches = info.capabilities.contains(Capabilities::DOORBELL_PAGE);
        let made = watches.then(|| Doorbells::new(info.queues.len())).transpose();
        made.map_err(VhostError::Doorbells)
    }

    /// Opens the node for a process of a user, who rings these doorbells.
    pub(crate) fn open_for(
        self: &Arc<Self>,
        pid: i32,
        uid: u32,
        doorbells: Option<Arc<Doorbells>>,
    ) -> Result<Arc<VhostFile>, Errno> {
        {
            let mut state = self.state.lock();
            match state.open {
                _ if state.revoked => return Err(VhostError::Gone.errno()),
                Slot::Free => state.open = Slot::Busy,
                _ => return Err(Errno::EBUSY),
            }
        }
        let file = VhostFile::open(Arc::clone(self), doorbells).map(Arc::new);
        let mut state = self.state.lock();
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                state.open = Slot::Free;
                drop(state);
                tracing::warn!(instance = self.session.link().name(), %error, "cannot be opened");
                return Err(error.errno());
            }
        };
        state.open = Slot::Open { file: Arc::downgrade(&file), pid, uid };
        let revoked = state.revoked;
        drop(state);
        (self.on_open)(true);
        if revoked {
            self.close(&file);
            return Err(VhostError::Gone.errno());
        }
        Ok(file)
    }

    /// `file` is closed: nobody opens the node before its device is reset.
    pub(crate) fn close(&self, file: &VhostFile) {
        if file.shut() {
            self.state.lock().open = Slot::Free;
            (self.on_open)(false);
        }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// Resets the device, and what an open file knows of it.
    pub(crate) fn reset(&self) -> Result<(), VhostError> {
        match self.file() {
            Some(file) => file.reset(),
            None => Ok(self.session.reset()?),
        }
    }

    /// The device was opened (true) or closed (false) as a VFIO device.
    pub(crate) fn tell(&self, open: bool) {
        (self.on_open)(open);
    }

    pub(crate) fn trace(&self) -> &Arc<Broadcast> {
        &self.trace
    }

    pub(crate) fn file(&self) -> Option<Arc<VhostFile>> {
        match &self.state.lock().open {
            Slot::Open { file, .. } => file.upgrade(),
            _ => None,
        }
    }
}

/// The process `client` is a thread of.
pub(crate) fn pid_of(client: &dyn Client) -> i32 {
    client.home().map_or(client.tid(), |home| home.pid())
}

impl DeviceNode for VhostMdev {
    fn open(self: Arc<Self>, caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(self.open_file(caller)?)
    }

    fn releases(&self) -> Releases {
        self.group.releases().clone()
    }
}

impl fmt::Debug for VhostMdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostMdev").field("instance", &self.session.link().name()).finish_non_exhaustive()
    }
}
