//! The locks and atomics of the model checker, as those who use them know them.

pub use crate::kernel::EventFd;
pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::cell::Cell;
use std::fmt;
use std::ops::{Add, Deref, DerefMut};
use std::time::Duration;

/// The checker's macro knows no constants.
macro_rules! per_thread {
    ($(static $name:ident: $type:ty = const { $value:expr };)*) => {
        loom::thread_local! { $(static $name: $type = $value;)* }
    };
}
pub(crate) use per_thread as thread_local;

std::thread_local! {
    /// Fences do nothing: an error that is planted.
    static UNFENCED: Cell<bool> = const { Cell::new(false) };
}

/// Whether fences do nothing in this test.
pub fn unfence(unfenced: bool) {
    UNFENCED.set(unfenced);
}

pub fn fence(order: Ordering) {
    if !UNFENCED.get() {
        loom::sync::atomic::fence(order);
    }
}

#[derive(Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

pub struct MutexGuard<'m, T>(loom::sync::MutexGuard<'m, T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock().unwrap())
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(MutexGuard)
    }

    /// As long as it takes: a model that waits in vain fails.
    pub fn try_lock_for(&self, _patience: Duration) -> Option<MutexGuard<'_, T>> {
        Some(self.lock())
    }
}

impl<T> MutexGuard<'_, T> {
    pub fn unlock_fair(guard: Self) {
        drop(guard);
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

/// A moment. No time passes in a model: who looks for work without finding some rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    pub fn now() -> Self {
        Self(Duration::ZERO)
    }

    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}
