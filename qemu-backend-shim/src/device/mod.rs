//! The device a front end sees: what it has set up so far, and the one decision that follows from it, when the instance runs.
//!
//! vhost-user starts and stops rings one by one, in any order; a vhost-vdpa instance starts and stops as a whole and takes ring addresses only while
//! it is stopped. So everything the front end says is kept here, and
//!
//! * the instance *starts* as soon as features are negotiated, every ring is set up and started (it has a kick), and at least one is enabled;
//! * it *stops* (suspend, read all bases, reset) when any ring stops, or when memory goes away. Rings that did not ask for it continue at their base
//!   when the device starts again.
//!
//! Notifiers and ring enables pass through to a running instance at once.

mod memory;
mod run;

use std::fs::File;
use std::os::fd::AsFd;

use tracing::warn;

use self::run::kick_fd;
use crate::error::Error;
use crate::features;
use crate::instance::Instance;
use crate::mapping::Mapping;
use crate::memory::{Region, RegionTable};
use crate::ring::{self, Addresses, Kick, Ring};

/// One receive and one transmit ring: a single queue pair.
pub const RINGS: u32 = 2;

/// Bits of the virtio device status field (virtio 1.2, 2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}

/// A region as SET_MEM_TABLE and ADD_MEM_REG bring it: with the file it lies in and the offset in that file.
pub type SentRegion = (Region, File, u64);

/// See the module.
#[derive(Debug)]
pub struct Device<I> {
    instance: I,
    memory: RegionTable<Mapping>,
    rings: [Ring; RINGS as usize],
    /// As the front end acknowledged them, VHOST_USER_F_PROTOCOL_FEATURES included.
    features: Option<u64>,
    running: bool,
    /// Taken down by a change of memory of which more may follow.
    settling: bool,
    needs_reset_seen: bool,
}

impl<I: Instance> Device<I> {
    /// A device on `instance`, which is expected to be reset.
    pub fn new(instance: I) -> Self {
        Self {
            instance,
            memory: RegionTable::default(),
            rings: Default::default(),
            features: None,
            running: false,
            settling: false,
            needs_reset_seen: false,
        }
    }

    /// Fails when the instance is gone; tells once when it has stopped by itself.
    pub fn check(&mut self) -> Result<(), Error> {
        self.instance.present()?;
        let needs_reset = self.instance.status()? & status::NEEDS_RESET != 0;
        if needs_reset && !self.needs_reset_seen {
            warn!(
                "the instance has set DEVICE_NEEDS_RESET: no packet passes until the guest's driver or the front end starts anew"
            );
        }
        self.needs_reset_seen = needs_reset;
        Ok(())
    }

    /// The features to offer to the front end.
    pub fn offered(&self) -> Result<u64, Error> {
        Ok(features::for_front_end(self.instance.features()?))
    }

    /// SET_FEATURES.
    pub fn set_features(&mut self, wanted: u64) -> Result<(), Error> {
        let unknown = wanted & !self.offered()?;
        if unknown != 0 {
            return Err(Error::Features(unknown));
        }
        if self.running && self.features != Some(wanted) {
            return Err(Error::FeaturesWhileRunning);
        }
        self.features = Some(wanted);
        self.start_if_ready()
    }

    /// SET_VRING_NUM.
    pub fn set_size(&mut self, index: u32, size: u32) -> Result<(), Error> {
        if !(1..=ring::MAX_SIZE).contains(&size) {
            return Err(Error::RingSize { ring: index, size });
        }
        self.stopped_ring(index, "SET_VRING_NUM")?.size = Some(size);
        Ok(())
    }

    /// SET_VRING_BASE.
    pub fn set_base(&mut self, index: u32, base: u32) -> Result<(), Error> {
        self.stopped_ring(index, "SET_VRING_BASE")?.base = base;
        Ok(())
    }

    /// SET_VRING_ADDR. The addresses are translated when the device starts: until then memory may still come.
    pub fn set_addresses(&mut self, index: u32, addresses: Addresses, flags: u32) -> Result<(), Error> {
        if flags != 0 {
            return Err(Error::RingFlags { ring: index, flags });
        }
        self.stopped_ring(index, "SET_VRING_ADDR")?.addresses = Some(addresses);
        Ok(())
    }

    /// SET_VRING_KICK: starts the ring, or gives a running one another eventfd.
    pub fn set_kick(&mut self, index: u32, kick: Kick) -> Result<(), Error> {
        if matches!(kick, Kick::Polled) {
            warn!(
                ring = index,
                "the front end asks for polling; the instance looks at this ring only when it is kicked"
            );
        }
        self.ring(index)?.kick = Some(kick);
        if self.running {
            return self.instance.set_vring_kick(index, kick_fd(&self.rings[slot(index)]));
        }
        self.start_if_ready()
    }

    /// SET_VRING_CALL; `None` is the NOFD flag.
    pub fn set_call(&mut self, index: u32, call: Option<File>) -> Result<(), Error> {
        self.ring(index)?.call = call;
        let fd = self.rings[slot(index)].call.as_ref().map(AsFd::as_fd);
        if self.running { self.instance.set_vring_call(index, fd) } else { Ok(()) }
    }

    /// SET_VRING_ERR; `None` is the NOFD flag.
    pub fn set_err(&mut self, index: u32, err: Option<File>) -> Result<(), Error> {
        self.ring(index)?.err = err;
        let fd = self.rings[slot(index)].err.as_ref().map(AsFd::as_fd);
        if self.running { self.instance.set_vring_err(index, fd) } else { Ok(()) }
    }

    /// SET_VRING_ENABLE, at any time.
    pub fn set_enabled(&mut self, index: u32, enabled: bool) -> Result<(), Error> {
        self.ring(index)?.enabled = enabled;
        if self.running {
            return self.instance.set_vring_enable(index, enabled);
        }
        self.start_if_ready()
    }

    /// GET_VRING_BASE: stops the ring and tells where it stopped.
    pub fn stop_ring(&mut self, index: u32) -> Result<u32, Error> {
        self.ring(index)?.kick = None;
        self.stop()?;
        Ok(self.ring(index)?.base)
    }

    /// RESET_DEVICE: everything but the memory and the notifiers that are sent only once.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.rings.iter_mut().for_each(Ring::reset);
        self.settling = false;
        self.running = false;
        self.instance.set_status(0)
    }

    /// The front end has gone: forgets it, and clears the instance of it. An instance that cannot be cleared must not be given to another front end,
    /// since the device may still reach the memory of this one.
    pub fn teardown(&mut self) -> Result<(), Error> {
        let reset = self.instance.set_status(0);
        let unbound = (0..RINGS).try_for_each(|index| {
            self.instance.set_vring_kick(index, None)?;
            self.instance.set_vring_call(index, None)?;
            self.instance.set_vring_err(index, None)
        });
        let memory = std::mem::take(&mut self.memory);
        let unmapped = memory.iter().map(|(r, _)| self.instance.unmap(r.gpa(), r.size())).fold(Ok(()), Result::and);
        self.rings = Default::default();
        self.features = None;
        self.running = false;
        self.settling = false;
        reset.and(unbound).and(unmapped)
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring, Error> {
        self.rings.get_mut(slot(index)).ok_or(Error::NoRing(index))
    }

    fn stopped_ring(&mut self, index: u32, request: &'static str) -> Result<&mut Ring, Error> {
        let running = self.running;
        let ring = self.ring(index)?;
        if running { Err(Error::RingRuns { ring: index, request }) } else { Ok(ring) }
    }
}

fn slot(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
