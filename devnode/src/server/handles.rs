//! Open files, by numbers from a kept counter.

use super::backing::Backing;
use crate::tree::Node;
use crate::{OpenFile, Releases};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// One open file.
pub(crate) struct Handle {
    pub node: Arc<Node>,
    pub kind: Opened,
    /// What it shows when it is mapped.
    pub backing: Option<Arc<Backing>>,
    releases: OnceLock<Releases>,
}

impl Handle {
    /// Where its release is counted: the same from the first time that it is asked for.
    pub fn releases(&self) -> &Releases {
        self.releases.get_or_init(|| match &self.kind {
            Opened::Device(file) => file.releases().unwrap_or_else(|| self.node.releases.clone()),
            Opened::Attribute(_) => self.node.releases.clone(),
        })
    }
}

pub(crate) enum Opened {
    Attribute(Mutex<AttributeState>),
    Device(Arc<dyn OpenFile>),
}

/// What a reader of an attribute has in front of it.
#[derive(Default)]
pub(crate) struct AttributeState {
    /// What `show` gave when offset 0 was read.
    pub text: Vec<u8>,
    /// Why the last store was refused, for the next reads.
    pub reason: Option<Reason>,
}

pub(crate) struct Reason {
    pub text: Vec<u8>,
    /// The offset at which reading it began.
    pub base: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Handles {
    last: AtomicU64,
    open: RwLock<HashMap<u64, Arc<Handle>>>,
}

impl Handles {
    pub fn insert(&self, node: Arc<Node>, kind: Opened, backing: Option<Arc<Backing>>) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.write().insert(number, Arc::new(Handle { node, kind, backing, releases: OnceLock::new() }));
        number
    }

    pub fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.read().get(&number).cloned()
    }

    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.write().remove(&number)
    }

    pub fn device(&self, number: u64) -> Option<Arc<dyn OpenFile>> {
        match &self.get(number)?.kind {
            Opened::Device(file) => Some(file.clone()),
            Opened::Attribute(_) => None,
        }
    }

    /// The node of that number, if it is open.
    pub fn open_node(&self, node: u64) -> Option<Arc<Node>> {
        self.open.read().values().find(|handle| handle.node.id == node).map(|handle| handle.node.clone())
    }

    pub fn drain(&self) -> Vec<Arc<Handle>> {
        self.open.write().drain().map(|(_, handle)| handle).collect()
    }

    pub fn len(&self) -> usize {
        self.open.read().len()
    }
}
