//! What all requests of a server share when they deal with callers.

use crate::caller::Spaces;
use crate::quota::{Limits, Quotas};
use crate::reaper::Reaper;
use crate::server::Handles;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

pub(crate) struct Host {
    /// Device number of our own mount.
    own: Option<(u32, u32)>,
    pub handles: Handles,
    pub quotas: Arc<Quotas>,
    pub reaper: Reaper,
    pub spaces: Spaces,
    /// Threads of ours that are asking our own mount something right now.
    asking: Mutex<HashSet<i32>>,
}

impl Host {
    pub fn new(own: Option<(u32, u32)>, limits: Limits) -> Self {
        Self {
            own,
            handles: Handles::default(),
            quotas: Arc::new(Quotas::new(limits)),
            reaper: Reaper::default(),
            spaces: Spaces::default(),
            asking: Mutex::default(),
        }
    }

    /// For a caller without a mount.
    pub fn detached() -> Arc<Self> {
        static DETACHED: OnceLock<Arc<Host>> = OnceLock::new();
        DETACHED.get_or_init(|| Arc::new(Self::new(None, Limits::default()))).clone()
    }

    pub fn is_own(&self, dev: (u32, u32)) -> bool {
        self.own == Some(dev)
    }

    /// Runs `ask`, whose requests to our own mount are recognised as ours.
    pub fn asking<T>(&self, ask: impl FnOnce() -> T) -> T {
        let tid = nix::unistd::gettid().as_raw();
        self.asking.lock().insert(tid);
        let answer = ask();
        self.asking.lock().remove(&tid);
        answer
    }

    /// Whether thread `tid` is one of ours and asks.
    pub fn is_asking(&self, tid: i32) -> bool {
        self.asking.lock().contains(&tid)
    }
}
