//! Where the device's memory comes from: the container's mappings, or IOTLB messages.

use crate::error::VhostError;
use crate::iotlb::Iotlb;
use vfio_container::{Attachment, Group, GroupHold};
use virtio_mdev_api::dma::Limits;
use virtio_mdev_api::{Capabilities, Session, SessionError};

/// The memory of an open vhost file's device.
pub(crate) struct Memory {
    pub iotlb: Iotlb,
    source: Source,
}

enum Source {
    Iotlb,
    Container(GroupHold),
    /// The group left the container under the device.
    Lost,
}

/// Whether the device does its own translation, and takes IOTLB messages only.
pub(crate) fn has_own_iommu(session: &Session) -> bool {
    session.info().capabilities.contains(Capabilities::OWN_IOMMU)
}

impl Memory {
    /// Gives the device an empty IOTLB.
    pub fn new(session: &Session) -> Result<Self, VhostError> {
        let limits = session.info().limits;
        // A device in software reaches any byte; pages matter only to one that has page tables.
        let page_sizes = if has_own_iommu(session) { limits.page_sizes } else { u64::MAX };
        let iotlb = Iotlb::new(Limits { page_sizes, ..limits });
        session.set_space(Some(iotlb.space().clone()))?;
        Ok(Self { iotlb, source: Source::Iotlb })
    }

    /// Queues are about to start for a client that holds `attachment`, or no container. While queues run already, the
    /// device keeps the memory it has.
    pub fn choose(
        &mut self,
        session: &Session,
        group: &Group,
        attachment: Option<&Attachment>,
    ) -> Result<(), VhostError> {
        match attachment.and_then(|attachment| group.hold_in(attachment)) {
            Some(_) if !self.iotlb.is_empty() => Err(VhostError::TwoSources),
            Some(hold) => self.use_container(session, hold),
            None => self.use_iotlb(session),
        }
    }

    fn use_container(&mut self, session: &Session, hold: GroupHold) -> Result<(), VhostError> {
        if matches!(&self.source, Source::Container(held) if held.is_attached()) {
            return Ok(());
        }
        match session.set_space(Some(hold.space().clone())) {
            Err(SessionError::RingLive) => return Ok(()),
            result => result?,
        }
        self.source = Source::Container(hold);
        // The group may have left before it was held here, and then nobody told us.
        self.lose_if_detached(session);
        Ok(())
    }

    fn use_iotlb(&mut self, session: &Session) -> Result<(), VhostError> {
        if matches!(self.source, Source::Iotlb) {
            return Ok(());
        }
        match session.set_space(Some(self.iotlb.space().clone())) {
            Err(SessionError::RingLive) => return Ok(()),
            result => result?,
        }
        self.source = Source::Iotlb;
        Ok(())
    }

    /// The device was reset: the container is free to go.
    pub fn release(&mut self, session: &Session) -> Result<(), VhostError> {
        self.use_iotlb(session)
    }

    /// Takes the container's memory from the device if the group has left it.
    pub fn lose_if_detached(&mut self, session: &Session) {
        if !matches!(&self.source, Source::Container(hold) if !hold.is_attached()) {
            return;
        }
        if let Err(error) = session.lose_space() {
            // The container unmaps the memory all the same, under a device that does not let go.
            tracing::warn!(instance = session.link().name(), %error, "could not be told that its memory is gone");
        }
        self.source = Source::Lost;
    }

    /// The file is closed or revoked: nothing stays mapped.
    pub fn clear(&mut self, session: &Session) {
        if let Err(error) = session.set_space(None) {
            tracing::warn!(instance = session.link().name(), %error, "keeps an address space that is emptied now");
        }
        self.iotlb.clear();
        self.source = Source::Iotlb;
    }
}
