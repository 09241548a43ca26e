//! The bus as a tree of files, laid out as the kernel lays out `/sys`.

mod attr;
mod drivers;
mod instance;
mod parent;

use attr::LastError;
use devnode::{NodeId, Tree, TreeError};
use mdev_parent::{Bus, BusOptions, Instance, Listener, RegisteredParent};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use uuid::Uuid;

use crate::state::{Journal, Record};

pub(crate) const DEVICES: &str = "sys/devices/virtual/mdev";

/// Shows a bus as files, and keeps the journal of its instances.
pub(crate) struct TreeView {
    tree: Tree,
    bus: Bus,
    journal: Mutex<Option<Journal>>,
    /// What was added for each instance and each parent, to be removed with it.
    nodes: Mutex<HashMap<Key, Vec<NodeId>>>,
    refusals: Mutex<HashMap<String, Arc<LastError>>>,
    me: Weak<TreeView>,
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Parent(String),
    Instance(Uuid),
    Driver(Uuid),
}

impl TreeView {
    /// Lays out the empty tree and listens to a new bus.
    pub fn new(tree: Tree, options: BusOptions) -> Result<(Arc<Self>, Bus), TreeError> {
        let root = tree.root();
        for path in [
            DEVICES,
            "sys/class/mdev_bus",
            "sys/bus/mdev/devices",
            "sys/bus/mdev/drivers",
            "sys/kernel/iommu_groups",
            "dev/vfio",
            "dev/vhost-mdev",
        ] {
            tree.dirs(root, path)?;
        }
        let bus = Bus::new(options);
        let view = Arc::new_cyclic(|me| Self {
            tree,
            bus: bus.clone(),
            journal: Mutex::new(None),
            nodes: Mutex::default(),
            refusals: Mutex::default(),
            me: me.clone(),
        });
        bus.listen(Arc::clone(&view) as Arc<dyn Listener>);
        Ok((view, bus))
    }

    /// From now on, changes are written to `journal`.
    pub fn keep_journal(&self, journal: Journal) {
        *self.journal.lock() = Some(journal);
    }

    fn keep(&self, instance: &Instance) {
        let mut journal = self.journal.lock();
        // One that goes is forgotten after this, or was before: an attribute may be written until then.
        if let Some(journal) = journal.as_mut().filter(|_| !instance.is_gone()) {
            journal.keep(Record::from(instance));
        }
    }

    fn dir(&self, path: &str) -> Result<NodeId, TreeError> {
        self.tree.dirs(self.tree.root(), path)
    }

    fn own(&self, key: Key, nodes: Vec<NodeId>) {
        self.nodes.lock().entry(key).or_default().extend(nodes);
    }

    fn disown(&self, key: &Key) {
        let nodes = self.nodes.lock().remove(key).unwrap_or_default();
        nodes.into_iter().rev().for_each(|node| self.tree.remove(node));
    }

    fn refusals_of(&self, parent: &str) -> Arc<LastError> {
        Arc::clone(self.refusals.lock().entry(parent.to_owned()).or_default())
    }
}

/// A tree that cannot be laid out is a defect, not an input: it is told and survived.
fn laid_out(what: &str, result: Result<(), TreeError>) {
    if let Err(error) = result {
        tracing::error!(what, %error, "the tree is incomplete");
    }
}

impl Listener for TreeView {
    fn parent_added(&self, parent: &Arc<RegisteredParent>) {
        laid_out(parent.name(), self.add_parent(parent));
    }

    fn parent_removed(&self, parent: &Arc<RegisteredParent>) {
        self.disown(&Key::Parent(parent.name().to_owned()));
        self.refusals.lock().remove(parent.name());
    }

    fn driver_added(&self, name: &str) {
        laid_out(name, self.add_driver(name));
    }

    fn created(&self, instance: &Arc<Instance>) {
        laid_out(&instance.uuid().to_string(), self.add_instance(instance));
        self.keep(instance);
    }

    fn removed(&self, instance: &Arc<Instance>) {
        self.disown(&Key::Instance(instance.uuid()));
        if let Some(journal) = &mut *self.journal.lock() {
            journal.forget(instance.uuid());
        }
    }

    fn bound(&self, instance: &Arc<Instance>, driver: &str) {
        laid_out(driver, self.add_binding(instance, driver));
    }

    fn unbound(&self, instance: &Arc<Instance>, _driver: &str) {
        self.disown(&Key::Driver(instance.uuid()));
    }
}
