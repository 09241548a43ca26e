//! The FUSE protocol: its structures, and requests decoded from bytes by pure functions.

pub(crate) mod abi;
mod decode;
mod reply;

pub(crate) use decode::{Op, Request, decode};
pub(crate) use reply::{Answer, directory_entry, errno_on_the_wire};
