//! The vhost ABI (`linux/vhost.h`, `linux/vhost_types.h`): numbers, structures and IOTLB messages. No I/O, no policy beyond who may use a command.

pub mod command;
mod message;
mod wire;

pub use message::{MESSAGE_SIZE, Message, MessageError, Request, Version};
pub use wire::{ConfigRange, IovaRange, MemoryRegion, MemoryTable, VringAddr, VringFile, VringState};
