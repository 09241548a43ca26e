//! One node, and the children of a directory.

use super::NodeId;
use crate::server::LastBacking;
use crate::{Attribute, DeviceNode, Releases};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

pub(crate) struct Node {
    pub id: NodeId,
    pub parent: NodeId,
    pub kind: Kind,
    pub meta: Mutex<Meta>,
    /// Releases and opens under way on this device file: what an open that was refused waits for.
    pub releases: Releases,
    /// What its open files show when they are mapped.
    pub backing: Mutex<LastBacking>,
    removed: AtomicBool,
}

pub(crate) enum Kind {
    Directory,
    Link(String),
    Attribute(Arc<dyn Attribute>),
    Device(Arc<dyn DeviceNode>),
    Socket,
}

/// What `chown`, `chmod` and `utimensat` change.
#[derive(Clone, Copy)]
pub(crate) struct Meta {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub modified: SystemTime,
}

impl Node {
    pub fn new(id: NodeId, parent: NodeId, kind: Kind, mode: u16) -> Self {
        let releases = match &kind {
            Kind::Device(device) => device.releases(),
            _ => Releases::default(),
        };
        let meta = Meta { mode, uid: 0, gid: 0, modified: SystemTime::now() };
        Self {
            id,
            parent,
            kind,
            meta: Mutex::new(meta),
            releases,
            backing: Mutex::default(),
            removed: AtomicBool::new(false),
        }
    }

    pub fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

/// The children of a directory, by name and in order of creation.
#[derive(Default)]
pub(super) struct Children {
    by_name: HashMap<String, NodeId>,
    by_id: BTreeMap<NodeId, String>,
}

impl Children {
    pub fn get(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied()
    }

    pub fn insert(&mut self, id: NodeId, name: &str) {
        self.by_name.insert(name.to_owned(), id);
        self.by_id.insert(id, name.to_owned());
    }

    pub fn remove(&mut self, id: NodeId) {
        if let Some(name) = self.by_id.remove(&id) {
            self.by_name.remove(&name);
        }
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.by_id.keys().copied().collect()
    }

    pub fn after(&self, id: NodeId) -> impl Iterator<Item = (NodeId, &str)> {
        self.by_id.range(id + 1..).map(|(id, name)| (*id, name.as_str()))
    }
}
