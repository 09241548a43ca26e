//! An open VFIO device.

use crate::door::{Access, Door, ThroughIommufd};
use crate::error::VfioError;
use crate::iommufd::Bound;
use crate::trace::Trace;
use crate::{Client, DataStream, Group, HandleFile};
use crate::{device_info, feature, irqs, regions};
use devnode::{Broadcast, Caller, Ioctl, IoctlReply, OpenFile, Read, Releases};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::any::Any;
use std::fs::File;
use std::sync::Arc;
use vfio_abi::command::*;
use virtio_mdev_api::doorbell::Doorbells;

/// An open VFIO device: what VFIO_GROUP_GET_DEVICE_FD gives, or an open `/dev/vfio/devices/vfio<n>`.
///
/// Calls that change the device, and accesses to its regions, are for the address space that gave it its memory; what it
/// is made of may ask whoever has the file.
pub struct DeviceFile {
    group: Arc<Group>,
    door: Mutex<Door>,
    /// What it shows to those who map it.
    doorbells: Option<Arc<Doorbells>>,
}

impl DeviceFile {
    pub(crate) fn new(group: Arc<Group>, door: Door, doorbells: Option<Arc<Doorbells>>) -> Arc<Self> {
        Arc::new(Self { group, door: Mutex::new(door), doorbells })
    }

    /// The device file that an open file of ours is, or has become.
    pub(crate) fn behind(file: Arc<dyn OpenFile>) -> Option<Arc<Self>> {
        let file: Arc<dyn Any + Send + Sync> = file;
        match file.downcast::<HandleFile>() {
            Ok(handle) => Self::behind(Arc::clone(handle.became()?)),
            Err(file) => file.downcast().ok(),
        }
    }

    /// The device, which nothing is locked to use.
    pub(crate) fn access(&self) -> Result<Access, VfioError> {
        self.door.lock().access()
    }

    /// The device, for `client` to change.
    pub(crate) fn access_of(&self, client: &dyn Client) -> Result<Access, VfioError> {
        let access = self.access()?;
        access.check_home(client)?;
        Ok(access)
    }

    /// Who hears of calls on it.
    pub(crate) fn trace(&self) -> Option<Arc<Broadcast>> {
        self.group.trace()
    }

    /// Brings its device to a migration state, by number; the data stream of it, where the last hop begins one.
    pub(crate) fn set_state(&self, state: u32) -> Result<Option<Arc<DataStream>>, VfioError> {
        let Access { supplied, .. } = &self.access()?;
        supplied.machine.set(&supplied.device, state, true)
    }

    /// Serves an ioctl of `client`: VFIO's own, and those of other types that the device's driver has.
    pub fn serve(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let name = device_name(call.cmd).unwrap_or("unknown");
        let mut trace = Trace::begin(self.group.trace());
        if call.type_byte() == VFIO_TYPE {
            let outcome = self.dispatch(client, call, &mut trace);
            return trace.answer(client, "device", name, outcome);
        }
        match self.access_of(client) {
            // Who serves it tells of it.
            Ok(access) => access.supplied.device.ioctl(client, call),
            Err(error) => trace.answer(client, "device", name, Err(error)),
        }
    }

    fn dispatch(&self, client: &dyn Client, call: &Ioctl<'_>, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        if call.cmd == VFIO_DEVICE_BIND_IOMMUFD {
            return self.bind(client, call.arg, trace);
        }
        let access = self.access()?;
        match call.cmd {
            VFIO_DEVICE_ATTACH_IOMMUFD_PT => self.bound(call.cmd)?.bound().attach(client, call.arg, trace),
            VFIO_DEVICE_DETACH_IOMMUFD_PT => self.bound(call.cmd)?.bound().detach(client, call.arg),
            VFIO_DEVICE_GET_INFO => device_info::device(client, &access, call.arg),
            VFIO_DEVICE_GET_REGION_INFO => {
                device_info::region(client, &access, self.doorbells.is_some(), call.arg, trace)
            }
            VFIO_DEVICE_GET_IRQ_INFO => device_info::irq(client, &access, call.arg, trace),
            VFIO_DEVICE_SET_IRQS => irqs::set(client, &access, call.arg, trace),
            VFIO_DEVICE_RESET => reset(client, &access),
            VFIO_DEVICE_FEATURE => feature::serve(&access, client, call.arg, trace),
            cmd => Err(device_name(cmd).map_or(VfioError::Unknown(cmd), VfioError::NotOffered)),
        }
    }

    /// VFIO_DEVICE_BIND_IOMMUFD: the file is good for use from now on.
    fn bind(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        self.check_bindable()?;
        let bound = Bound::new(&self.group, client, arg, trace)?;
        let through = ThroughIommufd::open(bound, &self.group, client)?;
        through.bound().tell(client, arg)?;
        // No other thread has bound it: it would have the group.
        let mut door = self.door.lock();
        match *door {
            Door::Unbound => *door = Door::Iommufd(through),
            _ => {
                drop(door);
                return Err(VfioError::Closed);
            }
        }
        Ok(IoctlReply::ok())
    }

    fn check_bindable(&self) -> Result<(), VfioError> {
        match *self.door.lock() {
            Door::Unbound => Ok(()),
            Door::Iommufd(_) | Door::Group(_) => Err(VfioError::NotACdev),
            Door::Closed => Err(VfioError::Closed),
        }
    }

    /// What call `cmd` is for: a device that came through an open group has no such call.
    fn bound(&self, cmd: u32) -> Result<Arc<ThroughIommufd>, VfioError> {
        match &*self.door.lock() {
            Door::Iommufd(through) => Ok(Arc::clone(through)),
            _ => Err(VfioError::Unknown(cmd)),
        }
    }

    /// Serves a `read` of `client`: of one region, up to its end.
    pub fn serve_read(&self, client: &dyn Client, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut trace = Trace::begin(self.group.trace());
        let mut data = Vec::new();
        let outcome = self.access_of(client).and_then(|access| {
            data = regions::read(&access, offset, len, &mut trace)?;
            Ok(IoctlReply::value(i32::try_from(data.len()).unwrap_or(i32::MAX)))
        });
        trace.answer(client, "device", "read", outcome).map(|_| data)
    }

    /// Serves a `write` of `client`: to one region, up to its end.
    pub fn serve_write(&self, client: &dyn Client, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let mut trace = Trace::begin(self.group.trace());
        let mut taken = 0;
        let outcome = self.access_of(client).and_then(|access| {
            taken = regions::write(&access, offset, data, &mut trace)?;
            Ok(IoctlReply::value(i32::try_from(taken).unwrap_or(i32::MAX)))
        });
        trace.answer(client, "device", "write", outcome).map(|_| taken)
    }
}

fn reset(client: &dyn Client, access: &Access) -> Result<IoctlReply, VfioError> {
    if !access.supplied.shape.resettable {
        return Err(VfioError::NoReset);
    }
    access.check_home(client)?;
    access.supplied.reset()?;
    Ok(IoctlReply::ok())
}

impl OpenFile for DeviceFile {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.serve(caller, call)
    }

    fn read(&self, caller: &Caller, read: &Read) -> Result<Vec<u8>, Errno> {
        self.serve_read(caller, read.offset, read.len)
    }

    fn write(&self, caller: &Caller, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.serve_write(caller, offset, data)
    }

    fn backing(&self) -> Option<Arc<File>> {
        self.doorbells.as_ref().map(|doorbells| Arc::clone(doorbells.file()))
    }

    fn releases(&self) -> Option<Releases> {
        Some(self.group.releases().clone())
    }

    fn release(&self) {
        // Let go of with nothing locked: the device may take its time.
        let door = std::mem::replace(&mut *self.door.lock(), Door::Closed);
        drop(door);
    }
}

impl std::fmt::Debug for DeviceFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceFile").field("group", &self.group).finish_non_exhaustive()
    }
}
