//! The umdev daemon, as a library: a vendor's own daemon is a few lines.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! # fn my_parent() -> Arc<dyn virtio_mdev_api::Parent> { unimplemented_parent() }
//! # fn unimplemented_parent() -> Arc<dyn virtio_mdev_api::Parent> { Arc::new(loopback::Loopback::new("x", 1)) }
//! fn main() -> Result<(), umdevd::DaemonError> {
//!     umdevd::Daemon::builder("/run/umdev").parent("board0", my_parent()).start()?.run()
//! }
//! ```

pub mod config;
mod daemon;
mod drivers;
mod error;
mod kinds;
mod lock;
mod ready;
mod socket;
mod state;
mod tree;

pub use daemon::{Builder, Daemon};
pub use error::DaemonError;
pub use kinds::{default_parents, kinds, make_parent};
