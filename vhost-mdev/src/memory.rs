//! Where the device's memory comes from: the container's mappings, or IOTLB messages.
//!
//! A container is address space 0. All others are filled by IOTLB messages, whatever the first one is.

use crate::error::VhostError;
use crate::iotlb::Iotlb;
use crate::miss::MissQueue;
use std::sync::Arc;
use vfio_container::{Attachment, Group, GroupHold};
use virtio_mdev_api::dma::Limits;
use virtio_mdev_api::{Capabilities, Session, SessionError};

/// The address space that a container can be.
pub(crate) const CONTAINER_ASID: u32 = 0;

/// The memory of an open vhost file's device.
pub(crate) struct Memory {
    /// By address space id.
    iotlbs: Vec<Iotlb>,
    source: Source,
}

/// Where the memory of address space 0 comes from.
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
    /// Gives the device an empty IOTLB for each of its address spaces.
    pub fn new(session: &Session) -> Result<Self, VhostError> {
        let info = session.info();
        // A device in software reaches any byte; pages matter only to one that has page tables.
        let page_sizes = if has_own_iommu(session) { info.limits.page_sizes } else { u64::MAX };
        let mut iotlbs = Vec::new();
        for asid in 0..info.address_spaces.max(1) {
            let iotlb = Iotlb::new(Limits { page_sizes, ..info.limits });
            session.set_space(asid, Some(iotlb.space().clone()))?;
            iotlbs.push(iotlb);
        }
        Ok(Self { iotlbs, source: Source::Iotlb })
    }

    /// The IOTLB of address space `asid`. While one of them has a batch open, there is no other.
    pub fn iotlb(&mut self, asid: u32) -> Result<&mut Iotlb, VhostError> {
        let at = usize::try_from(asid).ok().filter(|&at| at < self.iotlbs.len());
        let at = at.ok_or(VhostError::AddressSpace(asid))?;
        match self.iotlbs.iter().position(Iotlb::in_batch) {
            Some(open) if open != at => Err(VhostError::BatchElsewhere { asid, open }),
            _ => Ok(&mut self.iotlbs[at]),
        }
    }

    fn first(&self) -> &Iotlb {
        &self.iotlbs[0]
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
            Some(_) if !self.first().is_empty() => Err(VhostError::TwoSources),
            Some(hold) => self.use_container(session, hold),
            None => self.use_iotlb(session),
        }
    }

    /// The device may go on in the memory of the container that `hold` keeps, or else in what it has.
    pub fn go_on(&mut self, session: &Session, hold: Option<GroupHold>) -> Result<(), VhostError> {
        match hold {
            Some(_) if !self.first().is_empty() => Err(VhostError::TwoSources),
            Some(hold) => self.use_container(session, hold),
            None => Ok(()),
        }
    }

    fn use_container(&mut self, session: &Session, hold: GroupHold) -> Result<(), VhostError> {
        if matches!(&self.source, Source::Container(held) if held.is_attached()) {
            return Ok(());
        }
        match session.set_space(CONTAINER_ASID, Some(hold.space().clone())) {
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
        match session.set_space(CONTAINER_ASID, Some(self.first().space().clone())) {
            Err(SessionError::RingLive) => return Ok(()),
            result => result?,
        }
        self.source = Source::Iotlb;
        Ok(())
    }

    /// Asks `misses` for what is not mapped, from now on and from the beginning.
    pub fn ask(&self, misses: &Arc<MissQueue>) {
        for (asid, iotlb) in (0..).zip(&self.iotlbs) {
            iotlb.space().set_miss_handler(Some(misses.handler(asid)));
        }
    }

    /// Whether some address space is filled by messages.
    pub fn is_iotlb(&self) -> bool {
        matches!(self.source, Source::Iotlb) || self.iotlbs.len() > 1
    }

    /// The highest address that is mapped, or will be when a batch ends, in any address space.
    pub fn highest(&self) -> Option<u64> {
        let contained = match &self.source {
            Source::Container(hold) => hold.space().highest(),
            Source::Iotlb | Source::Lost => None,
        };
        self.iotlbs.iter().map(Iotlb::highest).max().flatten().max(contained)
    }

    /// The device was reset: the container is free to go.
    pub fn release(&mut self, session: &Session) -> Result<(), VhostError> {
        self.use_iotlb(session)
    }

    /// Takes the container's memory from the device if the group has left it.
    pub fn lose_if_detached(&mut self, session: &Session) {
        if matches!(&self.source, Source::Container(hold) if !hold.is_attached()) {
            self.lose_container(session);
        }
    }

    /// Takes the container's memory from the device, if it has that.
    pub fn lose_container(&mut self, session: &Session) {
        if !matches!(&self.source, Source::Container(_)) {
            return;
        }
        if let Err(error) = session.lose_space(CONTAINER_ASID) {
            // The container unmaps the memory all the same, under a device that does not let go.
            tracing::warn!(instance = session.link().name(), %error, "could not be told that its memory is gone");
        }
        self.source = Source::Lost;
    }

    /// The file is closed or revoked: nothing stays mapped.
    pub fn clear(&mut self, session: &Session) {
        for (asid, iotlb) in (0..).zip(&mut self.iotlbs) {
            if let Err(error) = session.set_space(asid, None) {
                tracing::warn!(instance = session.link().name(), %error, "keeps an address space that is emptied now");
            }
            iotlb.clear();
        }
        self.source = Source::Iotlb;
    }
}
