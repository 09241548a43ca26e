//! The other side of a queue, for tests: memory, and a driver that can do everything right and everything wrong.

mod driver;
mod memory;
mod packed;
mod split;

pub use driver::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Driver, Interrupts};
pub use memory::{DriverMemory, Private, Ram, Window, map};
pub use packed::{DESC_AVAIL, DESC_USED, PackedDesc};
pub use split::Desc;
