//! Requests that call a file's implementor, each on a thread of its own.

use super::core::Core;
use super::flight::Flight;
use super::handles::{Handle, Opened, Reason};
use super::park::Wait;
use super::quick::OPEN_FLAGS;
use crate::tree::{Kind, Node};
use crate::wire::abi::{IoctlOut, OpenOut, POLL_SCHEDULE_NOTIFY, PollOut, WRITE_CACHE, WriteOut, fopen};
use crate::wire::{Answer, Op, Request};
use crate::{Attribute, Caller, DeviceNode, Ioctl, OpenFile, OpenFlags, PollEvents, Read};
use nix::errno::Errno;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use virtio_mdev_api::Refusal;
use zerocopy::IntoBytes;

/// Longest value of an attribute: a page, as in sysfs.
const MAX_VALUE: usize = 4096;

/// Serves one request and answers it; or says what it has to wait for.
pub(super) fn work(core: &Core, request: &Request<'_>, flight: &Arc<Flight>) -> Option<Wait> {
    let served = match request.op {
        Op::Open { flags } => {
            open(core, request, flight, flags);
            return None;
        }
        Op::Release { fh } => {
            release(core, flight, fh);
            return None;
        }
        Op::Read { .. } => match read(core, request, flight) {
            Ok(Found::Data(data)) => Ok(Answer::Data(data)),
            Ok(Found::Nothing(wait)) => return Some(wait),
            Err(errno) => Err(errno),
        },
        _ => serve(core, request, flight),
    };
    core.answer(flight, &served.unwrap_or_else(Answer::Error));
    None
}

/// What a read found.
enum Found {
    Data(Vec<u8>),
    Nothing(Wait),
}

fn read(core: &Core, request: &Request<'_>, flight: &Arc<Flight>) -> Result<Found, Errno> {
    let Op::Read { fh, offset, size, flags } = request.op else { return Err(Errno::EIO) };
    let len = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let handle = core.host.handles.get(fh).ok_or(Errno::EBADF)?;
    let data = match &handle.kind {
        Opened::Attribute(_) => read_attribute(&handle, offset, len)?,
        Opened::Device(file) => {
            let caller = caller(core, request, flight)?;
            let read = Read { offset, len, nonblock: flags & libc::O_NONBLOCK.cast_unsigned() != 0 };
            // Before the look: who is woken from now on looks again. A file with a backing is no stream, so a read that
            // waited would hold the lock that a write needs.
            let waiters = file.waiters().filter(|_| handle.backing.is_none());
            let wait = waiters.map(|queue| Wait { turn: queue.turn(&core.bell), queue: queue.clone() });
            match (guarded(|| file.read(&caller, &read))?, wait) {
                (Err(Errno::EAGAIN), Some(wait)) if !read.nonblock => return Ok(Found::Nothing(wait)),
                (data, _) => data?,
            }
        }
    };
    if data.len() > len { Err(Errno::EIO) } else { Ok(Found::Data(data)) }
}

fn poll(core: &Core, request: &Request<'_>, flight: &Arc<Flight>) -> Result<Answer, Errno> {
    let Op::Poll { fh, kh, flags, events } = request.op else { return Err(Errno::EIO) };
    let handle = core.host.handles.get(fh).ok_or(Errno::EBADF)?;
    let found = match &handle.kind {
        Opened::Attribute(_) => PollEvents::IN | PollEvents::OUT,
        Opened::Device(file) => {
            let caller = caller(core, request, flight)?;
            if let Some(queue) = file.waiters().filter(|_| flags & POLL_SCHEDULE_NOTIFY != 0) {
                // Before the look, as above.
                queue.turn(&core.bell);
                queue.polled(kh);
            }
            guarded(|| file.poll(&caller, PollEvents::from_bits_truncate(events)))?
        }
    };
    Ok(Answer::of(&PollOut { revents: found.bits(), padding: 0 }))
}

/// Runs an implementor's code; a panic in it is its file's failure, EIO.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, Errno> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| {
        tracing::error!("a file's implementor panicked");
        Errno::EIO
    })
}

fn caller(core: &Core, request: &Request<'_>, flight: &Arc<Flight>) -> Result<Caller, Errno> {
    if request.tid == 0 {
        tracing::warn!(uid = request.uid, "a caller outside our pid namespace cannot be served");
        return Err(Errno::EPERM);
    }
    Ok(Caller::new(request.tid, request.uid, request.gid, flight.clone(), core.host.clone()))
}

fn serve(core: &Core, request: &Request<'_>, flight: &Arc<Flight>) -> Result<Answer, Errno> {
    let handle = |fh| core.host.handles.get(fh).ok_or(Errno::EBADF);
    match request.op {
        Op::Poll { .. } => poll(core, request, flight),
        Op::Write { fh, offset, flags, data } => {
            if flags & WRITE_CACHE != 0 {
                return Err(Errno::EPERM);
            }
            let (handle, caller) = (handle(fh)?, caller(core, request, flight)?);
            let taken = match &handle.kind {
                Opened::Attribute(_) => write_attribute(&handle, &caller, data)?,
                Opened::Device(file) => guarded(|| file.write(&caller, offset, data))??,
            };
            let size = u32::try_from(taken.min(data.len())).map_err(|_| Errno::EIO)?;
            Ok(Answer::of(&WriteOut { size, padding: 0 }))
        }
        Op::Ioctl { fh, cmd, arg, input, out_size, .. } => {
            let handle = handle(fh)?;
            let Opened::Device(file) = &handle.kind else { return Err(Errno::ENOTTY) };
            let caller = caller(core, request, flight)?;
            ioctl(file, &caller, &Ioctl { cmd, arg, input }, out_size)
        }
        _ => Ok(Answer::NotOffered),
    }
}

fn ioctl(file: &Arc<dyn OpenFile>, caller: &Caller, call: &Ioctl<'_>, out_size: u32) -> Result<Answer, Errno> {
    let reply = guarded(|| file.ioctl(caller, call))??;
    if reply.value < 0 || u32::try_from(reply.output.len()).is_ok_and(|len| len > out_size) {
        tracing::error!(cmd = call.cmd, value = reply.value, output = reply.output.len(), "an ioctl's reply is bad");
        return Err(Errno::EIO);
    }
    let head = IoctlOut { result: reply.value, ..IoctlOut::default() };
    Ok(Answer::Data([head.as_bytes(), &reply.output].concat()))
}

fn attribute(handle: &Handle) -> Result<&Arc<dyn Attribute>, Errno> {
    match &handle.node.kind {
        Kind::Attribute(_) if handle.node.is_removed() => Err(Errno::ENODEV),
        Kind::Attribute(attribute) => Ok(attribute),
        _ => Err(Errno::EBADF),
    }
}

fn read_attribute(handle: &Handle, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
    let Opened::Attribute(state) = &handle.kind else { return Err(Errno::EBADF) };
    let mut state = state.lock();
    if let Some(reason) = &mut state.reason {
        let base = *reason.base.get_or_insert(offset);
        let part = part(&reason.text, offset.saturating_sub(base), size);
        if part.is_empty() {
            state.reason = None;
        }
        return Ok(part);
    }
    if offset == 0 {
        let attribute = attribute(handle)?;
        state.text = guarded(|| attribute.show())?.map_err(|refusal| refusal.errno())?.into_bytes();
    }
    Ok(part(&state.text, offset, size))
}

fn part(text: &[u8], offset: u64, size: usize) -> Vec<u8> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    text[from..text.len().min(from.saturating_add(size))].to_vec()
}

/// One write is one store. Why it was refused can be read from the same descriptor next.
fn write_attribute(handle: &Handle, caller: &Caller, data: &[u8]) -> Result<usize, Errno> {
    let Opened::Attribute(state) = &handle.kind else { return Err(Errno::EBADF) };
    let stored = if data.len() > MAX_VALUE {
        Err(Refusal::new(Errno::EINVAL, format!("a value has at most {MAX_VALUE} bytes")))
    } else {
        let attribute = attribute(handle)?;
        guarded(|| attribute.store(caller, data))?
    };
    let mut state = state.lock();
    state.reason = None;
    stored.map(|()| data.len()).map_err(|refusal| {
        state.reason = Some(Reason { text: format!("{}\n", refusal.reason()).into_bytes(), base: None });
        refusal.errno()
    })
}

fn open(core: &Core, request: &Request<'_>, flight: &Arc<Flight>, flags: u32) {
    let opened = (|| {
        let node = core.tree.get(request.node).ok_or(Errno::ENODEV)?;
        let Kind::Device(device) = &node.kind else { return Err(Errno::ENXIO) };
        let caller = caller(core, request, flight)?;
        let file = open_device(core, &node, device, &caller, open_flags(flags))?;
        Ok((node.clone(), file))
    })();
    match opened {
        Ok((node, file)) => {
            let memory = guarded(|| file.backing()).ok().flatten();
            let backing = memory.and_then(|memory| core.backings.find(&core.fuse, &node, &memory));
            let (more, backing_id) = match &backing {
                Some(backing) => (fopen::PASSTHROUGH, backing.number),
                None => (if file.waiters().is_some() { fopen::STREAM } else { 0 }, 0),
            };
            let fh = core.host.handles.insert(node.clone(), Opened::Device(file.clone()), backing);
            let answer = Answer::of(&OpenOut { fh, open_flags: OPEN_FLAGS | more, backing_id });
            // Nobody got the descriptor: nobody will close it.
            let unclaimed = !core.answer(flight, &answer) && core.host.handles.remove(fh).is_some();
            if unclaimed {
                guarded(|| file.release()).ok();
            }
            node.releases.end(unclaimed);
        }
        Err(errno) => {
            core.answer(flight, &Answer::Error(errno));
        }
    }
}

fn open_flags(flags: u32) -> OpenFlags {
    let access = flags & libc::O_ACCMODE.cast_unsigned();
    OpenFlags {
        read: access != libc::O_WRONLY.cast_unsigned(),
        write: access != libc::O_RDONLY.cast_unsigned(),
        nonblock: flags & libc::O_NONBLOCK.cast_unsigned() != 0,
    }
}

/// Opens a device. A close returns to its caller before we hear of it, and so does an open whose caller was killed; so
/// EBUSY while a release or another open is under way is not yet an answer: wait for its end, for a bounded time, and
/// ask again. An open that succeeds is under way until its answer is sent; the caller says when.
fn open_device(
    core: &Core,
    node: &Arc<Node>,
    device: &Arc<dyn DeviceNode>,
    caller: &Caller,
    flags: OpenFlags,
) -> Result<Arc<dyn OpenFile>, Errno> {
    let deadline = Instant::now() + core.config.release_wait;
    loop {
        let before = node.releases.begin();
        match guarded(|| device.clone().open(caller, flags)) {
            Ok(Ok(file)) => return Ok(file),
            Ok(Err(Errno::EBUSY)) => node.releases.end(false),
            // It may have held the device for a while.
            Ok(Err(errno)) | Err(errno) => {
                node.releases.end(true);
                return Err(errno);
            }
        }
        caller.still_there()?;
        if !node.releases.wait(before, deadline) {
            return Err(Errno::EBUSY);
        }
    }
}

/// Counts a release that was read from the kernel: opens that are read later know of it.
pub(super) fn release_begins(core: &Core, fh: u64) {
    if let Some(handle) = core.host.handles.get(fh) {
        handle.releases().begin();
    }
}

fn release(core: &Core, flight: &Flight, fh: u64) {
    if let Some(handle) = core.host.handles.remove(fh) {
        if let Opened::Device(file) = &handle.kind {
            guarded(|| file.release()).ok();
        }
        handle.releases().end(true);
    }
    core.answer(flight, &Answer::empty());
}
