//! VFIO_DEVICE_BIND_IOMMUFD, ATTACH_IOMMUFD_PT and DETACH_IOMMUFD_PT: a device file and the context it is bound to.

use super::IommuFile;
use super::context::Context;
use crate::error::VfioError;
use crate::trace::Trace;
use crate::wire::{check_flags, fetch};
use crate::{Client, Group, Home};
use devnode::IoctlReply;
use nix::errno::Errno;
use std::any::Any;
use std::mem::{offset_of, size_of};
use std::sync::Arc;
use vfio_abi::iommufd::{AttachIommufdPt, BindIommufd, DetachIommufdPt, VFIO_DEVICE_PASID};

/// A device that is bound to a context through its own file: it excludes an open group. Dropping it takes the device's
/// memory, and the context forgets the device.
#[must_use = "the device is not bound any more when this is dropped"]
pub(crate) struct Bound {
    group: Arc<Group>,
    seat: u64,
    context: Arc<Context>,
    devid: u32,
    home: Home,
}

impl Bound {
    /// VFIO_DEVICE_BIND_IOMMUFD, but for the answer: see [`tell`](Self::tell).
    pub(crate) fn new(group: &Arc<Group>, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<Self, VfioError> {
        let bind: BindIommufd = fetch(client, arg, size_of::<BindIommufd>())?;
        trace.arg("iommufd", bind.iommufd);
        check_flags(bind.flags, 0)?;
        if bind.iommufd < 0 {
            return Err(VfioError::Negative(bind.iommufd));
        }
        group.check_free_for_device()?;
        let context = context_of(client, bind.iommufd)?;
        let home = client.home()?;
        let seat = group.take_for_device()?;
        let devid = context.add_device();
        trace.arg("devid", devid);
        Ok(Self { group: Arc::clone(group), seat, context, devid, home })
    }

    /// Tells the client its device's number in the context.
    pub(crate) fn tell(&self, client: &dyn Client, arg: u64) -> Result<(), VfioError> {
        let at = u64::try_from(offset_of!(BindIommufd, out_devid)).ok().and_then(|offset| arg.checked_add(offset));
        Ok(client.write(at.ok_or(Errno::EFAULT)?, &self.devid.to_ne_bytes())?)
    }

    /// Whether the instance is still there.
    pub(crate) fn check_alive(&self) -> Result<(), VfioError> {
        self.group.check_open(self.seat).map(drop)
    }

    /// Who bound it.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// VFIO_DEVICE_ATTACH_IOMMUFD_PT: the device's memory is that of an IOAS, in place of what it had.
    pub(crate) fn attach(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        let AttachIommufdPt { flags, pt_id, .. } = fetch(client, arg, size_of::<AttachIommufdPt>())?;
        trace.arg("pt", pt_id);
        self.check(client, flags)?;
        let ioas = self.context.ioas(pt_id).map_err(|_| VfioError::NoIoas)?;
        self.group.reattach(self.seat, ioas, self.home.clone())?;
        Ok(IoctlReply::ok())
    }

    /// VFIO_DEVICE_DETACH_IOMMUFD_PT. What is not attached is none the worse for it.
    pub(crate) fn detach(&self, client: &dyn Client, arg: u64) -> Result<IoctlReply, VfioError> {
        let DetachIommufdPt { flags, .. } = fetch(client, arg, size_of::<DetachIommufdPt>())?;
        self.check(client, flags)?;
        self.group.detach_for(self.seat)?;
        Ok(IoctlReply::ok())
    }

    fn check(&self, client: &dyn Client, flags: u32) -> Result<(), VfioError> {
        check_flags(flags, VFIO_DEVICE_PASID)?;
        if flags != 0 {
            return Err(VfioError::NoPasid);
        }
        if client.lives_in(&self.home) { Ok(()) } else { Err(VfioError::Foreign) }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.group.close(self.seat);
        self.context.remove_device(self.devid);
    }
}

fn context_of(client: &dyn Client, fd: i32) -> Result<Arc<Context>, VfioError> {
    let file = match client.device_file(fd) {
        // A descriptor of another kind.
        Err(Errno::EINVAL) => Err(VfioError::NotAnIommufd(fd)),
        file => Ok(file?),
    }?;
    let file: Arc<dyn Any + Send + Sync> = file;
    let file = file.downcast::<IommuFile>().map_err(|_| VfioError::NotAnIommufd(fd))?;
    file.context().map_err(|_| VfioError::Closed)
}
