//! The device of a group, and the files of it that keep the group open.

use super::Group;
use crate::attachment::Attached;
use crate::door::{DeviceSeat, Door, ThroughGroup};
use crate::error::VfioError;
use crate::usage::{DeviceUse, Usage};
use crate::{Client, DeviceFile, VfioDevice};
use std::sync::Arc;

impl Group {
    /// The device of the group, as its driver supplies it. Until [`remove`](Self::remove) the group keeps it.
    pub fn set_device(&self, device: Arc<dyn VfioDevice>) {
        self.usage.supply(device);
    }

    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Process and user of who opened the device that is open.
    pub fn device_holder(&self) -> Option<(i32, u32)> {
        self.usage.holder()
    }

    /// Opens the device for user `id`. `client` has the group open, and need not be who attached it. As in the kernel the
    /// group stays open, and where it is attached, until the device is closed.
    pub(crate) fn open_device(self: &Arc<Self>, id: u64, client: &dyn Client) -> Result<Arc<DeviceFile>, VfioError> {
        let (hold, seat) = self.with_open(id, |state| {
            let hold = state.attached.as_ref().and_then(Attached::hold).ok_or(VfioError::NoIommu)?;
            if let Some(seat) = &mut state.open {
                seat.devices += 1;
            }
            Ok((hold, DeviceSeat::new(Arc::clone(self), id)))
        })?;
        let holder = (hold.home().pid(), client.uid());
        let device = DeviceUse::begin(self, Some(Arc::clone(hold.space())), holder)?;
        let door = Door::Group(ThroughGroup::new(device, hold, seat));
        // Handles of all devices are files of one node, which can show one thing only.
        Ok(DeviceFile::new(Arc::clone(self), door, None))
    }

    /// A device file that user `id` opened is closed.
    pub(crate) fn device_closed(&self, id: u64) {
        let ends = {
            let mut state = self.state.lock();
            let Some(seat) = state.open.as_mut().filter(|seat| seat.id == id) else { return };
            seat.devices -= 1;
            seat.closed && seat.devices == 0
        };
        if ends {
            self.close(id);
        }
    }
}
