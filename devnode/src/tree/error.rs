//! What can go wrong when the tree is changed.

use super::NodeId;
use nix::errno::Errno;
use virtio_mdev_api::HasErrno;

/// Why a node could not be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The parent does not exist (any more).
    #[error("node {node} does not exist")]
    NoSuchNode {
        /// The missing node.
        node: NodeId,
    },
    /// The parent is not a directory.
    #[error("node {node} is not a directory")]
    NotADirectory {
        /// The node that was taken for a directory.
        node: NodeId,
    },
    /// The name is taken.
    #[error("{name:?} already exists in directory {parent}")]
    Exists {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: String,
    },
    /// Not a file name: empty, too long, `.`, `..`, or with a slash or NUL in it.
    #[error("{name:?} is not a file name")]
    BadName {
        /// What was given.
        name: String,
    },
}

impl HasErrno for TreeError {
    fn errno(&self) -> Errno {
        match self {
            Self::NoSuchNode { .. } => Errno::ENOENT,
            Self::NotADirectory { .. } => Errno::ENOTDIR,
            Self::Exists { .. } => Errno::EEXIST,
            Self::BadName { .. } => Errno::EINVAL,
        }
    }
}
