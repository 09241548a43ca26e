//! Addresses somebody was asked to map.

use super::Permissions;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Whoever fills an address space on demand (a virtual IOMMU, VDUSE).
pub trait MissHandler: Send + Sync {
    /// A device needs `access` to `iova`, where nothing is mapped. Called on a queue's thread: note it down, never block.
    /// Not called again for the same page until something is mapped or unmapped there, unless the answer is false: then
    /// the device asks again as soon as it looks again.
    fn miss(&self, iova: u64, access: Permissions) -> bool;

    /// Something was mapped or unmapped in `first..=last`: what was asked for there is obsolete.
    fn obsolete(&self, _first: u64, _last: u64) {}
}

const PAGE: u64 = 4096;
/// A handler that answers nothing costs this much memory; beyond it, it may be asked again.
const MAX_TOLD: usize = 4096;

pub(super) struct Misses {
    handler: Arc<dyn MissHandler>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    pages: BTreeSet<(u64, Permissions)>,
    /// The newest version in which something is mapped.
    mapped_in: u64,
}

impl Misses {
    pub fn new(handler: Arc<dyn MissHandler>) -> Self {
        Self { handler, told: Mutex::default() }
    }

    /// A reader of version `generation` found nothing at `iova`.
    #[cold]
    pub fn report(&self, iova: u64, access: Permissions, generation: u64) {
        {
            let mut told = self.told.lock();
            // Something is mapped since; the reader looks again before anybody is asked. Noting its page down now
            // could keep a later, real miss from being told.
            if generation < told.mapped_in {
                return;
            }
            if told.pages.len() >= MAX_TOLD {
                told.pages.clear();
            }
            if !told.pages.insert((iova / PAGE, access)) {
                return;
            }
        }
        if !self.handler.miss(iova, access) {
            self.told.lock().pages.remove(&(iova / PAGE, access));
        }
    }

    /// `first..=last` is mapped in version `generation`, which is published next.
    pub fn answered(&self, first: u64, last: u64, generation: u64) {
        self.told.lock().mapped_in = generation;
        self.forget(first, last);
    }

    /// What was asked for in `first..=last` is obsolete; devices that still need it ask again. Whether there was any.
    pub fn forget(&self, first: u64, last: u64) -> bool {
        self.handler.obsolete(first, last);
        let mut told = self.told.lock();
        let (first, last) = ((first / PAGE, Permissions::empty()), (last / PAGE, Permissions::all()));
        let done: Vec<_> = told.pages.range(first..=last).copied().collect();
        let any = !done.is_empty();
        for page in done {
            told.pages.remove(&page);
        }
        any
    }
}

impl fmt::Debug for Misses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Misses").finish_non_exhaustive()
    }
}
