//! What `stat` sees.

use crate::tree::{Kind, Node, Tree};
use crate::wire::abi::{Attr, AttrOut, EntryOut};
use std::time::{SystemTime, UNIX_EPOCH};

/// The size of an attribute file, as sysfs says it.
const ATTRIBUTE_SIZE: u64 = 4096;

/// The file type of a node, as in `st_mode`.
pub(super) fn file_type(node: &Node) -> u32 {
    match node.kind {
        Kind::Directory => libc::S_IFDIR,
        Kind::Link(_) => libc::S_IFLNK,
        Kind::Attribute(_) | Kind::Device(_) => libc::S_IFREG,
        Kind::Socket => libc::S_IFSOCK,
    }
}

fn attr(tree: &Tree, node: &Node) -> Attr {
    let meta = *node.meta.lock();
    let (seconds, nanos) = since_epoch(meta.modified);
    Attr {
        ino: node.id,
        size: match &node.kind {
            Kind::Attribute(_) => ATTRIBUTE_SIZE,
            Kind::Device(device) => device.size(),
            Kind::Link(target) => u64::try_from(target.len()).unwrap_or(0),
            Kind::Directory | Kind::Socket => 0,
        },
        atime: seconds,
        mtime: seconds,
        ctime: seconds,
        atimensec: nanos,
        mtimensec: nanos,
        ctimensec: nanos,
        mode: file_type(node) | u32::from(meta.mode),
        nlink: if node.is_removed() { 0 } else { tree.links(node.id) },
        uid: meta.uid,
        gid: meta.gid,
        blksize: 4096,
        ..Attr::default()
    }
}

fn since_epoch(time: SystemTime) -> (u64, u32) {
    time.duration_since(UNIX_EPOCH).map_or((0, 0), |time| (time.as_secs(), time.subsec_nanos()))
}

/// The answer to GETATTR and SETATTR. Nothing is cached: what a name means and who may use it changes at any time.
pub(super) fn attr_out(tree: &Tree, node: &Node) -> AttrOut {
    AttrOut { attr: attr(tree, node), ..AttrOut::default() }
}

/// The answer to LOOKUP.
pub(super) fn entry_out(tree: &Tree, node: &Node) -> EntryOut {
    EntryOut { nodeid: node.id, attr: attr(tree, node), ..EntryOut::default() }
}
