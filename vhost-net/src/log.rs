//! The dirty log, by guest-physical address: `VHOST_SET_LOG_BASE`, `VHOST_SET_LOG_FD`, `VHOST_F_LOG_ALL`,
//! `VHOST_VRING_F_LOG`.

use crate::VhostNetFile;
use crate::error::NetError;
use crate::file::Permit;
use crate::state::State;
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::{Client, log_bitmap};
use vhost_abi::feature::VHOST_F_LOG_ALL;
use virtio_mdev_api::dirty::{DirtyRecord, Log, LogSetup, RingLog, SinkGuard};
use virtio_mdev_api::dma::Region;
use virtio_mdev_api::notify::CallSlot;

/// The log as the client set it up.
#[derive(Default)]
pub(crate) struct LogState {
    /// Where the client has its bitmap.
    pub base: Option<u64>,
    /// That memory, as far as it is needed. Nothing while nothing is logged.
    pub bitmap: Vec<Region>,
    pub notify: Arc<CallSlot>,
    sink: Option<SinkGuard>,
}

/// The client's bitmap at `base`, as far as it was needed when it was looked for.
pub(crate) struct Bitmap {
    pub base: u64,
    pub regions: Vec<Region>,
}

impl LogState {
    /// From now on, what is written is logged; used rings as `rings` says.
    pub fn begin(&mut self, dirty: &Arc<DirtyRecord>, rings: Vec<RingLog>) -> Result<(), NetError> {
        let (bitmap, notify) = (self.bitmap.clone(), Arc::clone(&self.notify));
        let log = Log::new(LogSetup { bitmap, rings, notify }).map_err(|_| Errno::EFAULT)?;
        // The new one listens before the old one stops.
        self.sink = Some(dirty.add_sink(log));
        Ok(())
    }

    /// Nothing is logged any more. The old log gets its last bit before this returns.
    pub fn end(&mut self) {
        self.sink = None;
        self.bitmap.clear();
    }
}

impl VhostNetFile {
    pub(crate) fn set_log_base(&self, client: &dyn Client, permit: Permit, base: u64) -> Result<(), NetError> {
        let logs = self.permitted(permit)?.features & VHOST_F_LOG_ALL != 0;
        let bitmap = if logs { self.bitmap(client, permit, Some(base), State::last_logged)? } else { None };
        let mut state = self.permitted(permit)?;
        state.log.base = Some(base);
        state.use_log(bitmap)
    }

    /// Takes hold of the client's bitmap as far as the address that `last` says; there is none before the client says
    /// where. Looks into the client.
    ///
    /// What another thread of the client changes meanwhile may need more. Then the device stops at the first write that
    /// has no bit.
    pub(crate) fn bitmap(
        &self,
        client: &dyn Client,
        permit: Permit,
        base: Option<u64>,
        last: impl FnOnce(&State) -> u64,
    ) -> Result<Option<Bitmap>, NetError> {
        let (base, last) = {
            let state = self.permitted(permit)?;
            (base.or(state.log.base), last(&state))
        };
        let Some(base) = base else { return Ok(None) };
        Ok(Some(Bitmap { base, regions: log_bitmap(client, base, last)? }))
    }
}
