//! The software ring engine the vendor parents share: the device's side of virtqueues, split and packed (virtio
//! 1.3 §2.7, §2.8).
//!
//! A [`Queue`] is worked on in bursts, during which nothing that is mapped goes away. Descriptors are copied once into a
//! private array and checked there; whatever is wrong with a ring is a [`RingError`], and stops the device with
//! DEVICE_NEEDS_RESET until it is reset. What is not mapped *yet* parks the queue without consuming the chain.
//!
//! A [`Task`] is some queues that are served together, by one thread at a time; its [`Service`] says what is done with
//! them. A device is a set of tasks, and each of its queues has a [`Slot`] while it runs.
//!
//! What a driver does wrong and a device may ignore is ignored: any value of `used_event` and `avail_event` (they are
//! hints, virtio 1.3 §2.7.7 and §2.7.10: the worst that comes of a wrong one is a notification more or less), the write
//! flag of an indirect descriptor (§2.7.5.3.2), a *readable* buffer that overlaps the ring (what was read of the ring is
//! a copy), unmapped memory that no chain uses. A ring that the client unmaps while it is in use is waited for: clients
//! do that before they reset a device.

mod area;
mod batch;
mod budget;
mod chain;
mod end;
mod error;
mod events;
mod health;
mod host;
mod io;
mod layout;
mod moderation;
mod packed;
mod pool;
mod queue;
mod ring;
mod served;
mod service;
mod slot;
mod split;
mod sync;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod thread;
mod waiting;
mod waker;
mod watch;
mod watched;

pub use chain::{Buffer, Chain};
pub use error::{Cause, Halt, Part, RingError};
pub use health::Health;
pub use io::Io;
pub use moderation::{Moderation, Patience};
pub use pool::{Pool, PoolOptions};
pub use queue::Queue;
pub use service::{Interest, Next, Service, WorkerError};
pub use slot::Slot;
pub use task::Task;
pub use waker::Waker;

/// How long control waits for a thread: less than a vendor's call may take.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(4);
