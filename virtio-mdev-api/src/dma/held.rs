//! Buffers in place.

use super::Local;
use std::sync::atomic::{AtomicU32, Ordering};

/// A stretch of one region in place, and whether that is still the client's.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    memory: Local<'a>,
    faults: &'a AtomicU32,
}

impl<'a> Held<'a> {
    pub(super) fn new(memory: Local<'a>, faults: &'a AtomicU32) -> Self {
        Self { memory, faults }
    }

    /// What is there.
    #[inline]
    pub fn memory(self) -> Local<'a> {
        self.memory
    }

    /// Whether what was read from it until now was the client's: memory that a client takes away by truncating the file
    /// behind it reads as zeros.
    #[inline]
    pub fn is_kept(self) -> bool {
        self.faults.load(Ordering::Acquire) == 0
    }

    /// `len` bytes from `offset` on; `None` if they are not all in it.
    #[inline]
    pub fn part(self, offset: usize, len: usize) -> Option<Self> {
        Some(Self { memory: self.memory.part(offset, len)?, ..self })
    }
}
