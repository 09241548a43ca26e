//! A ring and its back end.

use crate::error::NetError;
use crate::features::has_whole_header;
use crate::memory::Table;
use crate::node::Place;
use std::sync::Arc;
use tap::{GivenTap, Half, TapPort};
use vhost_abi::VringAddr;
use vhost_abi::feature::VHOST_VRING_F_LOG;
use virtio_mdev_api::dirty::{DirtyRecord, LoggedRing, RingLog};
use virtio_mdev_api::notify::{CallSlot, EventFd};
use virtio_mdev_api::{DeviceLink, QueueConfig, QueueStart, QueueState, VirtioMdev};
use virtio_net::{Doorbell, LinkState, MAX_QUEUE_SIZE, Mac, NetDevice, NetParameters, Pool};

/// Receive and transmit.
pub(crate) const RINGS: usize = 2;

/// What all rings of a device share.
pub(crate) struct Common<'a> {
    pub features: u64,
    pub table: &'a Table,
    pub dirty: &'a Arc<DirtyRecord>,
    pub place: &'a Arc<Place>,
    pub pool: &'a Arc<Pool>,
}

/// One ring. It runs while it has a back end.
pub(crate) struct Ring {
    index: u16,
    size: u16,
    addresses: VringAddr,
    avail: u16,
    kick: Option<EventFd>,
    pub call: Arc<CallSlot>,
    pub err: Arc<CallSlot>,
    pub busyloop: u32,
    device: Option<NetDevice<TapPort<GivenTap>>>,
}

impl Ring {
    /// A ring as it is after an open.
    pub fn new(index: u16) -> Self {
        let addresses = VringAddr { index: index.into(), flags: 0, desc: 0, used: 0, avail: 0, log: 0 };
        Self {
            index,
            size: 1,
            addresses,
            avail: 0,
            kick: None,
            call: Arc::default(),
            err: Arc::default(),
            busyloop: 0,
            device: None,
        }
    }

    /// Which way its frames go.
    pub fn half(index: u32) -> Half {
        if index == 0 { Half::Receive } else { Half::Transmit }
    }

    pub fn is_running(&self) -> bool {
        self.device.is_some()
    }

    fn check_stopped(&self) -> Result<(), NetError> {
        if self.is_running() { Err(NetError::Running) } else { Ok(()) }
    }

    pub fn set_size(&mut self, size: u32) -> Result<(), NetError> {
        self.check_stopped()?;
        let fits = u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE);
        self.size = fits.ok_or(NetError::Size { size, max: MAX_QUEUE_SIZE })?;
        Ok(())
    }

    pub fn set_base(&mut self, base: u32) -> Result<(), NetError> {
        self.check_stopped()?;
        self.avail = u16::try_from(base).map_err(|_| NetError::Base(base))?;
        Ok(())
    }

    /// Where the ring stands; one that runs is held for a moment.
    pub fn base(&mut self, common: &Common<'_>) -> Result<u16, NetError> {
        self.pause()?;
        self.resume(common)?;
        Ok(self.avail)
    }

    /// A running ring moves at once.
    pub fn set_addresses(&mut self, addresses: VringAddr, common: &Common<'_>) -> Result<(), NetError> {
        if self.is_running() {
            self.locate(&addresses, common.table).ok_or(NetError::Moved)?;
            self.pause()?;
        }
        self.addresses = addresses;
        self.resume(common)
    }

    pub fn set_kick(&mut self, kick: Option<EventFd>) {
        self.kick.clone_from(&kick);
        if let Some(device) = &mut self.device {
            device.set_kick(self.index, kick);
        }
    }

    /// Whether the ring is in `table`.
    pub fn is_in(&self, table: &Table) -> bool {
        self.locate(&self.addresses, table).is_some()
    }

    /// Size and guest-physical addresses, or `None` if an area is not in `table`.
    fn locate(&self, at: &VringAddr, table: &Table) -> Option<QueueConfig> {
        let [desc, driver, device] = QueueConfig::area_lens(self.size, false);
        Some(QueueConfig {
            size: self.size,
            desc: table.locate(at.desc, desc)?,
            driver: table.locate(at.avail, driver)?,
            device: table.locate(at.used, device)?,
        })
    }

    /// Whether the ring could run.
    pub fn check(&self, common: &Common<'_>) -> Result<(), NetError> {
        if !self.is_in(common.table) {
            Err(NetError::Outside)
        } else if !has_whole_header(common.features) {
            Err(NetError::ShortHeader)
        } else {
            Ok(())
        }
    }

    /// What becomes of writes to the used ring.
    pub fn log(&self, table: &Table) -> RingLog {
        let logged = self.addresses.flags & VHOST_VRING_F_LOG != 0;
        match self.locate(&self.addresses, table).filter(|_| logged) {
            Some(config) => {
                RingLog::At(LoggedRing { first: config.device, len: self.used_len(), log: self.addresses.log })
            }
            None => RingLog::Unlogged,
        }
    }

    /// The last address that the log must have for a ring at `addresses`.
    pub fn last_logged(&self, addresses: &VringAddr) -> u64 {
        if addresses.flags & VHOST_VRING_F_LOG == 0 { 0 } else { addresses.log.saturating_add(self.used_len() - 1) }
    }

    pub fn addresses(&self) -> &VringAddr {
        &self.addresses
    }

    fn used_len(&self) -> u64 {
        let [_, _, device] = QueueConfig::area_lens(self.size, false);
        device
    }

    /// Gives the ring a back end, and with it runs it.
    pub fn attach(&mut self, tap: GivenTap, name: &str, common: &Common<'_>) -> Result<(), NetError> {
        self.check(common)?;
        let device = network_device(tap, name, &self.err, common)?;
        self.detach()?;
        self.device = Some(device);
        self.resume(common)
    }

    /// Takes the back end away. When this returns the ring is left alone.
    pub fn detach(&mut self) -> Result<(), NetError> {
        let stopped = self.pause();
        self.device = None;
        stopped
    }

    /// Stops a running ring for a moment. One that cannot be stopped has no back end any more.
    pub fn pause(&mut self) -> Result<(), NetError> {
        let Some(device) = &mut self.device else { return Ok(()) };
        match device.stop_queue(self.index) {
            Ok(Some(QueueState::Split { avail })) => self.avail = avail,
            Ok(_) => {}
            Err(refusal) => {
                self.device = None;
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    /// Ends a pause. A ring that cannot run has no back end any more.
    pub fn resume(&mut self, common: &Common<'_>) -> Result<(), NetError> {
        let resumed = self.start(common);
        if resumed.is_err() {
            self.device = None;
        }
        resumed
    }

    fn start(&mut self, common: &Common<'_>) -> Result<(), NetError> {
        if !self.is_running() {
            return Ok(());
        }
        let config = self.locate(&self.addresses, common.table).ok_or(NetError::Outside)?;
        let start = QueueStart {
            config,
            state: QueueState::Split { avail: self.avail },
            features: common.features,
            space: Arc::clone(common.table.space()),
            ring_space: Arc::clone(common.table.space()),
            asid: 0,
            ring_asid: 0,
            kick: self.kick.clone(),
            doorbell: None,
            call: Arc::clone(&self.call),
            err: Arc::clone(&self.err),
            dirty: Arc::clone(common.dirty),
        };
        if let Some(device) = &mut self.device {
            device.start_queue(self.index, start)?;
        }
        Ok(())
    }
}

/// The device of one ring. Its configuration space is nobody's: the VMM has its own.
fn network_device(
    tap: GivenTap,
    name: &str,
    err: &Arc<CallSlot>,
    common: &Common<'_>,
) -> Result<NetDevice<TapPort<GivenTap>>, NetError> {
    let link = DeviceLink::new(name);
    let (err, place) = (Arc::clone(err), Arc::clone(common.place));
    // Whatever stops the ring: there is no status byte to show it.
    link.observe(move || {
        // The thread has the link until it ends, and the place with it.
        let _held = &place;
        if let Err(errno) = err.signal() {
            tracing::debug!(%errno, "error notifier");
        }
    });
    let link_state = Arc::new(LinkState::new(link.clone()));
    // The interface knows the MTU and drops what is longer.
    let (mac, queue_size) = (Mac::from([0; 6]), MAX_QUEUE_SIZE);
    let parameters = NetParameters {
        mac,
        mtu: u16::MAX,
        pairs: 1,
        queue_size,
        features: 0,
        ring_group: false,
        speed: None,
        duplex: None,
        doorbell: Doorbell::EventFd,
    };
    Ok(NetDevice::new(&parameters, link, link_state, vec![TapPort::new(tap)], Box::new(()), common.pool)?)
}
