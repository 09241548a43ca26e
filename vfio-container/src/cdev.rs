//! `/dev/vfio/devices/vfio<n>`: the device's own node.

use crate::door::Door;
use crate::{DeviceFile, Group};
use devnode::{Caller, DeviceNode, OpenFile, OpenFlags, Releases};
use nix::errno::Errno;
use std::sync::Arc;

/// The node of the device of a group. It may be opened at any time; a file of it is good for nothing until it is bound to an
/// iommufd.
#[derive(Debug)]
pub struct CdevNode {
    group: Arc<Group>,
}

impl CdevNode {
    /// The node of the device of `group`.
    pub fn new(group: Arc<Group>) -> Self {
        Self { group }
    }

    /// Opens it.
    pub fn open_file(&self) -> Arc<DeviceFile> {
        DeviceFile::new(Arc::clone(&self.group), Door::Unbound, self.group.usage().doorbells())
    }
}

impl DeviceNode for CdevNode {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(self.open_file())
    }

    fn releases(&self) -> Releases {
        self.group.releases().clone()
    }
}
