//! The DMA address space a device is given.

mod memory;

pub use memory::{Backing, RemoteMemory, SharedMemory};
