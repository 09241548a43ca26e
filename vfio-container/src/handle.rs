//! `dev/vfio/handle` and `dev/vfio/stream`: how a descriptor that an ioctl should have installed in its caller is had.

use crate::call::argument;
use crate::error::VfioError;
use crate::trace::Trace;
use crate::{Client, DataStream, DeviceFile, GroupFile};
use devnode::{Caller, DeviceNode, Ioctl, IoctlReply, OpenFile, OpenFlags, PollEvents, Read, Releases, WaitQueue};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::any::Any;
use std::sync::{Arc, OnceLock};
use vfio_abi::handle::{GetDevice, MigState, UMDEV_HANDLE_GET_DEVICE, UMDEV_HANDLE_MIG_STATE};
use zerocopy::IntoBytes;

/// The node: every open of it is an empty handle.
#[derive(Debug, Default)]
pub struct HandleNode;

impl DeviceNode for HandleNode {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(Arc::new(HandleFile::default()))
    }
}

/// The same for data streams. Who reads a file to its end makes room for what `stat` says its size is, and finds none
/// for that of a device.
#[derive(Debug, Default)]
pub struct StreamNode;

impl DeviceNode for StreamNode {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(Arc::new(HandleFile::default()))
    }

    fn size(&self) -> u64 {
        1 << 24
    }
}

/// An open handle: empty, until it becomes another file for good.
#[derive(Default)]
pub struct HandleFile {
    became: OnceLock<Arc<dyn OpenFile>>,
    closed: Mutex<bool>,
}

impl HandleFile {
    /// What it is now.
    pub(crate) fn became(&self) -> Option<&Arc<dyn OpenFile>> {
        self.became.get()
    }

    /// The device file it is, if it is one.
    pub fn device(&self) -> Option<Arc<DeviceFile>> {
        DeviceFile::behind(Arc::clone(self.became()?))
    }

    /// The data stream it is, if it is one.
    pub fn stream(&self) -> Option<Arc<DataStream>> {
        let file: Arc<dyn Any + Send + Sync> = Arc::clone(self.became()?) as _;
        file.downcast().ok()
    }

    /// Makes it `file`, which is released where the handle is closed already, or is another file by now.
    fn become_file(&self, file: Arc<dyn OpenFile>) -> Result<(), VfioError> {
        let (file, error) = {
            // Under the lock: whoever closes the handle releases what it is by then.
            let closed = self.closed.lock();
            if *closed {
                (file, VfioError::Closed)
            } else {
                match self.became.set(file) {
                    Ok(()) => return Ok(()),
                    Err(file) => (file, VfioError::HandleTaken),
                }
            }
        };
        file.release();
        Err(error)
    }

    /// Serves an ioctl of `client` while it is empty.
    pub fn serve(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let outcome = match call.cmd {
            UMDEV_HANDLE_GET_DEVICE => return self.get_device(client, call),
            UMDEV_HANDLE_MIG_STATE => return self.set_state(client, call),
            cmd => Err(VfioError::Unknown(cmd)),
        };
        Trace::begin(None).answer(client, "handle", "unknown", outcome)
    }

    /// The group is the proof: whoever has it open may have its device.
    fn get_device(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let mut group = None;
        let decoded = decode(client, call, &mut group);
        let mut trace = Trace::begin(group.as_ref().and_then(|group| group.group().trace()));
        let outcome = decoded.and_then(|name| {
            trace.arg("name", name.as_str());
            let group = group.ok_or(VfioError::NotAGroup)?;
            self.become_file(group.open_device(client, &name)?)?;
            Ok(IoctlReply::ok())
        });
        trace.answer(client, "handle", "UMDEV_HANDLE_GET_DEVICE", outcome)
    }
}

impl HandleFile {
    /// The device file is the proof: whoever has it open may move its device.
    fn set_state(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let mut device = None;
        let decoded = decode_state(client, call, &mut device);
        let mut trace = Trace::begin(device.as_ref().and_then(|device| device.trace()));
        let outcome = decoded.and_then(|argument| {
            trace.arg("state", argument.state);
            let device = device.ok_or(VfioError::NotADevice)?;
            let stream = device.set_state(argument.state)?;
            let value = i32::from(stream.is_some());
            if let Some(stream) = stream {
                self.become_file(stream)?;
            }
            Ok(IoctlReply { value, output: argument.as_bytes().to_vec() })
        });
        trace.answer(client, "handle", "UMDEV_HANDLE_MIG_STATE", outcome)
    }
}

/// What is wanted; the device is put where it is wanted as soon as it is known.
fn decode_state(
    client: &dyn Client,
    call: &Ioctl<'_>,
    device: &mut Option<Arc<DeviceFile>>,
) -> Result<MigState, VfioError> {
    let state: MigState = argument(call)?;
    *device = DeviceFile::behind(client.device_file(state.device)?);
    Ok(state)
}

/// The name; the group is put where it is wanted as soon as it is known.
fn decode(client: &dyn Client, call: &Ioctl<'_>, group: &mut Option<Arc<GroupFile>>) -> Result<String, VfioError> {
    let GetDevice { group: fd, reserved, name } = argument(call)?;
    let file: Arc<dyn Any + Send + Sync> = client.device_file(fd)?;
    *group = Some(file.downcast().map_err(|_| VfioError::NotAGroup)?);
    if reserved != 0 {
        return Err(VfioError::Flags { flags: reserved, allowed: 0 });
    }
    let end = name.iter().position(|&byte| byte == 0).ok_or(VfioError::LongName(name.len()))?;
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

impl OpenFile for HandleFile {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        match self.became() {
            Some(file) => file.ioctl(caller, call),
            None => self.serve(caller, call),
        }
    }

    fn read(&self, caller: &Caller, read: &Read) -> Result<Vec<u8>, Errno> {
        self.became().ok_or(Errno::EINVAL)?.read(caller, read)
    }

    fn waiters(&self) -> Option<&WaitQueue> {
        self.became()?.waiters()
    }

    fn poll(&self, caller: &Caller, wanted: PollEvents) -> PollEvents {
        self.became().map_or(PollEvents::IN | PollEvents::OUT, |file| file.poll(caller, wanted))
    }

    fn write(&self, caller: &Caller, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.became().ok_or(Errno::EINVAL)?.write(caller, offset, data)
    }

    fn releases(&self) -> Option<Releases> {
        self.became()?.releases()
    }

    fn release(&self) {
        *self.closed.lock() = true;
        if let Some(file) = self.became() {
            file.release();
        }
    }
}
