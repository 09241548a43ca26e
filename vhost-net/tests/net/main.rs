//! The vhost-net file, driven by a client made of plain memory. Those that give it an interface need root.

mod calls;
mod lab;
mod log;
mod owner;
mod rings;
mod table;
