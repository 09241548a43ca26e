//! The dirty log of an open file: `VHOST_SET_LOG_BASE`, `VHOST_SET_LOG_FD`, `VHOST_F_LOG_ALL`, `VHOST_VRING_F_LOG`.
//!
//! The log is by IOVA. It covers all that is mapped, in whatever address space, and the logged rings; a map that it does
//! not cover is refused.

use crate::VhostFile;
use crate::error::VhostError;
use crate::file::State;
use devnode::IoctlReply;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_container::{Attachment, Client, log_bitmap};
use vhost_abi::feature::VHOST_F_LOG_ALL;
use virtio_mdev_api::dirty::{Log, LogSetup, LoggedRing, RingLog, SinkGuard, log_len};
use virtio_mdev_api::dma::Region;
use virtio_mdev_api::features::VIRTIO_F_RING_PACKED;
use virtio_mdev_api::notify::{CallSlot, EventFd};
use virtio_mdev_api::{QueueConfig, Session, SessionError, Status};

/// The log as the client set it up.
#[derive(Default)]
pub(crate) struct LogState {
    /// Where the client has its bitmap.
    base: Option<u64>,
    /// That memory, as far as it is needed.
    bitmap: Vec<Region>,
    /// `VHOST_F_LOG_ALL` is accepted.
    all: bool,
    notify: Arc<CallSlot>,
    /// `log_guest_addr` of the queues with `VHOST_VRING_F_LOG`.
    rings: BTreeMap<usize, u64>,
    sink: Option<SinkGuard>,
}

impl LogState {
    /// Whether the log has a bit for the page of `last`.
    fn covers(&self, last: u64) -> bool {
        self.bitmap.last().is_some_and(|region| region.last() >= log_len(last) - 1)
    }

    /// The last address that the log must have a bit for.
    fn needed(&self, highest: Option<u64>, session: &Session) -> Result<Option<u64>, VhostError> {
        let mut last = highest;
        for (index, ring) in self.logged_rings(session)? {
            last = last.max(Some(ring.last_logged().ok_or(VhostError::LogRange { index })?));
        }
        Ok(last)
    }

    fn logged_rings(&self, session: &Session) -> Result<Vec<(usize, LoggedRing)>, VhostError> {
        let packed = session.features()? & VIRTIO_F_RING_PACKED != 0;
        let configs = session.queue_configs()?;
        let logged = |(&index, &log): (&usize, &u64)| {
            let QueueConfig { size, device, .. } = *configs.get(index)?;
            let [_, _, len] = QueueConfig::area_lens(size, packed);
            Some((index, LoggedRing { first: device, len, log }))
        };
        Ok(self.rings.iter().filter_map(logged).collect())
    }

    /// Puts what changed in force. The old log gets its last bit before this returns.
    fn apply(&mut self, session: &Session) -> Result<(), VhostError> {
        let sink = if self.all && self.base.is_some() {
            let mut rings = vec![RingLog::Unlogged; session.info().queues.len()];
            for (index, ring) in self.logged_rings(session)? {
                rings[index] = RingLog::At(ring);
            }
            let (bitmap, notify) = (self.bitmap.clone(), Arc::clone(&self.notify));
            let log = Log::new(LogSetup { bitmap, rings, notify }).map_err(|_| Errno::EFAULT)?;
            Some(session.dirty().add_sink(log))
        } else {
            None
        };
        // The new one listens before the old one stops.
        self.sink = sink;
        Ok(())
    }

    fn log_ring(&mut self, index: usize, log: Option<u64>) {
        match log {
            Some(log) => self.rings.insert(index, log),
            None => self.rings.remove(&index),
        };
    }

    /// The device was reset: nothing is logged before the feature is accepted anew.
    pub fn reset(&mut self) {
        self.all = false;
        self.rings.clear();
        self.sink = None;
    }
}

impl VhostFile {
    pub(crate) fn set_log_base(&self, client: &dyn Client, base: u64) -> Result<IoctlReply, VhostError> {
        self.cover(client, Some(base), None)?;
        Ok(IoctlReply::ok())
    }

    pub(crate) fn set_log_fd(&self, notify: Option<EventFd>) -> Result<IoctlReply, VhostError> {
        self.lock()?.log.notify.set(notify);
        Ok(IoctlReply::ok())
    }

    /// Accepts features and that of the log, which is no device's: it is not offered, and alone can change once the others
    /// are fixed.
    pub(crate) fn set_features(&self, client: &dyn Client, features: u64) -> Result<IoctlReply, VhostError> {
        let (all, features) = (features & VHOST_F_LOG_ALL != 0, features & !VHOST_F_LOG_ALL);
        if all {
            self.cover(client, None, None)?;
        }
        let mut state = self.lock()?;
        let session = self.session();
        let fixed = session.status()?.contains(Status::FEATURES_OK);
        if !fixed || all == state.log.all || session.features()? != features {
            session.set_features(features)?;
        }
        state.log.all = all;
        state.log.apply(session)?;
        Ok(IoctlReply::ok())
    }

    /// Makes room in the log for a map that ends with `last`.
    pub(crate) fn cover_map(&self, client: &dyn Client, last: u64) -> Result<(), VhostError> {
        let short = {
            let state = self.lock()?;
            state.log.base.is_some() && !state.log.covers(last)
        };
        if short { self.cover(client, None, Some(last)) } else { Ok(()) }
    }

    /// Makes room in the log for what a container holds that the device is going to use.
    pub(crate) fn cover_container(
        &self,
        client: &dyn Client,
        attachment: Option<&Attachment>,
    ) -> Result<(), VhostError> {
        let hold = attachment.and_then(|attachment| self.node.group().hold_in(attachment));
        let highest = hold.and_then(|hold| hold.space().highest());
        highest.map_or(Ok(()), |last| self.cover_map(client, last))
    }

    /// Sets the addresses of a ring (descriptor, driver and device area), and where the last one is in the log, if it is
    /// logged. That alone can change while the driver runs.
    pub(crate) fn set_ring(
        &self,
        client: &dyn Client,
        index: u32,
        addresses: [u64; 3],
        log: Option<u64>,
    ) -> Result<IoctlReply, VhostError> {
        let session = self.session();
        let at = usize::try_from(index).map_err(|_| SessionError::NoSuchQueue { index })?;
        let old = {
            let mut state = self.lock()?;
            let configs = session.queue_configs()?;
            let &QueueConfig { desc, driver, device, .. } =
                configs.get(at).ok_or(SessionError::NoSuchQueue { index })?;
            let old = state.log.rings.get(&at).copied();
            if old == log || addresses != [desc, driver, device] {
                let [desc, driver, device] = addresses;
                session.set_queue_addresses(index, desc, driver, device)?;
            }
            state.log.log_ring(at, log);
            old
        };
        self.log_rings(client).map_err(|_| {
            if let Ok(mut state) = self.lock() {
                state.log.log_ring(at, old);
            }
            VhostError::LogRange { index: at }
        })?;
        Ok(IoctlReply::ok())
    }

    /// Logs the rings as they are now, if anything is logged.
    pub(crate) fn log_rings(&self, client: &dyn Client) -> Result<(), VhostError> {
        let logs = {
            let state = self.lock()?;
            state.log.base.is_some() && state.log.all
        };
        if logs { self.cover(client, None, None) } else { Ok(()) }
    }

    /// Takes hold of the client's bitmap, which is at `moved` from now on or stays where it is, as long as all that is mapped
    /// and `more` need it. EFAULT when there is none, or the client has not that much memory there.
    fn cover(&self, client: &dyn Client, moved: Option<u64>, more: Option<u64>) -> Result<(), VhostError> {
        let session = self.session();
        let wanted = |state: &State| {
            let base = moved.or(state.log.base).ok_or(VhostError::NoLog)?;
            let last = state.log.needed(state.memory.highest().max(more), session)?;
            Ok::<_, VhostError>((base, last))
        };
        let (mut base, mut last) = wanted(&*self.lock()?)?;
        loop {
            // Looks into the client, so no lock is held, and another of its threads may move the log or need more of it.
            let bitmap = last.map_or(Ok(Vec::new()), |last| log_bitmap(client, base, last))?;
            let mut state = self.lock()?;
            let now = wanted(&state)?;
            if now.0 == base && now.1 <= last {
                (state.log.base, state.log.bitmap) = (Some(base), bitmap);
                return state.log.apply(session);
            }
            (base, last) = now;
        }
    }
}
