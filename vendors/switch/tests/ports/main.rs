//! Ports of a switch, driven as guests drive them.

mod crowd;
mod forwarding;
mod hashes;
mod hostile;
mod lab;
mod limits;
mod offloads;
mod reception;
mod vlans;
