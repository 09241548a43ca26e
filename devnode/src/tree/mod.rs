//! The tree of files: directories, links, attributes, device files.
//!
//! Node ids come from a kept counter and are never reused, so a stale id can only fail, never mean another file.

mod error;
mod node;

pub use error::TreeError;
pub(crate) use node::{Kind, Node};

use crate::{Attribute, DeviceNode};
use node::Children;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The number of a node. The root is 1; numbers are never used twice in the life of a tree.
pub type NodeId = u64;

/// The root's number, fixed by the FUSE protocol.
const ROOT: NodeId = 1;

/// Longest file name, as in other Linux file systems.
pub(crate) const NAME_MAX: usize = 255;

/// A tree of files, shared by its clones.
#[derive(Clone)]
pub struct Tree(Arc<RwLock<State>>);

struct State {
    nodes: HashMap<NodeId, Arc<Node>>,
    children: HashMap<NodeId, Children>,
    next: NodeId,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("nodes", &self.0.read().nodes.len()).finish()
    }
}

impl Tree {
    /// An empty tree: a root directory of mode 0755.
    pub fn new() -> Self {
        let root = Arc::new(Node::new(ROOT, ROOT, Kind::Directory, 0o755));
        Self(Arc::new(RwLock::new(State {
            nodes: HashMap::from([(ROOT, root)]),
            children: HashMap::from([(ROOT, Children::default())]),
            next: ROOT + 1,
        })))
    }

    /// The root directory.
    pub fn root(&self) -> NodeId {
        ROOT
    }

    /// Adds a directory of mode 0755.
    pub fn dir(&self, parent: NodeId, name: &str) -> Result<NodeId, TreeError> {
        self.0.write().add(parent, name, Kind::Directory, 0o755)
    }

    /// Adds the directories of `path` below `parent` that are missing; the last one's id.
    pub fn dirs(&self, parent: NodeId, path: &str) -> Result<NodeId, TreeError> {
        let mut state = self.0.write();
        path.split('/').filter(|name| !name.is_empty()).try_fold(parent, |at, name| match state.child(at, name) {
            Some(id) if state.children.contains_key(&id) => Ok(id),
            Some(id) => Err(TreeError::NotADirectory { node: id }),
            None => state.add(at, name, Kind::Directory, 0o755),
        })
    }

    /// Adds an attribute file.
    pub fn attribute(
        &self,
        parent: NodeId,
        name: &str,
        mode: u16,
        attribute: Arc<dyn Attribute>,
    ) -> Result<NodeId, TreeError> {
        self.0.write().add(parent, name, Kind::Attribute(attribute), mode)
    }

    /// Adds a symbolic link; `target` is stored as given.
    pub fn link(&self, parent: NodeId, name: &str, target: &str) -> Result<NodeId, TreeError> {
        self.0.write().add(parent, name, Kind::Link(target.to_owned()), 0o777)
    }

    /// Adds a device file.
    pub fn device(
        &self,
        parent: NodeId,
        name: &str,
        mode: u16,
        device: Arc<dyn DeviceNode>,
    ) -> Result<NodeId, TreeError> {
        self.0.write().add(parent, name, Kind::Device(device), mode)
    }

    /// Adds the inode of a socket; the kernel pairs it with the socket that is being bound.
    pub(crate) fn socket(&self, parent: NodeId, name: &str, mode: u16) -> Result<NodeId, TreeError> {
        self.0.write().add(parent, name, Kind::Socket, mode)
    }

    /// Removes a node and everything below it. Open files stay open: their attributes answer ENODEV, their device
    /// files go on until released. The root itself stays.
    pub fn remove(&self, node: NodeId) {
        if node == ROOT {
            return;
        }
        let mut state = self.0.write();
        let parent = state.nodes.get(&node).map(|n| n.parent);
        if let Some(children) = parent.and_then(|parent| state.children.get_mut(&parent)) {
            children.remove(node);
        }
        let mut doomed = vec![node];
        while let Some(id) = doomed.pop() {
            doomed.extend(state.children.remove(&id).into_iter().flat_map(|children| children.ids()));
            if let Some(node) = state.nodes.remove(&id) {
                node.mark_removed();
            }
        }
    }

    /// The node at `path` from the root; links are not followed.
    pub fn find(&self, path: &str) -> Option<NodeId> {
        let state = self.0.read();
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |at, name| state.child(at, name))
    }

    /// The node called `name` in directory `parent`.
    pub fn child(&self, parent: NodeId, name: &str) -> Option<NodeId> {
        self.0.read().child(parent, name)
    }

    /// Gives a node to a user and a group. Does nothing when the node is gone.
    pub fn set_owner(&self, node: NodeId, uid: u32, gid: u32) {
        if let Some(node) = self.get(node) {
            let mut meta = node.meta.lock();
            (meta.uid, meta.gid) = (uid, gid);
        }
    }

    /// Sets a node's permission bits. Does nothing when the node is gone.
    pub fn set_mode(&self, node: NodeId, mode: u16) {
        if let Some(node) = self.get(node) {
            node.meta.lock().mode = mode & 0o7777;
        }
    }

    /// User, group and permission bits of a node, as `chown` and `chmod` left them.
    pub fn owner_of(&self, node: NodeId) -> Option<(u32, u32, u16)> {
        self.get(node).map(|node| {
            let meta = node.meta.lock();
            (meta.uid, meta.gid, meta.mode)
        })
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<Arc<Node>> {
        self.0.read().nodes.get(&node).cloned()
    }

    pub(crate) fn lookup(&self, parent: NodeId, name: &str) -> Option<Arc<Node>> {
        let state = self.0.read();
        state.nodes.get(&state.child(parent, name)?).cloned()
    }

    /// The entries of a directory whose id is above `after`, in the order they were made. An id is a stable offset:
    /// what comes and goes while a reader lists neither repeats nor hides another entry.
    pub(crate) fn entries(&self, parent: NodeId, after: NodeId, limit: usize) -> Option<Vec<(String, Arc<Node>)>> {
        let state = self.0.read();
        let children = state.children.get(&parent)?;
        Some(
            children
                .after(after)
                .take(limit)
                .filter_map(|(id, name)| Some((name.to_owned(), state.nodes.get(&id)?.clone())))
                .collect(),
        )
    }

    /// How many links a node has, as `st_nlink` counts them.
    pub(crate) fn links(&self, node: NodeId) -> u32 {
        let state = self.0.read();
        let Some(children) = state.children.get(&node) else { return 1 };
        let dirs = children.ids().into_iter().filter(|id| state.children.contains_key(id)).count();
        u32::try_from(dirs).unwrap_or(u32::MAX - 2) + 2
    }
}

impl State {
    fn child(&self, parent: NodeId, name: &str) -> Option<NodeId> {
        self.children.get(&parent)?.get(name)
    }

    fn add(&mut self, parent: NodeId, name: &str, kind: Kind, mode: u16) -> Result<NodeId, TreeError> {
        if name.is_empty() || name.len() > NAME_MAX || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(TreeError::BadName { name: name.to_owned() });
        }
        if !self.nodes.contains_key(&parent) {
            return Err(TreeError::NoSuchNode { node: parent });
        }
        let children = self.children.get_mut(&parent).ok_or(TreeError::NotADirectory { node: parent })?;
        if children.get(name).is_some() {
            return Err(TreeError::Exists { parent, name: name.to_owned() });
        }
        let id = self.next;
        self.next += 1;
        children.insert(id, name);
        if matches!(kind, Kind::Directory) {
            self.children.insert(id, Children::default());
        }
        self.nodes.insert(id, Arc::new(Node::new(id, parent, kind, mode & 0o7777)));
        Ok(id)
    }
}
