//! The atomics that files use which the model checker reads as well.

pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
