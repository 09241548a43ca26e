//! Starting and stopping the instance as a whole.

use std::os::fd::{AsFd, BorrowedFd};

use tracing::info;

use super::{Device, RINGS, status};
use crate::error::Error;
use crate::features;
use crate::instance::{Instance, backend_feature};
use crate::ring::{self, Addresses, Kick, Ring};

impl<I: Instance> Device<I> {
    /// Without the protocol feature rings have no enable message and are always on.
    fn is_enabled(&self, ring: &Ring) -> bool {
        ring.enabled || self.features.is_some_and(|f| f & features::PROTOCOL_FEATURES == 0)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.features.is_some()
            && self.rings.iter().all(Ring::is_ready)
            && self.rings.iter().any(|r| self.is_enabled(r))
    }

    fn is_packed(&self) -> bool {
        self.features.unwrap_or(0) & features::RING_PACKED != 0
    }

    /// The areas of all rings as the device addresses them.
    pub(super) fn ring_iovas(&self) -> Result<Vec<Addresses>, Error> {
        (0..RINGS).zip(&self.rings).map(|(index, ring)| self.iovas(index, ring)).collect()
    }

    fn iovas(&self, index: u32, ring: &Ring) -> Result<Addresses, Error> {
        let [desc_len, avail_len, used_len] = ring::extents(ring.size.unwrap_or(0), self.is_packed());
        let iova = |part, uaddr, len| {
            self.memory.translate(uaddr, len).ok_or(Error::RingAddress { ring: index, part, uaddr, len })
        };
        let at = ring.addresses.ok_or(Error::NoRing(index))?;
        Ok(Addresses {
            desc: iova("descriptor area", at.desc, desc_len)?,
            avail: iova("avail area", at.avail, avail_len)?,
            used: iova("used area", at.used, used_len)?,
        })
    }

    pub(super) fn start_if_ready(&mut self) -> Result<(), Error> {
        if self.running || !self.is_ready() {
            return Ok(());
        }
        self.settling = false;
        // half a start is cleared with the connection, which any error ends
        self.start()?;
        self.running = true;
        Ok(())
    }

    fn start(&self) -> Result<(), Error> {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
        let iovas = self.ring_iovas()?;
        let instance = &self.instance;
        let features = features::for_instance(self.features.unwrap_or(0), instance.features()?);
        instance.set_status(ACKNOWLEDGE | DRIVER)?;
        instance.set_features(features)?;
        instance.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)?;
        if instance.status()? & FEATURES_OK == 0 {
            return Err(Error::FeaturesRefused(features));
        }
        for ((index, ring), iova) in (0..RINGS).zip(&self.rings).zip(iovas) {
            instance.set_vring_num(index, ring.size.unwrap_or(0))?;
            instance.set_vring_base(index, ring::base_for_instance(ring.base, self.is_packed()))?;
            instance.set_vring_addr(index, iova)?;
            instance.set_vring_kick(index, kick_fd(ring))?;
            instance.set_vring_call(index, ring.call.as_ref().map(AsFd::as_fd))?;
            instance.set_vring_err(index, ring.err.as_ref().map(AsFd::as_fd))?;
        }
        for (index, ring) in (0..RINGS).zip(&self.rings) {
            instance.set_vring_enable(index, self.is_enabled(ring))?;
        }
        instance.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)?;
        info!(features = format_args!("{features:#x}"), bases = ?self.rings.each_ref().map(|r| r.base), "started");
        Ok(())
    }

    /// Stops the device and keeps where every ring stopped. A base that cannot be read is an error: a wrong one would make the front end hand out
    /// descriptors twice.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        if !self.running {
            return Ok(());
        }
        self.running = false;
        let bases = self.suspended_bases();
        let reset = self.instance.set_status(0);
        for (ring, base) in self.rings.iter_mut().zip(bases?) {
            ring.base = base;
        }
        info!(bases = ?self.rings.each_ref().map(|r| r.base), "stopped");
        reset
    }

    fn suspended_bases(&self) -> Result<[u32; RINGS as usize], Error> {
        if self.instance.backend_features() & backend_feature::SUSPEND != 0 {
            self.instance.suspend()?;
        } else {
            (0..RINGS).try_for_each(|index| self.instance.set_vring_enable(index, false))?;
        }
        Ok([self.instance.vring_base(0)?, self.instance.vring_base(1)?])
    }
}

/// What VHOST_SET_VRING_KICK is given for `ring`.
pub(super) fn kick_fd(ring: &Ring) -> Option<BorrowedFd<'_>> {
    match &ring.kick {
        Some(Kick::Fd(file)) => Some(file.as_fd()),
        Some(Kick::Polled) | None => None,
    }
}
