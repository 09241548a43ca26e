//! The driver of virtio devices, `vhost_mdev`: beside its group, an instance has a vhost file.

use super::face::{self, Face};
use super::nodes::Nodes;
use super::{Traces, on_open};
use devnode::{Tree, TreeError};
use mdev_parent::{Binding, Instance, MdevDriver};
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::Group;
use vhost_mdev::{VhostMdev, VirtioDevice};
use virtio_mdev_api::Refusal;

/// The driver.
pub(super) struct VhostMdevDriver {
    tree: Tree,
    traces: Arc<Traces>,
}

impl VhostMdevDriver {
    pub fn new(tree: Tree, traces: Arc<Traces>) -> Self {
        Self { tree, traces }
    }

    fn add_nodes(&self, instance: &Instance, group: &Arc<Group>, vhost: &Arc<VhostMdev>) -> Result<Nodes, TreeError> {
        let mut nodes = Nodes::of_group(&self.tree, instance, group)?;
        let uuid = instance.uuid().to_string();
        nodes.device(instance, "dev/vhost-mdev", &uuid, Arc::clone(vhost) as _)?;
        nodes.link("dev", &format!("vhost-vdpa-{}", instance.index()), &format!("vhost-mdev/{uuid}"))?;
        Ok(nodes)
    }
}

impl MdevDriver for VhostMdevDriver {
    fn name(&self) -> &str {
        "vhost_mdev"
    }

    fn matches(&self, instance: &Instance) -> bool {
        instance.session().is_some()
    }

    fn probe(&self, instance: &Arc<Instance>) -> Result<Arc<dyn Binding>, Refusal> {
        let session = instance.session().ok_or_else(|| Refusal::new(Errno::ENODEV, "no virtio device"))?;
        let (group, trace) = face::group_of(instance);
        let vhost = VhostMdev::new(Arc::clone(session), Arc::clone(&group), Arc::clone(&trace), on_open(instance));
        group.set_device(Arc::new(VirtioDevice::new(Arc::clone(&vhost))));
        let nodes = self.add_nodes(instance, &group, &vhost);
        let face = Face::show(instance.uuid(), group, trace, nodes, &self.traces)?;
        Ok(Arc::new(Bound { face, vhost }))
    }
}

struct Bound {
    face: Face,
    vhost: Arc<VhostMdev>,
}

impl Binding for Bound {
    fn holder(&self) -> Option<String> {
        self.vhost.holder().or_else(|| self.face.group.device_holder()).map(face::holder)
    }

    fn remove(&self) {
        self.face.hide();
        self.vhost.revoke();
        self.face.end();
    }
}
