//! Device files and attributes, served by FUSE to callers that may be hostile.
//!
//! A [`Tree`] holds directories, links, [`Attribute`]s and [`DeviceNode`]s; a [`Server`] serves it on a `/dev/fuse`
//! descriptor. What a file does is its implementor's business; who called, what memory and descriptors the caller
//! handed over, and that no caller can block, crash or impersonate, is the business of this crate.

mod file;

pub use file::{Attribute, DeviceNode, Ioctl, IoctlReply, OpenFile, OpenFlags};
