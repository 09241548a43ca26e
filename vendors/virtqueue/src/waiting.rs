//! Whether a thread may be kept waiting by the memory of a client.

use crate::sync::thread_local;
use std::cell::Cell;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// It serves one client alone, or is none of ours.
    May,
    /// It serves others too.
    Never,
    /// The same, and it met such memory.
    Refused,
}

thread_local! {
    static WAITING: Cell<Waiting> = const { Cell::new(Waiting::May) };
    static MET: Cell<bool> = const { Cell::new(false) };
}

/// This thread serves more than one client.
pub fn share() {
    WAITING.with(|waiting| waiting.set(Waiting::Never));
}

/// Whether this thread serves more than one client.
#[inline]
pub fn is_shared() -> bool {
    WAITING.with(Cell::get) != Waiting::May
}

/// This thread works on memory that may keep it waiting.
pub fn meet_slow() {
    MET.with(|met| met.set(true));
}

/// Whether it did since this was last asked.
pub fn met_slow() -> bool {
    MET.with(Cell::take)
}

/// Whether this thread may work on memory that may keep it waiting. Where it may not, it takes note of having been asked.
pub fn may_wait() -> bool {
    let may = WAITING.with(Cell::get) == Waiting::May;
    if !may {
        WAITING.with(|waiting| waiting.set(Waiting::Refused));
    }
    may
}

/// Whether such memory was met since this was last forgotten.
#[inline]
pub fn was_refused() -> bool {
    WAITING.with(Cell::get) == Waiting::Refused
}

/// Forgets it.
pub fn forget_refusal() {
    share();
}
