//! The orders two files stand on, checked in every interleaving: the files themselves, on the model checker's atomics.

mod dirty;
mod quiesce_model;

mod sync {
    pub use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
}

#[path = "../../src/dma/quiesce.rs"]
#[allow(dead_code)] // Not every function is in the model.
mod quiesce;

#[path = "../../src/dirty/word.rs"]
mod word;
