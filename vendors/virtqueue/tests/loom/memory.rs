//! Memory that one thread touches at a time.
#![allow(unsafe_code)] // UNSAFETY: the checker's cell may be shared; telling who does so wrongly is what it is for.

use loom::cell::UnsafeCell;

/// The checker fails where two touch it and neither comes before the other.
#[derive(Default)]
pub struct Memory(UnsafeCell<()>);

// SAFETY: there is nothing in it.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn touch(&self) {
        self.0.with_mut(|_| ());
    }
}
