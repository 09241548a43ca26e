//! What the virtio-net parents share (virtio 1.3 §5.1): configuration space, header, and the way of frames between a
//! queue pair and what is behind it.
//!
//! A parent implements [`Port`] and gets a whole device with [`NetDevice`].

mod config;
mod control;
mod device;
pub mod features;
mod filter;
mod hash;
pub mod header;
mod lane;
mod mac;
mod outgoing;
mod pair;
mod parameters;
mod port;
mod receiver;
mod rss;
mod seats;
mod service;
mod state;
mod stats;
#[cfg(feature = "testing")]
pub mod testing;

pub use config::{CONFIG_SIZE, LinkState};
pub use device::{NetDevice, VIRTIO_ID_NET};
pub use header::{HEADER, is_valid};
pub use lane::{Lane, Lanes};
pub use mac::Mac;
pub use outgoing::Outgoing;
pub use pair::MAX_FRAME;
pub use parameters::{DEFAULT_MTU, Doorbell, Duplex, MAX_PAIRS, MAX_QUEUE_SIZE, MIN_MTU, NetParameters, Offer};
pub use port::{Controls, Port, Sent};
pub use receiver::{Delivery, Receiver};
pub use seats::{Seat, Seats};
pub use stats::{Counter, RxStatistics, Statistics, TxStatistics};
// Ports are called within its bursts.
pub use virtqueue::{Halt, Interest, Next};
// Who serves them.
pub use virtqueue::{Pool, PoolOptions};
