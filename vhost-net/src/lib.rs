//! `/dev/vhost-net` in user space: every open is a network device of its own, on the TAP interface its client gives it.
//!
//! Numbers, layouts and rules are those of the kernel's vhost-net, and a VMM that asks for that works with this. What is
//! different: the client's memory is reached as for any device here, so that nothing a guest writes into its rings can
//! harm more than its own device.
//!
//! There is no status byte. A ring runs from the moment it has a back end to the moment it has none, on a thread of its
//! own; the two rings know nothing of each other.

mod error;
mod features;
mod file;
mod log;
mod memory;
mod node;
mod ring;
mod serve;
mod state;

pub use file::VhostNetFile;
pub use node::{DEVICES_PER_USER, VhostNet};
