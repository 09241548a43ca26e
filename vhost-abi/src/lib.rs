//! The vhost ABI (`linux/vhost.h`, `linux/vhost_types.h`): numbers, structures and IOTLB messages. No I/O, no policy beyond who may use a command.

pub mod command;
pub mod feature;
mod message;
mod wire;

pub use message::{
    MESSAGE_SIZE, Message, MessageError, Request, VHOST_IOTLB_BATCH_BEGIN, VHOST_IOTLB_BATCH_END,
    VHOST_IOTLB_INVALIDATE, VHOST_IOTLB_MISS, VHOST_IOTLB_UPDATE, Version,
};
pub use wire::{ConfigRange, IovaRange, MemoryRegion, MemoryTable, VringAddr, VringFile, VringState};
