//! Requests that the leader answers itself: they block on nobody.

use super::attr::{attr_out, entry_out, file_type};
use super::core::Core;
use super::handles::{AttributeState, Opened};
use crate::sys::WHO_IS_THIS;
use crate::tree::{Kind, NAME_MAX, Node};
use crate::wire::abi::{self, InitOut, IoctlOut, OpenOut, SetattrIn, StatfsOut, fopen, init, setattr};
use crate::wire::{Answer, Op, Request, directory_entry};
use nix::errno::Errno;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zerocopy::IntoBytes;

/// Requests the kernel sends without waiting for the one before, releases above all: no bound of ours.
const MAX_BACKGROUND: u16 = u16::MAX;

/// Flags of every open file. Direct: one `read` or `write` of a client is one request, and shared mappings are
/// refused with ENODEV, but of a file with a backing. No flush: a close never waits for us.
pub(super) const OPEN_FLAGS: u32 = fopen::DIRECT_IO | fopen::NOFLUSH | fopen::PARALLEL_DIRECT_WRITES;

/// The answer, or None for a request that may block and needs a thread of its own.
pub(super) fn answer(core: &Core, request: &Request<'_>) -> Option<Answer> {
    match try_answer(core, request) {
        Ok(answer) => answer,
        Err(errno) => Some(Answer::Error(errno)),
    }
}

fn try_answer(core: &Core, request: &Request<'_>) -> Result<Option<Answer>, Errno> {
    let node = || core.node(request.node).ok_or(Errno::ENOENT);
    Ok(Some(match request.op {
        Op::Lookup { name } => {
            let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
            if name.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            let found = match name {
                "." => core.tree.get(request.node),
                ".." => core.tree.get(request.node).and_then(|node| core.tree.get(node.parent)),
                name => core.tree.lookup(request.node, name),
            };
            Answer::of(&entry_out(&core.tree, &*found.ok_or(Errno::ENOENT)?))
        }
        Op::Getattr => Answer::of(&attr_out(&core.tree, &*node()?)),
        Op::Setattr { set } => {
            let node = node()?;
            change(&node, &set);
            Answer::of(&attr_out(&core.tree, &node))
        }
        Op::Readlink => match &node()?.kind {
            Kind::Link(target) => Answer::Data(target.clone().into_bytes()),
            _ => Answer::Error(Errno::EINVAL),
        },
        Op::Readdir { offset, size } => readdir(core, request.node, offset, size)?,
        Op::Opendir => match node()?.kind {
            Kind::Directory => Answer::of(&OpenOut::default()),
            _ => Answer::Error(Errno::ENOTDIR),
        },
        Op::Open { flags } => return open(core, &node()?, flags),
        Op::Release { fh } => return Ok(release(core, fh)),
        Op::Ioctl { fh, cmd, flags, .. } => return ioctl(core, request.tid, fh, cmd, flags),
        Op::Mknod { mode, name } => mknod(core, request, mode, name)?,
        Op::Statfs => Answer::of(&StatfsOut { bsize: 4096, frsize: 4096, namelen: 255, ..StatfsOut::default() }),
        Op::Flush | Op::Releasedir | Op::Access | Op::Destroy => Answer::empty(),
        // As sysfs answers: no file is made by a client.
        Op::Create => Answer::Error(Errno::EACCES),
        Op::ChangeDirectory => Answer::Error(Errno::EPERM),
        Op::Init { major, minor, flags, flags2 } => initialise(core, (major, minor), flags, flags2),
        Op::Forget | Op::Silent | Op::Interrupt { .. } => Answer::None,
        Op::Unknown => Answer::NotOffered,
        Op::Read { .. } | Op::Write { .. } | Op::Poll { .. } => return Ok(None),
    }))
}

fn initialise(core: &Core, (major, minor): (u32, u32), offered: u32, offered2: u32) -> Answer {
    if major < abi::MAJOR || (major == abi::MAJOR && minor < 31) {
        tracing::error!(major, minor, "this kernel's FUSE protocol is too old");
        return Answer::Error(Errno::EPROTO);
    }
    let wanted = init::ATOMIC_O_TRUNC | init::BIG_WRITES | init::PARALLEL_DIROPS | init::MAX_PAGES | init::INIT_EXT;
    let flags2 = offered2 & init::PASSTHROUGH;
    if flags2 == 0 {
        tracing::info!("this kernel has no FUSE passthrough: files cannot be mapped");
    } else {
        core.backings.negotiated();
    }
    tracing::debug!(major, minor, flags = offered & wanted, flags2, "connected");
    Answer::of(&InitOut {
        major: abi::MAJOR,
        minor: minor.min(abi::MINOR),
        flags: offered & wanted,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND,
        max_write: abi::MAX_WRITE,
        time_gran: 1,
        max_pages: u16::try_from(abi::MAX_WRITE / 4096).unwrap_or(1),
        flags2,
        // What backs a file of ours lies on a file system that stands on none.
        max_stack_depth: u32::from(flags2 != 0),
        ..InitOut::default()
    })
}

/// The kernel has checked that the caller may. A size is accepted and forgotten: shells truncate what they write to.
fn change(node: &Node, set: &SetattrIn) {
    let mut meta = node.meta.lock();
    if set.valid & setattr::MODE != 0 {
        meta.mode = u16::try_from(set.mode & 0o7777).unwrap_or(meta.mode);
    }
    if set.valid & setattr::UID != 0 {
        meta.uid = set.uid;
    }
    if set.valid & setattr::GID != 0 {
        meta.gid = set.gid;
    }
    if set.valid & setattr::MTIME_NOW != 0 {
        meta.modified = SystemTime::now();
    } else if set.valid & setattr::MTIME != 0 {
        let time = Duration::new(set.mtime, 0).checked_add(Duration::from_nanos(u64::from(set.mtimensec)));
        meta.modified = time.and_then(|time| UNIX_EPOCH.checked_add(time)).unwrap_or(meta.modified);
    }
}

fn readdir(core: &Core, node: u64, offset: u64, size: u32) -> Result<Answer, Errno> {
    let size = usize::try_from(size.min(abi::MAX_WRITE)).map_err(|_| Errno::EINVAL)?;
    let this = core.tree.get(node).ok_or(Errno::ENOENT)?;
    let mut buffer = Vec::with_capacity(size.min(4096));
    let kind = |mode: u32| mode >> 12;
    for (at, name, ino) in [(0, ".", node), (1, "..", this.parent)] {
        if offset <= at && !directory_entry(&mut buffer, size, ino, at + 1, kind(libc::S_IFDIR), name) {
            return Ok(Answer::Data(buffer));
        }
    }
    // An entry's offset is its number plus one; numbers begin at 2.
    let after = offset.saturating_sub(1).max(1);
    for (name, child) in core.tree.entries(node, after, size / 24 + 1).ok_or(Errno::ENOTDIR)? {
        if !directory_entry(&mut buffer, size, child.id, child.id + 1, kind(file_type(&child)), &name) {
            break;
        }
    }
    Ok(Answer::Data(buffer))
}

/// Opens what needs no caller; a device file decides itself.
fn open(core: &Core, node: &Arc<Node>, flags: u32) -> Result<Option<Answer>, Errno> {
    match &node.kind {
        Kind::Device(_) => Ok(None),
        Kind::Attribute(_) => {
            let mode = node.meta.lock().mode;
            let access = flags & libc::O_ACCMODE.cast_unsigned();
            let writes = access != libc::O_RDONLY.cast_unsigned();
            let reads_only = access == libc::O_RDONLY.cast_unsigned();
            // sysfs refuses this to the superuser too. Reading and writing is let through without read permission,
            // so that a writer can read why it was refused.
            if (writes && mode & 0o222 == 0) || (reads_only && mode & 0o444 == 0) {
                return Err(Errno::EACCES);
            }
            let kind = Opened::Attribute(parking_lot::Mutex::new(AttributeState::default()));
            let fh = core.host.handles.insert(node.clone(), kind, None);
            Ok(Some(Answer::of(&OpenOut { fh, open_flags: OPEN_FLAGS, backing_id: 0 })))
        }
        Kind::Directory => Err(Errno::EISDIR),
        Kind::Link(_) => Err(Errno::ELOOP),
        Kind::Socket => Err(Errno::ENXIO),
    }
}

/// Releases what has nobody to tell.
fn release(core: &Core, fh: u64) -> Option<Answer> {
    let device = core.host.handles.get(fh).is_some_and(|handle| matches!(handle.kind, Opened::Device(_)));
    if device {
        return None;
    }
    core.host.handles.remove(fh);
    Some(Answer::empty())
}

fn ioctl(core: &Core, tid: i32, fh: u64, cmd: u32, flags: u32) -> Result<Option<Answer>, Errno> {
    if flags & abi::IOCTL_DIR != 0 {
        return Err(Errno::ENOTTY);
    }
    if cmd == WHO_IS_THIS {
        if !core.host.is_asking(tid) {
            return Err(Errno::ENOTTY);
        }
        return Ok(Some(Answer::Data([IoctlOut::default().as_bytes(), fh.as_bytes()].concat())));
    }
    match core.host.handles.get(fh).ok_or(Errno::EBADF)?.kind {
        Opened::Device(_) => Ok(None),
        Opened::Attribute(_) => Err(Errno::ENOTTY),
    }
}

/// Only we ourselves make a file this way: the inode of a socket that is being bound.
fn mknod(core: &Core, request: &Request<'_>, mode: u32, name: &[u8]) -> Result<Answer, Errno> {
    if mode & libc::S_IFMT != libc::S_IFSOCK || !core.host.is_asking(request.tid) {
        return Err(Errno::EPERM);
    }
    let name = std::str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
    let permissions = u16::try_from(mode & 0o7777).map_err(|_| Errno::EINVAL)?;
    let id = core.tree.socket(request.node, name, permissions).map_err(|_| Errno::EEXIST)?;
    let node = core.tree.get(id).ok_or(Errno::ENOENT)?;
    Ok(Answer::of(&entry_out(&core.tree, &node)))
}
