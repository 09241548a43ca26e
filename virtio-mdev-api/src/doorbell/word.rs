//! The order between making a chain available, ringing, taking the ring and looking.
//!
//! A driver stores its index, then rings. The device exchanges the word, then looks: either the exchange finds what the driver
//! stored, and the index with it, or the ring comes after the exchange and is found by the next one. A load and a store in
//! its place would take back a ring that came between the two.

use super::sync::{AtomicU32, Ordering};

/// Nobody rang. No queue has this number.
const SILENT: u32 = u32::MAX;

/// Whether somebody rang.
pub fn is_rung(word: &AtomicU32) -> bool {
    word.load(Ordering::Relaxed) != SILENT
}

/// Whether somebody rang, which is forgotten.
pub fn take(word: &AtomicU32) -> bool {
    is_rung(word) && word.swap(SILENT, Ordering::Acquire) != SILENT
}
