//! Who called, and what the caller handed over: memory, descriptors, identity.
//!
//! A caller waits in its system call until it is answered, so until then its thread id means it and nobody else. An
//! answer may come early (a killed caller does not wait for slow work); therefore every look into the caller is
//! followed by a check that it was still waiting, and what was seen counts only then.

mod descriptor;
mod space;

pub(crate) use descriptor::device_of;
pub use space::AddressSpaceId;
pub(crate) use space::{Space, Spaces};

use crate::OpenFile;
use crate::host::Host;
use crate::memory::{self, MapAccess, Maps, Piece};
use crate::server::Flight;
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

/// The thread that made a request.
pub struct Caller {
    tid: i32,
    uid: u32,
    gid: u32,
    /// The request; none for a caller that is this very process.
    flight: Option<Arc<Flight>>,
    host: Arc<Host>,
    mem: OnceLock<File>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("tid", &self.tid).field("uid", &self.uid).field("gid", &self.gid).finish()
    }
}

impl Caller {
    pub(crate) fn new(tid: i32, uid: u32, gid: u32, flight: Arc<Flight>, host: Arc<Host>) -> Self {
        Self { tid, uid, gid, flight: Some(flight), host, mem: OnceLock::new() }
    }

    /// The current thread of this very process as a caller: what serves a client serves it, without a mount.
    pub fn current() -> Self {
        Self {
            tid: nix::unistd::gettid().as_raw(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            flight: None,
            host: Host::detached(),
            mem: OnceLock::new(),
        }
    }

    /// The thread id, in our pid namespace.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// The effective user id, as the file system saw it.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The effective group id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The caller's address space, pinned: what is made from it belongs to it, not to a process number.
    pub fn address_space(&self) -> Result<AddressSpaceId, Errno> {
        self.space().map(AddressSpaceId)
    }

    /// Whether the caller runs in address space `id`, as it was: not after an exec, and not by a reused number.
    pub fn same_address_space(&self, id: &AddressSpaceId) -> bool {
        id.0.is_of(self)
    }

    /// Fills `buf` from the caller's address `addr`: whole, or EFAULT. May block as long as the caller likes.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if buf.is_empty() {
            return Ok(());
        }
        let len = buf.len();
        let base = usize::try_from(addr).map_err(|_| Errno::EFAULT)?;
        base.checked_add(len).ok_or(Errno::EFAULT)?;
        let from = RemoteIoVec { base, len };
        let result = process_vm_readv(Pid::from_raw(self.tid), &mut [IoSliceMut::new(buf)], &[from]);
        self.still_there()?;
        match result {
            Ok(read) if read == len => Ok(()),
            Err(Errno::EPERM) => {
                tracing::warn!(tid = self.tid, "a caller's memory may not be read: CAP_SYS_PTRACE is missing");
                Err(Errno::EFAULT)
            }
            _ => Err(Errno::EFAULT),
        }
    }

    /// Writes `buf` to the caller's address `addr`: whole, or EFAULT. May block as long as the caller likes.
    pub fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = u64::try_from(buf.len()).ok().and_then(|len| addr.checked_add(len)).ok_or(Errno::EFAULT)?;
        // Through the `mem` file: unlike process_vm_writev it cannot hit whoever inherits the thread id of a caller
        // that was answered meanwhile. But it would also write what the caller itself may not, so ask first.
        let mem = self.mem()?;
        let maps = Maps::open(self.tid)?;
        self.still_there()?;
        let mut at = addr;
        for vma in maps.overlapping(addr..end)? {
            if vma.start > at || !vma.write {
                return Err(Errno::EFAULT);
            }
            at = vma.end;
        }
        if at < end {
            return Err(Errno::EFAULT);
        }
        memory::write_all_at(mem, addr, buf)
    }

    /// The eventfd that the caller knows by number `fd`. EBADF: closed, negative or `O_PATH`. EINVAL: another kind of
    /// file.
    pub fn eventfd(&self, fd: i32) -> Result<OwnedFd, Errno> {
        descriptor::eventfd(self, fd)
    }

    /// The file that the caller knows by number `fd`: a character device (tap), pipe, socket, anonymous inode or
    /// memory file. EBADF: closed, negative or `O_PATH`. EINVAL: any other file, whose close could block us, or a file
    /// of our own mount.
    pub fn fd(&self, fd: i32) -> Result<OwnedFd, Errno> {
        descriptor::any(self, fd)
    }

    /// Which of our own open device files the caller's descriptor `fd` is. EBADF: closed. EINVAL: none of ours.
    pub fn open_file(&self, fd: i32) -> Result<Arc<dyn OpenFile>, Errno> {
        descriptor::own(self, fd)
    }

    /// How a device reaches the caller's `[addr, addr + len)`, in pieces that cover it without a gap.
    ///
    /// Shared memory files that the caller has mapped with `access` become windows. Anything else (private memory,
    /// devices, holes, other files, or a user at its limits) is reached through the caller, which never fails here but
    /// may on access. EFAULT: nothing at all is mapped in the range. EINVAL: the range is empty or wraps.
    pub fn map(&self, addr: u64, len: u64, access: MapAccess) -> Result<Vec<Piece>, Errno> {
        memory::map(self, addr, len, access)
    }

    /// How a device reaches `len` bytes from `start` of the memory file (tmpfs, hugetlbfs, memfd) that the caller knows as
    /// `fd`, whether it has them mapped or not. EBADF, EINVAL: as [`fd`](Self::fd), or the range is empty, does not begin
    /// with a page, or is not all in the file. EACCES, EPERM: the descriptor or a seal does not let it be mapped so. ENOSPC:
    /// the user is at its limits.
    pub fn map_file(&self, fd: i32, start: u64, len: u64, access: MapAccess) -> Result<Piece, Errno> {
        memory::map_file(self, fd, start, len, access)
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    pub(crate) fn space(&self) -> Result<Arc<Space>, Errno> {
        self.host.spaces.of(self)
    }

    /// EFAULT when the caller was answered already: whatever was seen under its number may be another's.
    pub(crate) fn still_there(&self) -> Result<(), Errno> {
        match &self.flight {
            Some(flight) if flight.is_answered() => Err(Errno::EFAULT),
            _ => Ok(()),
        }
    }

    fn mem(&self) -> Result<&File, Errno> {
        if let Some(mem) = self.mem.get() {
            return Ok(mem);
        }
        let mem = open_mem(self.tid)?;
        self.still_there()?;
        Ok(self.mem.get_or_init(|| mem))
    }
}

/// Opens a thread's `mem` file, which pins its address space of this moment.
pub(crate) fn open_mem(tid: i32) -> Result<File, Errno> {
    let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{tid}/mem"));
    file.map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}
