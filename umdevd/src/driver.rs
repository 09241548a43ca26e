//! The stock mdev driver of virtio devices, `vhost_mdev`: gives an instance its nodes below `dev/`.

use devnode::{Broadcast, NodeId, Tree, TreeError};
use mdev_parent::{Binding, Instance, MdevDriver};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use uuid::Uuid;
use vfio_container::Group;
use vhost_mdev::VhostMdev;
use virtio_mdev_api::Refusal;

use crate::tree::DEVICES;

/// Device nodes are their owner's alone, as those of VFIO are.
const NODE_MODE: u16 = 0o600;

/// The trace of each bound instance, for whoever asks by UUID.
pub(crate) type Traces = Mutex<HashMap<Uuid, Arc<Broadcast>>>;

/// The driver.
pub(crate) struct VhostMdevDriver {
    tree: Tree,
    traces: Arc<Traces>,
}

impl VhostMdevDriver {
    pub fn new(tree: Tree, traces: Arc<Traces>) -> Self {
        Self { tree, traces }
    }

    fn add_nodes(&self, instance: &Instance, group: &Arc<Group>, vhost: &Arc<VhostMdev>) -> Result<Nodes, TreeError> {
        let root = self.tree.root();
        let tree = &self.tree;
        let mut nodes = Nodes { tree: tree.clone(), nodes: Vec::new() };
        let uuid = instance.uuid().to_string();
        let number = instance.group().to_string();
        let index = instance.index();
        let parent = instance.parent_name();

        let groups = tree.dirs(root, "sys/kernel/iommu_groups")?;
        let group_dir = nodes.keep(tree.dir(groups, &number)?);
        let members = tree.dir(group_dir, "devices")?;
        tree.link(members, &uuid, &format!("../../../../devices/virtual/mdev/{parent}/{uuid}"))?;

        let device = tree.dirs(root, &format!("{DEVICES}/{parent}/{uuid}"))?;
        nodes.keep(tree.link(device, "iommu_group", &format!("../../../../../kernel/iommu_groups/{number}"))?);
        let cdev = nodes.keep(tree.dir(device, "vfio-dev")?);
        tree.dir(cdev, &format!("vfio{index}"))?;

        let vfio = tree.dirs(root, "dev/vfio")?;
        let group_node = nodes.keep(tree.device(vfio, &number, NODE_MODE, Arc::clone(group) as _)?);
        let vhost_dir = tree.dirs(root, "dev/vhost-mdev")?;
        let vhost_node = nodes.keep(tree.device(vhost_dir, &uuid, NODE_MODE, Arc::clone(vhost) as _)?);
        let dev = tree.dirs(root, "dev")?;
        nodes.keep(tree.link(dev, &format!("vhost-vdpa-{index}"), &format!("vhost-mdev/{uuid}"))?);
        if let Some(owner) = instance.owner() {
            tree.set_owner(group_node, owner.uid, owner.gid);
            tree.set_owner(vhost_node, owner.uid, owner.gid);
        }
        Ok(nodes)
    }
}

impl MdevDriver for VhostMdevDriver {
    fn name(&self) -> &str {
        "vhost_mdev"
    }

    /// Every instance is a virtio device as yet.
    fn matches(&self, _instance: &Instance) -> bool {
        true
    }

    fn probe(&self, instance: &Arc<Instance>) -> Result<Arc<dyn Binding>, Refusal> {
        let uuid = instance.uuid();
        let trace = Arc::new(Broadcast::new());
        let group = Group::new(instance.group(), uuid.to_string());
        group.set_trace(Arc::clone(&trace));
        let opened: Weak<Instance> = Arc::downgrade(instance);
        let on_open = Box::new(move |open| {
            if let Some(instance) = opened.upgrade() {
                instance.opened(open);
            }
        });
        let vhost = VhostMdev::new(Arc::clone(instance.session()), Arc::clone(&group), Arc::clone(&trace), on_open);
        let nodes = self.add_nodes(instance, &group, &vhost);
        let nodes = nodes.map_err(|error| Refusal::new(Errno::EEXIST, error.to_string()))?;
        self.traces.lock().insert(uuid, trace);
        let traces = Arc::clone(&self.traces);
        Ok(Arc::new(Bound { uuid, group, vhost, nodes: Mutex::new(Some(nodes)), traces }))
    }
}

/// Nodes that go when this is dropped.
struct Nodes {
    tree: Tree,
    nodes: Vec<NodeId>,
}

impl Nodes {
    fn keep(&mut self, node: NodeId) -> NodeId {
        self.nodes.push(node);
        node
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.nodes.iter().rev().for_each(|&node| self.tree.remove(node));
    }
}

struct Bound {
    uuid: Uuid,
    group: Arc<Group>,
    vhost: Arc<VhostMdev>,
    nodes: Mutex<Option<Nodes>>,
    traces: Arc<Traces>,
}

impl Binding for Bound {
    fn holder(&self) -> Option<String> {
        self.vhost.holder().map(|(pid, uid)| format!("process {pid} of user {uid}"))
    }

    fn remove(&self) {
        *self.nodes.lock() = None;
        self.vhost.revoke();
        self.group.remove();
        self.traces.lock().remove(&self.uuid);
    }
}
