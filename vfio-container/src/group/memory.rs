//! The memory of a group: where it is attached, and who may use that.

use super::{DetachHandler, Group};
use crate::attachment::{Attached, Attachment, GroupHold, MemorySource};
use crate::error::VfioError;
use crate::{Client, Home};
use std::sync::Arc;
use virtio_mdev_api::dma::AddressSpace;

impl Group {
    /// Calls `handler`, which may ask the group whatever it likes but neither attach nor detach it, whenever the group has
    /// lost its memory: by UNSET_CONTAINER, by DETACH_IOMMUFD_PT or an attach to other memory, by a close, or by
    /// [`remove`](Self::remove). The memory is unmapped, if it is, after it returns.
    pub fn on_detach(&self, handler: DetachHandler) {
        self.on_detach.lock().push(Arc::new(handler));
    }

    /// The group's place in a container or an IOAS, if `client` runs in the address space that attached it: its proof that
    /// it holds that. Looks into the client; call it with no lock held.
    pub fn attachment(&self, client: &dyn Client) -> Option<Attachment> {
        let attached = self.state.lock().attached.clone().filter(|attached| !attached.has_ended())?;
        client.lives_in(attached.home()).then_some(Attachment(attached))
    }

    /// Whether `client` runs in the address space that attached the group.
    pub fn attached_by(&self, client: &dyn Client) -> bool {
        self.attachment(client).is_some()
    }

    /// The memory the group is attached to, if `client` runs in the address space that attached it. A container has some
    /// once it has its IOMMU.
    pub fn space_for(&self, client: &dyn Client) -> Option<Arc<AddressSpace>> {
        self.attachment(client)?.0.space()
    }

    /// Keeps the group in its container: UNSET_CONTAINER is EBUSY while the hold lives. `None` when it is in none, or
    /// when the container has no IOMMU.
    ///
    /// A close of the group's file, or its removal, ends the attachment all the same; so does DETACH_IOMMUFD_PT.
    pub fn hold(&self) -> Option<GroupHold> {
        self.state.lock().attached.as_ref().and_then(Attached::hold)
    }

    /// Keeps the group where it is by `attachment`. `None` when that is over, or when there is no memory.
    pub fn hold_in(&self, attachment: &Attachment) -> Option<GroupHold> {
        let state = self.state.lock();
        let attached = state.attached.as_ref().filter(|attached| Arc::ptr_eq(attached, &attachment.0))?;
        attached.hold()
    }

    pub(crate) fn attach(&self, id: u64, source: Arc<dyn MemorySource>, home: Home) -> Result<(), VfioError> {
        let trace = self.trace();
        self.with_open(id, |state| {
            if state.attached.is_some() {
                return Err(VfioError::Attached);
            }
            source.join(self.number, trace)?;
            state.attached = Some(Attached::new(source, home));
            Ok(())
        })
    }

    /// Attaches the group for user `id` in place of where it is attached. What it cannot be attached to leaves it there.
    pub(crate) fn reattach(&self, id: u64, source: Arc<dyn MemorySource>, home: Home) -> Result<(), VfioError> {
        let _leaving = self.leaving.lock();
        let now = self.with_open(id, |state| Ok(state.attached.clone()))?;
        if now.is_some_and(|now| Arc::ptr_eq(now.source(), &source)) {
            return Ok(());
        }
        source.join(self.number, self.trace())?;
        self.let_go(|_| true);
        let attached = Attached::new(Arc::clone(&source), home);
        let placed = self.with_open(id, |state| {
            state.attached = Some(attached);
            Ok(())
        });
        if placed.is_err() {
            source.leave(self.number);
            return placed;
        }
        let given = self.usage.set_memory(source.space());
        if given.is_err() {
            self.let_go(|_| true);
        }
        given
    }

    /// User `id` takes the memory from the device, in use or not.
    pub(crate) fn detach_for(&self, id: u64) -> Result<(), VfioError> {
        self.with_open(id, |_| Ok(()))?;
        self.detach(|_| true);
        Ok(())
    }

    /// UNSET_CONTAINER.
    pub(crate) fn unset(&self, id: u64) -> Result<(), VfioError> {
        let leaving = self.with_open(id, |state| {
            let attached = state.attached.as_ref().filter(|attached| !attached.has_ended());
            let attached = attached.ok_or(VfioError::NotAttached)?;
            if attached.is_held() {
                return Err(VfioError::InUse);
            }
            // Under the lock: a hold that comes now finds the attachment ended.
            attached.end();
            Ok(Arc::clone(attached))
        })?;
        // Not whatever is attached by then: another thread may attach the group anew once it is free.
        self.detach(|attached| Arc::ptr_eq(attached, &leaving));
        Ok(())
    }

    pub(crate) fn has_iommu(&self, id: u64) -> Result<bool, VfioError> {
        self.with_open(id, |state| Ok(state.attached.as_ref().is_some_and(|attached| attached.space().is_some())))
    }

    /// Ends the attachment, if it is the one that is meant, and returns when its source has let go.
    pub(super) fn detach(&self, is_meant: impl FnOnce(&Arc<Attached>) -> bool) {
        let _leaving = self.leaving.lock();
        self.let_go(is_meant);
    }

    fn let_go(&self, is_meant: impl FnOnce(&Arc<Attached>) -> bool) {
        let Some(attached) = self.state.lock().attached.clone().filter(is_meant) else { return };
        attached.end();
        if let Err(error) = self.usage.set_memory(None) {
            tracing::warn!(device = self.device_name, %error, "keeps memory that may be unmapped now");
        }
        let handlers = self.on_detach.lock().clone();
        handlers.iter().for_each(|handler| handler());
        attached.source().leave(self.number);
        self.state.lock().attached = None;
    }
}
