//! The vhost file as its clients see it.

mod config;
mod device;
mod groups;
mod iotlb;
mod lab;
mod life;
mod log;
mod memory;
mod miss;
mod moving;
mod owner;
mod queues;
mod real_caller;
mod reset;
mod ring_state;
mod trace;
