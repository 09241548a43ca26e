//! `/dev/vfio/<n>`: the group of one instance.

use crate::container::Container;
use crate::error::VfioError;
use crate::{Client, GroupFile, Home};
use devnode::{Broadcast, Caller, DeviceNode, OpenFile, OpenFlags};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dma::AddressSpace;

type DetachHandler = Box<dyn Fn() + Send + Sync>;

/// The IOMMU group of one instance, and the node `/dev/vfio/<n>`. One opener at a time.
pub struct Group {
    number: u32,
    device_name: String,
    state: Mutex<State>,
    /// Held by whoever takes the group out of its container, until the container has let go of it.
    leaving: Mutex<()>,
    on_detach: Mutex<Vec<Arc<DetachHandler>>>,
    trace: Mutex<Option<Arc<Broadcast>>>,
}

#[derive(Default)]
struct State {
    /// The open file, by its number.
    open: Option<u64>,
    closing: bool,
    opened: u64,
    /// Set until the container has let go: nobody attaches the group anew before.
    attached: Option<Arc<Attached>>,
    removed: bool,
}

/// A group in a container.
pub(crate) struct Attached {
    container: Arc<Container>,
    /// Who attached it.
    home: Home,
    users: AtomicUsize,
    ended: AtomicBool,
}

impl Group {
    /// Group `number` of the device called `device_name` (its UUID).
    pub fn new(number: u32, device_name: String) -> Arc<Self> {
        Arc::new(Self {
            number,
            device_name,
            state: Mutex::default(),
            leaving: Mutex::default(),
            on_detach: Mutex::default(),
            trace: Mutex::default(),
        })
    }

    /// The number that names the node.
    pub fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn device_name(&self) -> &str {
        &self.device_name
    }

    /// Who hears of every call on the group, and on a container it is attached to.
    pub fn set_trace(&self, trace: Arc<Broadcast>) {
        *self.trace.lock() = Some(trace);
    }

    pub(crate) fn trace(&self) -> Option<Arc<Broadcast>> {
        self.trace.lock().clone()
    }

    /// Calls `handler`, which may ask the group whatever it likes but not take it out of a container, whenever the group has left its container: by
    /// UNSET_CONTAINER, by a close, or by [`remove`](Self::remove). The memory is unmapped after it returns.
    pub fn on_detach(&self, handler: DetachHandler) {
        self.on_detach.lock().push(Arc::new(handler));
    }

    /// The group's place in a container, if `client` runs in the address space that attached it: its proof that it
    /// holds the container. Looks into the client; call it with no lock held.
    pub fn attachment(&self, client: &dyn Client) -> Option<Attachment> {
        let attached = self.state.lock().attached.clone().filter(|attached| !attached.has_ended())?;
        client.lives_in(&attached.home).then_some(Attachment(attached))
    }

    /// Whether `client` runs in the address space that attached the group to a container.
    pub fn attached_by(&self, client: &dyn Client) -> bool {
        self.attachment(client).is_some()
    }

    /// The attached container's memory, if `client` runs in the address space that attached the group and the
    /// container has its IOMMU.
    pub fn space_for(&self, client: &dyn Client) -> Option<Arc<AddressSpace>> {
        self.attachment(client)?.0.container.space()
    }

    /// Whether somebody has the group open.
    pub fn is_open(&self) -> bool {
        self.state.lock().open.is_some()
    }

    /// Keeps the group in its container: UNSET_CONTAINER is EBUSY while the hold lives. `None` when it is in none, or
    /// when the container has no IOMMU.
    ///
    /// A close of the group's file, or its removal, ends the attachment all the same.
    pub fn hold(&self) -> Option<GroupHold> {
        self.state.lock().attached.as_ref().and_then(hold)
    }

    /// Keeps the group in the container it is in by `attachment`. `None` when that is over, or when the container has
    /// no IOMMU.
    pub fn hold_in(&self, attachment: &Attachment) -> Option<GroupHold> {
        let state = self.state.lock();
        let attached = state.attached.as_ref().filter(|attached| Arc::ptr_eq(attached, &attachment.0))?;
        hold(attached)
    }

    /// The instance is gone: the device loses the container's memory, and every later call answers ENODEV.
    pub fn remove(&self) {
        self.state.lock().removed = true;
        self.detach(|_| true);
    }

    /// Opens the group.
    pub fn open_file(self: Arc<Self>) -> Result<Arc<GroupFile>, Errno> {
        let mut state = self.state.lock();
        if state.removed {
            return Err(VfioError::Gone.errno());
        }
        if state.open.is_some() {
            return Err(Errno::EBUSY);
        }
        state.opened += 1;
        let id = state.opened;
        state.open = Some(id);
        drop(state);
        Ok(Arc::new(GroupFile::new(self, id)))
    }

    /// File `id` is closed.
    pub(crate) fn close(&self, id: u64) {
        {
            let mut state = self.state.lock();
            if state.open != Some(id) {
                return;
            }
            // From here on no call attaches it again, and until the device let go nobody else opens it.
            state.closing = true;
        }
        self.detach(|_| true);
        let mut state = self.state.lock();
        (state.open, state.closing) = (None, false);
    }

    pub(crate) fn check_open(&self, id: u64) -> Result<bool, VfioError> {
        self.with_open(id, |state| Ok(state.attached.as_ref().is_some_and(|attached| !attached.has_ended())))
    }

    fn with_open<T>(&self, id: u64, work: impl FnOnce(&mut State) -> Result<T, VfioError>) -> Result<T, VfioError> {
        let mut state = self.state.lock();
        match state.open {
            _ if state.removed => Err(VfioError::Gone),
            Some(open) if open == id && !state.closing => work(&mut state),
            _ => Err(VfioError::Closed),
        }
    }

    pub(crate) fn attach(&self, id: u64, container: Arc<Container>, home: Home) -> Result<(), VfioError> {
        let trace = self.trace();
        self.with_open(id, |state| {
            if state.attached.is_some() {
                return Err(VfioError::Attached);
            }
            container.attach(self.number, trace);
            let (users, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
            state.attached = Some(Arc::new(Attached { container, home, users, ended }));
            Ok(())
        })
    }

    /// UNSET_CONTAINER.
    pub(crate) fn unset(&self, id: u64) -> Result<(), VfioError> {
        let leaving = self.with_open(id, |state| {
            let attached = state.attached.as_ref().filter(|attached| !attached.has_ended());
            let attached = attached.ok_or(VfioError::NotAttached)?;
            if attached.users.load(Ordering::Acquire) != 0 {
                return Err(VfioError::InUse);
            }
            // Under the lock: a hold that comes now finds the attachment ended.
            attached.ended.store(true, Ordering::Release);
            Ok(Arc::clone(attached))
        })?;
        // Not whatever is attached by then: another thread may attach the group anew once it is free.
        self.detach(|attached| Arc::ptr_eq(attached, &leaving));
        Ok(())
    }

    pub(crate) fn has_iommu(&self, id: u64) -> Result<bool, VfioError> {
        self.with_open(id, |state| Ok(state.attached.as_ref().is_some_and(|a| a.container.space().is_some())))
    }

    /// Ends the attachment, if it is the one that is meant, and returns when its container has let go.
    fn detach(&self, is_meant: impl FnOnce(&Arc<Attached>) -> bool) {
        let _leaving = self.leaving.lock();
        let Some(attached) = self.state.lock().attached.clone().filter(is_meant) else { return };
        attached.ended.store(true, Ordering::Release);
        let handlers = self.on_detach.lock().clone();
        handlers.iter().for_each(|handler| handler());
        attached.container.detach(self.number);
        self.state.lock().attached = None;
    }
}

impl Attached {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

fn hold(attached: &Arc<Attached>) -> Option<GroupHold> {
    if attached.has_ended() {
        return None;
    }
    let space = attached.container.space()?;
    attached.users.fetch_add(1, Ordering::AcqRel);
    Some(GroupHold { attached: Arc::clone(attached), space })
}

impl DeviceNode for Group {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(self.open_file()?)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("number", &self.number).field("device", &self.device_name).finish_non_exhaustive()
    }
}

/// A group's place in a container, proven to be the client's.
#[derive(Clone)]
pub struct Attachment(Arc<Attached>);

/// Keeps a group in its container. See [`Group::hold`].
#[must_use = "the group may leave its container when this is dropped"]
pub struct GroupHold {
    attached: Arc<Attached>,
    space: Arc<AddressSpace>,
}

impl GroupHold {
    /// The container's memory.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Whether the group is still in the container: a close or a removal ends that, held or not.
    pub fn is_attached(&self) -> bool {
        !self.attached.has_ended()
    }
}

impl Drop for GroupHold {
    fn drop(&mut self) {
        self.attached.users.fetch_sub(1, Ordering::AcqRel);
    }
}
