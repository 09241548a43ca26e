//! A client's memory: its map, windows onto the shared parts, and the way through the client for the rest.

mod map;
mod remote;
pub(crate) mod sigbus;
mod vma;
mod window;

pub use map::{MapAccess, Piece};
pub(crate) use map::{map, map_file};
pub(crate) use remote::read_exact_at;
pub(crate) use remote::write_all_at;
pub(crate) use vma::{Maps, Vma};
pub(crate) use window::Window;

/// Size of a page.
pub(crate) const PAGE: u64 = 4096;
