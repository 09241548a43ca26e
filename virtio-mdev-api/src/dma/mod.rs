//! The DMA address space a device is given.
//!
//! An [`AddressSpace`] is a table of [`Region`]s. Whoever owns the mappings (a VFIO container, a vhost file) changes it;
//! [`Subscriber`]s vote on changes and follow them; every queue thread has a [`Reader`] and works in [`Burst`]s, during
//! which nothing it found goes away:
//!
//! ```
//! # use virtio_mdev_api::dma::*;
//! # use std::sync::Arc;
//! let space = AddressSpace::new(Limits::default());
//! let mut reader = space.reader("queue 0", Arc::new(|name: &str| eprintln!("{name} is broken")));
//! let burst = reader.enter();
//! let memory = burst.view();
//! assert!(matches!(memory.lookup(0x1000, 16, Permissions::READ), Lookup::Fault));
//! ```

mod error;
mod guest_memory;
mod held;
mod limits;
mod local;
mod memory;
mod miss;
mod quiesce;
mod reader;
mod region;
mod snapshot;
mod space;
mod subscribe;
mod tree;
mod view;

/// What `quiesce` is built on.
mod sync {
    pub use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
}

pub use error::{AccessError, MapError};
pub use held::Held;
pub use limits::Limits;
pub use local::{LINE, Local};
pub use memory::{Backing, RemoteMemory, SharedMemory};
pub use miss::MissHandler;
pub use reader::{Burst, Lease, Reader, StallHandler};
pub use region::{Permissions, Region, RegionInfo};
pub use snapshot::Snapshot;
pub use space::{AddressSpace, DEFAULT_PATIENCE, Unmapped};
pub use subscribe::{Subscriber, SubscriptionGuard};
pub use view::{Lookup, Piece, Pieces, View};
