//! The nodes of a bound instance that every driver makes: its IOMMU group and what belongs to it.

use crate::tree::DEVICES;
use devnode::{DeviceNode, NodeId, Tree, TreeError};
use mdev_parent::Instance;
use std::sync::Arc;
use vfio_container::{CdevNode, Group};

/// Device nodes are their owner's alone, as those of VFIO are.
const NODE_MODE: u16 = 0o600;

/// Nodes that go when this is dropped.
pub(super) struct Nodes {
    tree: Tree,
    nodes: Vec<NodeId>,
}

impl Nodes {
    /// The group of `instance`, its node and its device's, and what of it is below the instance's directory.
    pub fn of_group(tree: &Tree, instance: &Instance, group: &Arc<Group>) -> Result<Self, TreeError> {
        let root = tree.root();
        let mut nodes = Self { tree: tree.clone(), nodes: Vec::new() };
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

        nodes.device(instance, "dev/vfio", &number, Arc::clone(group) as _)?;
        let cdev = Arc::new(CdevNode::new(Arc::clone(group)));
        nodes.device(instance, "dev/vfio/devices", &format!("vfio{index}"), cdev)?;
        Ok(nodes)
    }

    /// A device node `name` in `directory`, which belongs to the instance's owner.
    pub fn device(
        &mut self,
        instance: &Instance,
        directory: &str,
        name: &str,
        device: Arc<dyn DeviceNode>,
    ) -> Result<(), TreeError> {
        let directory = self.tree.dirs(self.tree.root(), directory)?;
        let node = self.tree.device(directory, name, NODE_MODE, device)?;
        self.keep(node);
        if let Some(owner) = instance.owner() {
            self.tree.set_owner(node, owner.uid, owner.gid);
        }
        Ok(())
    }

    /// A link `name` in `directory`.
    pub fn link(&mut self, directory: &str, name: &str, target: &str) -> Result<(), TreeError> {
        let directory = self.tree.dirs(self.tree.root(), directory)?;
        let link = self.tree.link(directory, name, target)?;
        self.keep(link);
        Ok(())
    }

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
