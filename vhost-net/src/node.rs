//! `/dev/vhost-net`.

use crate::VhostNetFile;
use crate::error::NetError;
use devnode::{Caller, DeviceNode, OpenFile, OpenFlags};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use vfio_container::Client;
use virtio_mdev_api::HasErrno;

/// How many devices one user may have open: each is a thread of the daemon, and two where it is held up.
pub const DEVICES_PER_USER: usize = 256;

/// The vhost-net node. Every open is a device.
#[derive(Debug, Default)]
pub struct VhostNet {
    open: Mutex<HashMap<u32, usize>>,
}

impl VhostNet {
    /// The node, no device open.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.open.lock().values().sum()
    }

    /// A new device for `client`; EMFILE when its user has as many as there may be.
    pub fn open_file(self: &Arc<Self>, client: &dyn Client) -> Result<Arc<VhostNetFile>, Errno> {
        let uid = client.uid();
        let mut open = self.open.lock();
        let count = open.entry(uid).or_default();
        if *count >= DEVICES_PER_USER {
            let error = NetError::TooMany { uid, max: DEVICES_PER_USER };
            tracing::warn!(%error, "vhost-net");
            return Err(error.errno());
        }
        *count += 1;
        Ok(Arc::new(VhostNetFile::new(Arc::new(Place { node: Arc::clone(self), uid }))))
    }
}

/// The place of a device among those its user may have. The file holds it, and every thread of the device: one that is
/// stuck in its client keeps it when the file is closed.
pub(crate) struct Place {
    node: Arc<VhostNet>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.node.open.lock();
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

impl DeviceNode for VhostNet {
    fn open(self: Arc<Self>, caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(self.open_file(caller)?)
    }
}
