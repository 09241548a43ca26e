//! `/dev/iommu`.

use super::IommuFile;
use super::context::Context;
use super::usage::Usage;
use crate::Client;
use devnode::{Caller, DeviceNode, OpenFile, OpenFlags};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use virtio_mdev_api::HasErrno;

/// The node `/dev/iommu`: every open of it is a new, empty context.
#[derive(Debug, Default)]
pub struct IommuNode {
    users: Mutex<HashMap<u32, Weak<Usage>>>,
}

impl IommuNode {
    /// The node, no context open.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new context for `client`; EMFILE when its user has as many as there may be.
    pub fn open_file(&self, client: &dyn Client) -> Result<Arc<IommuFile>, Errno> {
        let usage = self.usage_of(client.uid());
        let context = Context::new(usage).map_err(|error| {
            tracing::warn!(%error, "iommufd");
            error.errno()
        })?;
        Ok(Arc::new(IommuFile::new(context)))
    }

    fn usage_of(&self, uid: u32) -> Arc<Usage> {
        let mut users = self.users.lock();
        if let Some(usage) = users.get(&uid).and_then(Weak::upgrade) {
            return usage;
        }
        users.retain(|_, usage| usage.strong_count() != 0);
        let usage = Arc::new(Usage::new(uid));
        users.insert(uid, Arc::downgrade(&usage));
        usage
    }
}

impl DeviceNode for IommuNode {
    fn open(self: Arc<Self>, caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(self.open_file(caller)?)
    }
}
