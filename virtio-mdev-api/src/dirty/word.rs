//! The order between writing a page, marking it, clearing the mark and copying the page.
//!
//! A source writes, then finds the bit set and leaves it alone; a consumer clears the bit, then copies. A full fence
//! between the two steps on both sides: either the source sees the bit cleared and sets it again, or the consumer copies
//! what the source wrote.

use super::sync::{AtomicU64, Ordering, fence};

/// To be called after writing pages and before marking them.
pub fn written() {
    fence(Ordering::SeqCst);
}

/// Sets bits; an unchanged word is not written to, so that sources that write the same page do not contend.
pub fn set(word: &AtomicU64, mask: u64) {
    if word.load(Ordering::Relaxed) & mask != mask {
        word.fetch_or(mask, Ordering::Release);
    }
}

/// Clears bits and returns those that were set.
pub fn take(word: &AtomicU64, mask: u64) -> u64 {
    if word.load(Ordering::Relaxed) & mask == 0 {
        return 0;
    }
    word.fetch_and(!mask, Ordering::Acquire) & mask
}

/// To be called after taking bits and before copying pages.
pub fn taken() {
    fence(Ordering::SeqCst);
}
