//! The other side of a queue, for tests: memory, and a driver that can do everything right and everything wrong.

mod driver;
mod memory;

pub use driver::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, Driver};
pub use memory::{Private, Ram, Window, map};
