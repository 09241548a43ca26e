//! The driver of virtio devices, `vhost_mdev`: beside its group, an instance has a vhost file.

use super::nodes::Nodes;
use super::{Traces, on_open};
use devnode::{Broadcast, Tree, TreeError};
use mdev_parent::{Binding, Instance, MdevDriver};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;
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
        let uuid = instance.uuid();
        let session = instance.session().ok_or_else(|| Refusal::new(Errno::ENODEV, "no virtio device"))?;
        let trace = Arc::new(Broadcast::new());
        let group = Group::new(instance.group(), uuid.to_string());
        group.set_trace(Arc::clone(&trace));
        let vhost = VhostMdev::new(Arc::clone(session), Arc::clone(&group), Arc::clone(&trace), on_open(instance));
        group.set_device(Arc::new(VirtioDevice::new(Arc::clone(&vhost))));
        let nodes = self.add_nodes(instance, &group, &vhost).map_err(|error| {
            group.remove();
            Refusal::new(Errno::EEXIST, error.to_string())
        })?;
        self.traces.lock().insert(uuid, trace);
        let traces = Arc::clone(&self.traces);
        Ok(Arc::new(Bound { uuid, group, vhost, nodes: Mutex::new(Some(nodes)), traces }))
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
        self.vhost
            .holder()
            .or_else(|| self.group.device_holder())
            .map(|(pid, uid)| format!("process {pid} of user {uid}"))
    }

    fn remove(&self) {
        *self.nodes.lock() = None;
        self.vhost.revoke();
        self.group.remove();
        self.traces.lock().remove(&self.uuid);
    }
}
