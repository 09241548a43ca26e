//! What rules ask in: outcomes of calls, and waits with an end.

use super::abi::*;
use super::device::{Device, Subject};
use super::report::{Ended, Outcome, fail, skip};
use super::ring;
use super::sys::Shared;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where memory is put, where the device reaches there.
const IOVA: u64 = 0x1000_0000;
/// How long a device may take for a frame.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long is waited for what must not happen, or may not.
pub const QUIET: Duration = Duration::from_millis(150);

/// Turns an errno into what was seen.
pub fn call<T>(name: &str, result: nix::Result<T>) -> Result<T, Ended> {
    result.or_else(|errno| fail(format!("{name}: {errno:?}")))
}

/// Demands one of these errnos.
pub fn refused<T>(name: &str, result: nix::Result<T>, wanted: &[Errno]) -> Outcome {
    match result {
        Err(errno) if wanted.contains(&errno) => Ok(format!("{name}: {errno:?}")),
        Err(errno) => fail(format!("{name}: {errno:?}")),
        Ok(_) => fail(format!("{name}: accepted")),
    }
}

/// Opens the file and becomes its owner.
pub fn owned(subject: &Subject) -> Result<Device, Ended> {
    let device = call("open", Device::open(subject))?;
    call("VHOST_SET_OWNER", device.order(VHOST_SET_OWNER))?;
    Ok(device)
}

/// The number of queues; a device has no more than an index of 16 bits can tell apart.
pub fn queues(device: &Device) -> Result<u32, Ended> {
    let queues = call("VHOST_VDPA_GET_VQS_COUNT", device.number(VHOST_VDPA_GET_VQS_COUNT))?;
    match u32::try_from(queues) {
        Ok(queues @ 1..=0xffff) => Ok(queues),
        _ => fail(format!("{queues} queues")),
    }
}

/// The features a driver with split rings and nothing else accepts.
pub fn plain_features(device: &Device) -> Result<u64, Ended> {
    Ok(call("VHOST_GET_FEATURES", device.number(VHOST_GET_FEATURES))? & (VERSION_1 | ACCESS_PLATFORM))
}

/// Memory for both rings, and where the device can have it.
pub fn memory(device: &Device) -> Result<(Arc<Shared>, u64), Ended> {
    let memory = call("memory", ring::memory())?;
    let (first, last) = call("VHOST_VDPA_GET_IOVA_RANGE", device.iova_range())?;
    let iova = first.max(IOVA).checked_next_multiple_of(1 << 16);
    match iova.filter(|iova| last.checked_sub(*iova).is_some_and(|room| room >= memory.len())) {
        Some(iova) => Ok((Arc::new(memory), iova)),
        None => skip(format!("no room from {first:#x} to {last:#x}")),
    }
}

/// Whether something can be read from an eventfd within `time`; it is read.
pub fn rung(event: &EventFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) && event.read().is_ok()
}

/// Whether `condition` becomes true within `time`.
pub fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() > time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
