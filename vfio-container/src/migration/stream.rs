//! The data stream of a migration: what is read of a source, and what is written to a destination.
//!
//! Nobody waits at it: what there is to read is there when the state changes, so a poll finds it ready, as it finds files
//! of the kernel that cannot be polled.

use super::format::{self, StreamError};
use crate::error::VfioError;
use crate::wire::fetch;
use crate::{Client, VfioDevice};
use devnode::{Caller, Ioctl, IoctlReply, OpenFile, Read};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::mem::size_of;
use std::sync::Arc;
use vfio_abi::command::VFIO_MIG_GET_PRECOPY_INFO;
use vfio_abi::migration::PrecopyInfo;
use virtio_mdev_api::HasErrno;
use zerocopy::IntoBytes;

/// A data stream. It ends when the device leaves the states it is for.
pub struct DataStream(Mutex<Flow>);

enum Flow {
    /// What the source tells.
    Saving {
        bytes: Vec<u8>,
        /// How many were read.
        read: usize,
        /// Whether the device has stopped, and all of it is there.
        is_whole: bool,
    },
    /// What the destination was told.
    Resuming {
        bytes: Vec<u8>,
        device: Arc<dyn VfioDevice>,
        refused: Option<VfioError>,
    },
    Ended,
}

impl DataStream {
    /// Of a source that runs: what its device says of itself.
    pub(super) fn of_source(identity: &[u8]) -> Result<Arc<Self>, VfioError> {
        let bytes = format::begin(identity)?;
        Ok(Self::of(Flow::Saving { bytes, read: 0, is_whole: false }))
    }

    /// Of a destination.
    pub(super) fn of_destination(device: Arc<dyn VfioDevice>) -> Arc<Self> {
        Self::of(Flow::Resuming { bytes: Vec::new(), device, refused: None })
    }

    fn of(flow: Flow) -> Arc<Self> {
        Arc::new(Self(Mutex::new(flow)))
    }

    /// The source has stopped in this state.
    pub(super) fn complete(&self, state: &[u8]) -> Result<(), VfioError> {
        match &mut *self.0.lock() {
            Flow::Saving { bytes, is_whole, .. } => {
                format::finish(bytes, state)?;
                *is_whole = true;
                Ok(())
            }
            _ => Err(VfioError::StreamEnded),
        }
    }

    /// From now on every call is ENODEV.
    pub(super) fn end(&self) {
        let ended = std::mem::replace(&mut *self.0.lock(), Flow::Ended);
        // It may be the last to hold the device.
        drop(ended);
    }

    /// Ends it: the state that was written.
    pub(super) fn take_state(&self) -> Result<Vec<u8>, VfioError> {
        let ended = std::mem::replace(&mut *self.0.lock(), Flow::Ended);
        let Flow::Resuming { bytes, refused, .. } = ended else { return Err(VfioError::StreamEnded) };
        match refused {
            Some(error) => Err(error),
            None => Ok(format::parse(&bytes)?.state.ok_or(StreamError::Truncated)?.to_vec()),
        }
    }

    /// Serves a `read`.
    pub fn serve_read(&self, len: usize) -> Result<Vec<u8>, Errno> {
        match &mut *self.0.lock() {
            Flow::Saving { bytes, read, is_whole } => {
                let next = &bytes[*read..];
                if next.is_empty() && !*is_whole {
                    return Err(Errno::ENOMSG);
                }
                let next = next[..next.len().min(len)].to_vec();
                *read += next.len();
                Ok(next)
            }
            Flow::Resuming { .. } => Err(Errno::EBADF),
            Flow::Ended => Err(Errno::ENODEV),
        }
    }

    /// Serves a `write`: a stream is refused as soon as it is known not to be one for the device, and then stays so.
    pub fn serve_write(&self, data: &[u8]) -> Result<usize, Errno> {
        match &mut *self.0.lock() {
            Flow::Resuming { bytes, device, refused } => {
                let outcome = match refused {
                    Some(error) => return Err(error.errno()),
                    None => append(bytes, data, &**device),
                };
                outcome.map_err(|error| {
                    tracing::info!(%error, "a migration stream is refused");
                    let errno = error.errno();
                    *refused = Some(error);
                    errno
                })?;
                Ok(data.len())
            }
            Flow::Saving { .. } => Err(Errno::EBADF),
            Flow::Ended => Err(Errno::ENODEV),
        }
    }

    /// Serves an ioctl of `client`.
    pub fn serve(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let answer = match call.cmd {
            VFIO_MIG_GET_PRECOPY_INFO => self.precopy_info(client, call.arg),
            cmd => Err(VfioError::Unknown(cmd)),
        };
        answer.map_err(|error| error.errno())
    }

    fn precopy_info(&self, client: &dyn Client, arg: u64) -> Result<IoctlReply, VfioError> {
        let PrecopyInfo { argsz, .. } = fetch(client, arg, size_of::<PrecopyInfo>())?;
        let initial_bytes = match &*self.0.lock() {
            Flow::Saving { bytes, read, is_whole: false } => bytes.len() - read,
            Flow::Saving { .. } => return Err(VfioError::NotPreCopy),
            Flow::Resuming { .. } => return Err(VfioError::Unknown(VFIO_MIG_GET_PRECOPY_INFO)),
            Flow::Ended => return Err(VfioError::StreamEnded),
        };
        let initial_bytes = u64::try_from(initial_bytes).unwrap_or(u64::MAX);
        let info = PrecopyInfo { argsz, flags: 0, initial_bytes, dirty_bytes: 0 };
        client.write(arg, info.as_bytes())?;
        Ok(IoctlReply::ok())
    }
}

fn append(bytes: &mut Vec<u8>, data: &[u8], device: &dyn VfioDevice) -> Result<(), VfioError> {
    if bytes.len() + data.len() > format::MAX_STREAM {
        return Err(StreamError::TooLong.into());
    }
    let was_known = format::parse(bytes)?.identity.is_some();
    bytes.extend_from_slice(data);
    let parsed = format::parse(bytes)?;
    if let Some(identity) = parsed.identity.filter(|_| !was_known) {
        device.migration().ok_or(VfioError::NoMigration)?.accepts(identity)?;
    }
    Ok(())
}

impl OpenFile for DataStream {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.serve(caller, call)
    }

    fn read(&self, _caller: &Caller, read: &Read) -> Result<Vec<u8>, Errno> {
        self.serve_read(read.len)
    }

    fn write(&self, _caller: &Caller, _offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.serve_write(data)
    }

    /// The device stays in its state: a stream that was not read or written to its end is missed when that changes.
    fn release(&self) {}
}

impl std::fmt::Debug for DataStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataStream").finish_non_exhaustive()
    }
}
