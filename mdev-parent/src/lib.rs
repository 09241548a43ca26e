//! The mdev bus: parents, types, instances and the drivers bound to them.
//!
//! The bus knows the life of an instance and nothing of what a driver or a vendor does with it. No lock of the bus is
//! held while vendor code, a driver or a listener runs.

mod bus;
mod create;
mod driver;
mod error;
mod event;
mod instance;
mod parent;
mod remove;
#[cfg(test)]
mod tests;

pub use bus::{Bus, BusOptions, Listener};
pub use create::{CreateText, Owner, Restore};
pub use driver::{Binding, MdevDriver};
pub use error::BusError;
pub use event::{Event, EventKind};
pub use instance::{FIRST_GROUP, Instance, State};
pub use parent::{RegisteredParent, RegisteredType};
pub use remove::RemoveText;
