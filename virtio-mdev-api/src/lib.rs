//! The contract between a mediated virtio device and everything that drives it.
//!
//! A vendor implements [`Parent`] and [`VirtioMdev`]. What stands between them and a client (which status transitions
//! are legal, when a queue starts, which memory it may touch) is here too, once, so that no front end and no vendor
//! repeats it: [`Session`] enforces the rules, [`dma::AddressSpace`] is the memory, [`Guarded`] runs vendor code under
//! a deadline. A device that is no virtio device is a [`vfio::VfioMdev`] instead.
#![doc = include_str!("worked_parent.md")]

mod device;
pub mod dirty;
pub mod dma;
pub mod doorbell;
mod error;
pub mod executor;
pub mod features;
mod link;
pub mod notify;
mod parameter;
mod parent;
mod queue;
mod session;
mod status;
pub mod vfio;
pub mod watchdog;

pub use device::{Capabilities, CreateRequest, Device, DeviceInfo, QueueInfo, VirtioMdev};
pub use error::{HasErrno, Refusal};
pub use executor::Guarded;
pub use link::DeviceLink;
pub use parameter::{ParameterSpec, Values};
pub use parent::{AttributeSpec, DmaModel, Parent, TypeInfo};
pub use queue::{QueueConfig, QueueStart, QueueState};
pub use session::{Condition, Engine, SavedQueue, SavedSession, Session, SessionError};
pub use status::{Status, StatusError, Transition};
