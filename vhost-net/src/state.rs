//! What changes while a file is open.

use crate::error::NetError;
use crate::log::{Bitmap, LogState};
use crate::memory::Table;
use crate::node::Place;
use crate::ring::{Common, RINGS, Ring};
use std::sync::Arc;
use vfio_container::Home;
use vhost_abi::feature::VHOST_F_LOG_ALL;
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_net::{Pool, PoolOptions};

/// A device, from its open or the last RESET_OWNER on.
pub(crate) struct State {
    pub owner: Option<Home>,
    /// How many owners there were: a call that was let in by one is not for the next.
    pub owners: u64,
    pub features: u64,
    pub backend_features: u64,
    pub table: Table,
    pub dirty: Arc<DirtyRecord>,
    pub log: LogState,
    rings: [Ring; RINGS],
    place: Arc<Place>,
    pool: Arc<Pool>,
}

impl State {
    pub fn new(owners: u64, place: Arc<Place>) -> Self {
        Self {
            owner: None,
            owners,
            features: 0,
            backend_features: 0,
            table: Table::empty(),
            dirty: DirtyRecord::new(),
            log: LogState::default(),
            rings: [Ring::new(0), Ring::new(1)],
            place,
            pool: Pool::new("vhost-net", PoolOptions::default()),
        }
    }

    /// As it is after an open. No ring runs after this.
    pub fn reset(&mut self) -> Result<(), NetError> {
        let stopped = self.stop();
        *self = Self::new(self.owners + 1, Arc::clone(&self.place));
        stopped
    }

    /// EBUSY while a thread that its client holds up has not ended: a device has one a ring and no more.
    pub fn check_threads(&self) -> Result<(), NetError> {
        let running = self.rings.iter().filter(|ring| ring.is_running()).count();
        if Arc::strong_count(&self.place) > 1 + running { Err(NetError::Stuck) } else { Ok(()) }
    }

    /// A ring, and what it shares with the other.
    pub fn ring(&mut self, index: u32) -> Result<(&mut Ring, Common<'_>), NetError> {
        let (rings, common) = self.split();
        let ring = usize::try_from(index).ok().and_then(|index| rings.get_mut(index));
        Ok((ring.ok_or(NetError::NoSuchRing(index))?, common))
    }

    /// How the device is called in the log.
    pub fn name(&self) -> String {
        let pid = self.owner.as_ref().map_or(0, Home::pid);
        format!("vhost-net of process {pid}")
    }

    /// Replaces the memory table; rings that run go on in the new one. `bitmap` is the log that has a bit for all of it.
    pub fn set_table(&mut self, table: Table, bitmap: Option<Bitmap>) -> Result<(), NetError> {
        if self.rings.iter().any(|ring| ring.is_running() && !ring.is_in(&table)) {
            return Err(NetError::Outside);
        }
        // The old table goes when nobody works in it.
        let paused = self.pause();
        self.table = table;
        let logged = self.use_log(bitmap);
        paused.and(logged).and(self.resume())
    }

    /// Replaces the features; rings that run go on with them.
    pub fn set_features(&mut self, features: u64, bitmap: Option<Bitmap>) -> Result<(), NetError> {
        if self.rings.iter().any(Ring::is_running) {
            if !crate::features::may_change(self.features, features) {
                return Err(NetError::Running);
            }
            self.check_log(features)?;
        }
        if (features ^ self.features) & !VHOST_F_LOG_ALL == 0 {
            self.features = features;
            return self.use_log(bitmap);
        }
        let paused = self.pause();
        self.features = features;
        let logged = self.use_log(bitmap);
        paused.and(logged).and(self.resume())
    }

    /// Whether a ring may run with `features`: what it writes must not be lost to a log. Before, QEMU asks for a log first
    /// and says where it is last.
    pub fn check_log(&self, features: u64) -> Result<(), NetError> {
        if features & VHOST_F_LOG_ALL != 0 && self.log.base.is_none() { Err(NetError::NoLog) } else { Ok(()) }
    }

    /// Logs what the features say, to `bitmap` if that is another.
    pub fn use_log(&mut self, bitmap: Option<Bitmap>) -> Result<(), NetError> {
        if self.features & VHOST_F_LOG_ALL == 0 || self.log.base.is_none() {
            self.log.end();
            return Ok(());
        }
        // The log may have moved since the bitmap was looked for.
        if let Some(bitmap) = bitmap.filter(|bitmap| self.log.base == Some(bitmap.base)) {
            self.log.bitmap = bitmap.regions;
        }
        let rings = self.rings.iter().map(|ring| ring.log(&self.table)).collect();
        self.log.begin(&self.dirty, rings)
    }

    /// The last address that the log must have a bit for.
    pub fn last_logged(&self) -> u64 {
        let rings = self.rings.iter().map(|ring| ring.last_logged(ring.addresses()));
        rings.fold(self.table.last(), u64::max)
    }

    fn pause(&mut self) -> Result<(), NetError> {
        each(&mut self.rings, Ring::pause)
    }

    fn resume(&mut self) -> Result<(), NetError> {
        let (rings, common) = self.split();
        each(rings, |ring| ring.resume(&common))
    }

    /// The rings, and what they share.
    fn split(&mut self) -> (&mut [Ring], Common<'_>) {
        let common = Common {
            features: self.features,
            table: &self.table,
            dirty: &self.dirty,
            place: &self.place,
            pool: &self.pool,
        };
        (&mut self.rings, common)
    }

    /// No ring runs after this.
    pub fn stop(&mut self) -> Result<(), NetError> {
        each(&mut self.rings, Ring::detach)
    }
}

/// Does it to every ring, whatever comes of it, and says what went wrong first.
fn each(rings: &mut [Ring], work: impl Fn(&mut Ring) -> Result<(), NetError>) -> Result<(), NetError> {
    rings.iter_mut().map(work).fold(Ok(()), Result::and)
}
