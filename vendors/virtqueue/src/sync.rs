//! What those files stand on that a model checker runs (`tests/loom`): it has its own of each.

pub use parking_lot::{Mutex, MutexGuard};
pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub use std::thread_local;
pub use std::time::Instant;
pub use virtio_mdev_api::notify::EventFd;
