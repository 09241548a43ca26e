//! The orders three files stand on, checked in every interleaving: the files themselves, on the model checker's atomics.

mod dirty;
#[path = "doorbell.rs"]
mod doorbell_model;
mod quiesce_model;

mod sync {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
}

#[path = "../../src/dma/quiesce.rs"]
#[allow(dead_code)] // Not every function is in the model.
mod quiesce;

#[path = "../../src/dirty/word.rs"]
mod word;

#[path = "../../src/doorbell/word.rs"]
mod doorbell;
