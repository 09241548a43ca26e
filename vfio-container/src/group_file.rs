//! An open `/dev/vfio/<n>`.

use crate::container_file::{ContainerFile, refuse};
use crate::error::VfioError;
use crate::trace::Trace;
use crate::wire::fetch;
use crate::{Client, DeviceFile, Group};
use devnode::{Caller, Ioctl, IoctlReply, OpenFile};
use nix::errno::Errno;
use std::any::Any;
use std::mem::size_of;
use std::sync::Arc;
use vfio_abi::GroupStatus;
use vfio_abi::command::*;
use vfio_bindings::bindings::vfio::{VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE};
use zerocopy::IntoBytes;

/// Longest device name, its final zero included: what the kernel reads.
const NAME_MAX: usize = 4096;

/// An open group.
pub struct GroupFile {
    group: Arc<Group>,
    id: u64,
}

impl GroupFile {
    pub(crate) fn new(group: Arc<Group>, id: u64) -> Self {
        Self { group, id }
    }

    /// Serves an ioctl of `client`.
    pub fn serve(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let mut trace = Trace::begin(self.group.trace());
        let name = vfio_abi::command::name(call.cmd).unwrap_or("unknown");
        let outcome = self.dispatch(client, call, &mut trace);
        trace.answer(client, "group", name, outcome)
    }

    fn dispatch(&self, client: &dyn Client, call: &Ioctl<'_>, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        let attached = self.group.check_open(self.id)?;
        match call.cmd {
            VFIO_GROUP_GET_STATUS => get_status(client, call.arg, attached),
            VFIO_GROUP_SET_CONTAINER => self.set_container(client, call.arg, trace),
            VFIO_GROUP_UNSET_CONTAINER if attached && !self.group.attached_by(client) => Err(VfioError::Foreign),
            VFIO_GROUP_UNSET_CONTAINER => {
                self.group.releases().retry(|| self.group.unset(self.id))?;
                Ok(IoctlReply::ok())
            }
            VFIO_GROUP_GET_DEVICE_FD => self.get_device_fd(client, call.arg, trace),
            cmd => Err(refuse(cmd)),
        }
    }

    fn set_container(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        let mut bytes = [0; size_of::<i32>()];
        client.read(arg, &mut bytes)?;
        let fd = i32::from_ne_bytes(bytes);
        trace.arg("fd", fd);
        if fd < 0 {
            return Err(VfioError::Negative(fd));
        }
        let file = match client.device_file(fd) {
            // A descriptor of another kind.
            Err(Errno::EINVAL) => Err(VfioError::NotAContainer(fd)),
            file => Ok(file?),
        }?;
        let file: Arc<dyn Any + Send + Sync> = file;
        let file = file.downcast::<ContainerFile>().map_err(|_| VfioError::NotAContainer(fd))?;
        let home = client.home()?;
        self.group.attach(self.id, file.container().clone(), home)?;
        Ok(IoctlReply::ok())
    }

    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// VFIO_GROUP_GET_DEVICE_FD, for one that has another way to get the descriptor.
    pub(crate) fn open_device(&self, client: &dyn Client, name: &str) -> Result<Arc<DeviceFile>, VfioError> {
        self.group.check_open(self.id)?;
        if name != self.group.device_name() {
            return Err(VfioError::NoSuchDevice(name.to_owned()));
        }
        self.group.open_device(self.id, client)
    }

    /// An answer to an ioctl carries no descriptor, so this one ends in EOPNOTSUPP for a request that is right.
    fn get_device_fd(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
        let name = read_name(client, arg)?;
        trace.arg("name", name.as_str());
        if name != self.group.device_name() {
            return Err(VfioError::NoSuchDevice(name));
        }
        if !self.group.has_iommu(self.id)? {
            return Err(VfioError::NoIommu);
        }
        Err(VfioError::NoDeviceFd)
    }
}

fn get_status(client: &dyn Client, arg: u64, attached: bool) -> Result<IoctlReply, VfioError> {
    let mut status: GroupStatus = fetch(client, arg, size_of::<GroupStatus>())?;
    status.flags = VFIO_GROUP_FLAGS_VIABLE | if attached { VFIO_GROUP_FLAGS_CONTAINER_SET } else { 0 };
    client.write(arg, status.as_bytes())?;
    Ok(IoctlReply::ok())
}

/// A string that ends with a zero, read no further than the page the zero is in.
fn read_name(client: &dyn Client, addr: u64) -> Result<String, VfioError> {
    let mut name = Vec::new();
    while name.len() < NAME_MAX {
        let at = u64::try_from(name.len()).ok().and_then(|read| addr.checked_add(read)).ok_or(Errno::EFAULT)?;
        let to_page_end = usize::try_from(4096 - at % 4096).unwrap_or(1);
        let mut chunk = vec![0; to_page_end.min(64).min(NAME_MAX - name.len())];
        client.read(at, &mut chunk)?;
        if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
            name.extend_from_slice(&chunk[..end]);
            return Ok(String::from_utf8_lossy(&name).into_owned());
        }
        name.append(&mut chunk);
    }
    Err(VfioError::LongName(NAME_MAX))
}

impl OpenFile for GroupFile {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.serve(caller, call)
    }

    fn release(&self) {
        self.group.close(self.id);
    }
}
