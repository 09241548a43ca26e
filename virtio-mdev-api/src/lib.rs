//! The contract between a mediated virtio device and everything that drives it.
//!
//! A vendor implements [`Parent`] and [`VirtioMdev`]. What stands between them and a client (which status transitions
//! are legal, when a queue starts, which memory it may touch) is here too, once, so that no front end and no vendor
//! repeats it: [`Session`] enforces the rules, [`dma::AddressSpace`] is the memory, [`Guarded`] runs vendor code under
//! a deadline.

pub mod dirty;
pub mod dma;
mod error;

pub use error::{HasErrno, Refusal};
