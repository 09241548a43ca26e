//! How a device file came to its device: what it holds, and who may change something through it.

use crate::attachment::GroupHold;
use crate::error::VfioError;
use crate::iommufd::Bound;
use crate::usage::{DeviceUse, Supplied};
use crate::{Client, Group, Home};
use std::sync::Arc;

/// Through which door a file came to the device.
pub(crate) enum Door {
    /// The device's own node, and no VFIO_DEVICE_BIND_IOMMUFD yet: every call is EINVAL.
    Unbound,
    /// The device's own node, bound to an iommufd.
    Iommufd(Arc<ThroughIommufd>),
    /// An open group.
    Group(Arc<ThroughGroup>),
    /// The file is closed.
    Closed,
}

impl Door {
    /// The device behind it.
    pub fn access(&self) -> Result<Access, VfioError> {
        match self {
            Self::Unbound => Err(VfioError::Unbound),
            Self::Iommufd(through) => through.access(),
            Self::Group(through) => through.access(),
            Self::Closed => Err(VfioError::Closed),
        }
    }
}

/// The device behind a file, and whose file it is. As in the kernel, a file that is closed lets go of its device when the
/// last call on it has ended.
pub(crate) struct Access {
    pub supplied: Arc<Supplied>,
    home: Home,
    _open: Arc<dyn Send + Sync>,
}

impl Access {
    /// What changes the device is for the address space that gave it its memory. Looks into the client.
    pub fn check_home(&self, client: &dyn Client) -> Result<(), VfioError> {
        if client.lives_in(&self.home) { Ok(()) } else { Err(VfioError::Foreign) }
    }
}

/// A device file that was bound to an iommufd. Its device has memory while it is attached; it is let go of in the order of
/// the fields.
pub(crate) struct ThroughIommufd {
    device: DeviceUse,
    bound: Bound,
}

impl ThroughIommufd {
    /// Opens the device for the client that bound it.
    pub fn open(bound: Bound, group: &Arc<Group>, client: &dyn Client) -> Result<Arc<Self>, VfioError> {
        let device = DeviceUse::begin(group, None, (bound.home().pid(), client.uid()))?;
        Ok(Arc::new(Self { device, bound }))
    }

    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    fn access(self: &Arc<Self>) -> Result<Access, VfioError> {
        self.bound.check_alive()?;
        let supplied = Arc::clone(self.device.supplied());
        Ok(Access { supplied, home: self.bound.home().clone(), _open: Arc::clone(self) as _ })
    }
}

/// A device file that an open group gave. It keeps that open and where it is attached; it is let go of in the order of
/// the fields.
pub(crate) struct ThroughGroup {
    device: DeviceUse,
    hold: GroupHold,
    _seat: DeviceSeat,
}

impl ThroughGroup {
    pub fn new(device: DeviceUse, hold: GroupHold, seat: DeviceSeat) -> Arc<Self> {
        Arc::new(Self { device, hold, _seat: seat })
    }

    fn access(self: &Arc<Self>) -> Result<Access, VfioError> {
        // Only a removal ends it while it is held.
        if !self.hold.is_attached() {
            return Err(VfioError::Gone);
        }
        let supplied = Arc::clone(self.device.supplied());
        Ok(Access { supplied, home: self.hold.home().clone(), _open: Arc::clone(self) as _ })
    }
}

/// Keeps an open group open: its close takes effect when this is dropped.
pub(crate) struct DeviceSeat {
    group: Arc<Group>,
    id: u64,
}

impl DeviceSeat {
    /// `group` has counted it.
    pub fn new(group: Arc<Group>, id: u64) -> Self {
        Self { group, id }
    }
}

impl Drop for DeviceSeat {
    fn drop(&mut self) {
        self.group.device_closed(self.id);
    }
}
