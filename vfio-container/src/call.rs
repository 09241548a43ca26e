//! What every device file does with a call: takes its argument, fetches a descriptor it names, answers a value.

use crate::Client;
use crate::trace::Trace;
use devnode::{Ioctl, IoctlReply};
use nix::errno::Errno;
use virtio_mdev_api::notify::EventFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `VHOST_FILE_UNBIND`: no descriptor.
pub const UNBIND: i32 = -1;

/// The argument of a call as the kernel copied it in.
pub fn argument<T: FromBytes>(call: &Ioctl<'_>) -> Result<T, Errno> {
    let (value, _) = T::read_from_prefix(call.input).map_err(|_| Errno::EFAULT)?;
    Ok(value)
}

/// The eventfd that the client calls `fd`; -1 is none. Looks into the client.
pub fn eventfd(client: &dyn Client, fd: i32, trace: &mut Trace) -> Result<Option<EventFd>, Errno> {
    trace.arg("fd", fd);
    if fd == UNBIND { Ok(None) } else { Ok(Some(client.eventfd(fd)?)) }
}

/// Answers a number.
pub fn tell<T: IntoBytes + Immutable + Into<u64> + Copy, E>(value: T, trace: &mut Trace) -> Result<IoctlReply, E> {
    trace.arg("answer", value.into());
    tell_bytes(value.as_bytes())
}

/// Answers a structure.
pub fn tell_bytes<E>(bytes: &[u8]) -> Result<IoctlReply, E> {
    Ok(IoctlReply::output(bytes))
}
