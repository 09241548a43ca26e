//! VFIO migration, version 2, and DMA logging: how a device moves to another one while its client copies the memory.

mod arcs;
pub(crate) mod feature;
mod format;
mod logging;
mod machine;
mod stream;

pub use arcs::State;
pub(crate) use format::StreamError;
pub(crate) use logging::DmaLog;
pub(crate) use machine::Machine;
pub use stream::DataStream;
