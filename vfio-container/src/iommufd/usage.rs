//! What one user may have of what costs the daemon memory.

use super::error::IommufdError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Contexts of one user.
pub const CONTEXTS_PER_USER: usize = 256;
/// IOASes of one user, in all contexts.
pub const IOASES_PER_USER: usize = 1024;
/// Mappings of one user, in all IOASes: those of 16 that are full.
pub const MAPPINGS_PER_USER: usize = 16 * crate::MAX_MAPPINGS;

/// What one user has.
#[derive(Debug)]
pub(super) struct Usage {
    uid: u32,
    contexts: AtomicUsize,
    ioases: AtomicUsize,
    mappings: AtomicUsize,
}

impl Usage {
    pub fn new(uid: u32) -> Self {
        Self { uid, contexts: AtomicUsize::new(0), ioases: AtomicUsize::new(0), mappings: AtomicUsize::new(0) }
    }

    pub fn take_context(&self) -> Result<(), IommufdError> {
        let (uid, max) = (self.uid, CONTEXTS_PER_USER);
        if take(&self.contexts, 1, max) { Ok(()) } else { Err(IommufdError::TooManyOpen { uid, max }) }
    }

    pub fn give_context(&self) {
        self.contexts.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn take_ioas(&self) -> Result<(), IommufdError> {
        let (uid, max) = (self.uid, IOASES_PER_USER);
        if take(&self.ioases, 1, max) { Ok(()) } else { Err(IommufdError::Quota { uid, max, what: "IOASes" }) }
    }

    pub fn give_ioas(&self) {
        self.ioases.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn take_mappings(&self, count: usize) -> Result<(), IommufdError> {
        let (uid, max) = (self.uid, MAPPINGS_PER_USER);
        if take(&self.mappings, count, max) { Ok(()) } else { Err(IommufdError::Quota { uid, max, what: "mappings" }) }
    }

    pub fn give_mappings(&self, count: usize) {
        self.mappings.fetch_sub(count, Ordering::AcqRel);
    }
}

fn take(held: &AtomicUsize, count: usize, max: usize) -> bool {
    let more = |held: usize| held.checked_add(count).filter(|&held| held <= max);
    held.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
}
