//! A group's place in the memory it is attached to.

use crate::Home;
use crate::error::VfioError;
use devnode::Broadcast;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use virtio_mdev_api::dma::AddressSpace;

/// What a group is attached to, a container or an IOAS. Quick to ask: a lock of the group is held.
pub(crate) trait MemorySource: Send + Sync {
    /// Group `group` is one of those that use the memory, and `trace` hears of calls that change it.
    fn join(&self, group: u32, trace: Option<Arc<Broadcast>>) -> Result<(), VfioError>;

    /// It is not any more. Its device was told before: nothing of it uses the memory. No lock of the group is held.
    fn leave(&self, group: u32);

    /// The memory; `None` before there is any.
    fn space(&self) -> Option<Arc<AddressSpace>>;
}

/// A group that is attached.
pub(crate) struct Attached {
    source: Arc<dyn MemorySource>,
    /// Who attached it.
    home: Home,
    users: AtomicUsize,
    ended: AtomicBool,
}

impl Attached {
    /// By `home`. The group has joined `source`.
    pub fn new(source: Arc<dyn MemorySource>, home: Home) -> Arc<Self> {
        Arc::new(Self { source, home, users: AtomicUsize::new(0), ended: AtomicBool::new(false) })
    }

    pub fn source(&self) -> &Arc<dyn MemorySource> {
        &self.source
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    pub fn space(&self) -> Option<Arc<AddressSpace>> {
        self.source.space()
    }

    /// From now on there is no new hold.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub fn is_held(&self) -> bool {
        self.users.load(Ordering::Acquire) != 0
    }

    /// `None` when it has ended, or when there is no memory.
    pub fn hold(self: &Arc<Self>) -> Option<GroupHold> {
        if self.has_ended() {
            return None;
        }
        let space = self.space()?;
        self.users.fetch_add(1, Ordering::AcqRel);
        Some(GroupHold { attached: Arc::clone(self), space })
    }
}

/// A group's place in a container or an IOAS, proven to be the client's.
#[derive(Clone)]
pub struct Attachment(pub(crate) Arc<Attached>);

/// Keeps a group in its container. See [`Group::hold`](crate::Group::hold).
#[must_use = "the group may leave its container when this is dropped"]
pub struct GroupHold {
    attached: Arc<Attached>,
    space: Arc<AddressSpace>,
}

impl GroupHold {
    /// The memory.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Who attached the group.
    pub(crate) fn home(&self) -> &Home {
        self.attached.home()
    }

    /// Whether the group is still attached: a close, a detach or a removal ends that, held or not.
    pub fn is_attached(&self) -> bool {
        !self.attached.has_ended()
    }
}

impl Drop for GroupHold {
    fn drop(&mut self) {
        self.attached.users.fetch_sub(1, Ordering::AcqRel);
    }
}
