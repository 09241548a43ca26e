//! Device files and attributes, served by FUSE to callers that may be hostile.
//!
//! A [`Tree`] holds directories, links, [`Attribute`]s and [`DeviceNode`]s; a [`Server`] serves it on a `/dev/fuse`
//! descriptor. What a file does is its implementor's business; who called, what memory and descriptors the caller
//! handed over, and that no caller can block, crash or impersonate, is the business of this crate.

mod broadcast;
mod caller;
mod file;
mod host;
mod memory;
mod mount;
mod passthrough;
mod quota;
mod reaper;
mod releases;
mod server;
mod socket;
mod sys;
mod tree;
mod wait;
mod wire;

pub use broadcast::Broadcast;
pub use caller::{AddressSpaceId, Caller};
pub use file::{Attribute, DeviceNode, Ioctl, IoctlReply, OpenFile, OpenFlags, Read};
pub use memory::{MapAccess, Piece};
pub use mount::{is_stale, mount, unmount};
pub use passthrough::can_map;
pub use quota::Limits;
pub use releases::Releases;
pub use server::{Server, ServerConfig, ServerStats};
pub use socket::{FdSocket, Peer, SocketReply, SocketService};
pub use tree::{NodeId, Tree, TreeError};
pub use wait::{PollEvents, WaitQueue};
