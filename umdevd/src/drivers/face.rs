//! What an instance has by being bound, whichever its driver: its group, the nodes of it, and those who listen to its calls.

use super::Traces;
use super::nodes::Nodes;
use devnode::{Broadcast, TreeError};
use mdev_parent::Instance;
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;
use vfio_container::Group;
use virtio_mdev_api::Refusal;

/// The face of one bound instance.
pub(super) struct Face {
    uuid: Uuid,
    pub group: Arc<Group>,
    nodes: Mutex<Option<Nodes>>,
    traces: Arc<Traces>,
}

/// The group of `instance`, and where calls on its files are told.
pub(super) fn group_of(instance: &Instance) -> (Arc<Group>, Arc<Broadcast>) {
    let trace = Arc::new(Broadcast::new());
    let group = Group::new(instance.group(), instance.uuid().to_string());
    group.set_trace(Arc::clone(&trace));
    (group, trace)
}

impl Face {
    /// Shows `group` by its `nodes`, if they could be made.
    pub fn show(
        uuid: Uuid,
        group: Arc<Group>,
        trace: Arc<Broadcast>,
        nodes: Result<Nodes, TreeError>,
        traces: &Arc<Traces>,
    ) -> Result<Self, Refusal> {
        let nodes = nodes.map_err(|error| {
            group.remove();
            Refusal::new(Errno::EEXIST, error.to_string())
        })?;
        traces.lock().insert(uuid, trace);
        Ok(Self { uuid, group, nodes: Mutex::new(Some(nodes)), traces: Arc::clone(traces) })
    }

    /// Nobody opens it any more.
    pub fn hide(&self) {
        *self.nodes.lock() = None;
    }

    /// Whoever has it open gets ENODEV from now on.
    pub fn end(&self) {
        self.group.remove();
        self.traces.lock().remove(&self.uuid);
    }
}

/// Process and user of a holder, in words.
pub(super) fn holder((pid, uid): (i32, u32)) -> String {
    format!("process {pid} of user {uid}")
}
