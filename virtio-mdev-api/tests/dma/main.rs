//! What the DMA address space promises to those who map, those who follow, and those who read.

mod access;
mod guest_memory;
mod log;
mod mapping;
mod memory;
mod miss;
mod model;
mod replace;
mod subscribers;
mod unmap;

use std::sync::Arc;
use virtio_mdev_api::dma::{AddressSpace, Reader, StallHandler};

const PAGE: u64 = 4096;

/// A reader that does not stall.
fn reader(space: &Arc<AddressSpace>) -> Reader {
    space.reader("reader", Arc::new(|name: &str| assert_eq!(name, "", "stalled")) as Arc<dyn StallHandler>)
}
