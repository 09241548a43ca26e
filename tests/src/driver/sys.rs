//! ioctl and mmap.

#![allow(unsafe_code)]
// UNSAFETY: ioctls that carry raw pointers, and memory shared with the device, cannot be expressed otherwise.

use super::abi::size_of_argument;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::Mode;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

/// An ioctl whose argument is a number, or an address that the test knows to be bad.
pub fn ioctl_value(fd: impl AsFd, cmd: u32, value: u64) -> nix::Result<i32> {
    // SAFETY: the argument is not the address of anything this process relies on.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::c_ulong::from(cmd), value) })
}

/// An ioctl whose argument is a struct. Panics when the bytes are fewer than the number of the call says; the length of
/// an unsized one is in its `argsz`, and must be true.
pub fn ioctl(fd: impl AsFd, cmd: u32, argument: &mut [u8]) -> nix::Result<i32> {
    assert!(argument.len() >= size_of_argument(cmd), "argument of {cmd:#x} is too short");
    // SAFETY: the argument is as long as the callee may take it to be.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::c_ulong::from(cmd), argument.as_mut_ptr()) })
}

/// A TAP interface of this thread's network namespace, its frames behind a virtio-net header of 12 bytes.
pub fn tap(name: &str) -> nix::Result<OwnedFd> {
    const TUNSETIFF: u32 = 0x4004_54ca;
    const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
    const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
    let fd = nix::fcntl::open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut request = [0; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&FLAGS.to_ne_bytes());
    ioctl(&fd, TUNSETIFF, &mut request)?;
    ioctl(&fd, TUNSETVNETHDRSZ, &mut 12i32.to_ne_bytes())?;
    Ok(fd)
}

/// Takes over a descriptor that a call made just now.
pub(crate) fn own(number: i32) -> OwnedFd {
    // SAFETY: nobody else knows the number yet.
    unsafe { OwnedFd::from_raw_fd(number) }
}

extern "C" fn ignore(_signal: i32) {}

/// From now on a signal with a handler comes to this process at this interval; `restart` says whether with SA_RESTART.
pub fn signal_every(interval: Duration, restart: bool) -> nix::Result<()> {
    let flags = if restart { SaFlags::SA_RESTART } else { SaFlags::empty() };
    let action = SigAction::new(SigHandler::Handler(ignore), flags, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGALRM, &action) }?;
    let micros = i64::try_from(interval.as_micros()).map_err(|_| Errno::EINVAL)?;
    let every = libc::timeval { tv_sec: micros / 1_000_000, tv_usec: micros % 1_000_000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: a valid timer, and the old one is not asked for.
    Errno::result(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }).map(drop)
}

/// Takes over a descriptor this process was started with.
pub fn inherited(number: i32) -> OwnedFd {
    own(number)
}

/// A page whose first reader waits for as long as the returned descriptor is open.
pub fn page_that_never_comes() -> nix::Result<(Map, OwnedFd)> {
    const UFFDIO_API: u32 = 0xc018_aa3f;
    const UFFDIO_REGISTER: u32 = 0xc020_aa00;
    const UFFD_API: u64 = 0xaa;
    const MODE_MISSING: u64 = 1;
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    // SAFETY: the call takes no address.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })?;
    let fd = own(i32::try_from(fd).map_err(|_| Errno::EBADF)?);
    ioctl(&fd, UFFDIO_API, &mut words(&[UFFD_API, 0, 0]))?;
    let page = Map::private(NonZeroUsize::new(4096).expect("a page"))?;
    ioctl(&fd, UFFDIO_REGISTER, &mut words(&[page.address(), 4096, MODE_MISSING, 0]))?;
    Ok((page, fd))
}

/// Waits for a message with a descriptor in it.
pub fn receive_descriptor(socket: impl AsFd) -> nix::Result<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let (mut text, mut space) = ([0], nix::cmsg_space!(i32));
    let mut iov = [std::io::IoSliceMut::new(&mut text)];
    let number = socket.as_fd().as_raw_fd();
    let received = recvmsg::<()>(number, &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let first = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    first.map(own).ok_or(Errno::ENOMSG)
}

/// Does something in a forked child, and waits for it. For processes of one thread only.
pub fn in_a_child(work: impl FnOnce() -> i32) -> nix::Result<i32> {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    // SAFETY: the process has one thread, so no lock is held by one that is not there in the child.
    match unsafe { fork() }? {
        // SAFETY: ends the child without what the parent is to do at its own end.
        ForkResult::Child => unsafe { libc::_exit(work()) },
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => Ok(code),
            _ => Err(Errno::ECHILD),
        },
    }
}

/// A socket for frames of one Ethernet type on one interface.
pub fn frames_of(interface: &str, ethertype: u16) -> nix::Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    // SAFETY: an address of zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(|_| Errno::EAFNOSUPPORT)?;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index.cast_signed();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no address.
    let fd = own(Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(ethertype.to_be())) })?);
    let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the address is valid and as long as said.
    Errno::result(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(fd)
}

/// A mapping, unmapped when dropped. All access is bounds-checked and treats the memory as shared with others.
#[derive(Debug)]
pub struct Map {
    base: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone; access to its contents is by atomic or raw copies.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes of a file.
    pub fn of(fd: impl AsFd, len: NonZeroUsize, prot: ProtFlags, flags: MapFlags) -> nix::Result<Self> {
        Self::of_part(fd, 0, len, prot, flags)
    }

    /// Maps `len` bytes of a file from `offset` on.
    pub fn of_part(
        fd: impl AsFd,
        offset: i64,
        len: NonZeroUsize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> nix::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(None, len, prot, flags, fd, offset) }?;
        Ok(Self { base, len: len.get() })
    }

    /// Maps private memory of no file.
    pub fn private(len: NonZeroUsize) -> nix::Result<Self> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap_anonymous(None, len, prot, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { base, len: len.get() })
    }

    /// Puts `len` bytes of a file, or with `None` of private memory, in the place of what is at `offset`.
    pub fn cover(&mut self, offset: usize, len: usize, fd: Option<BorrowedFd<'_>>) -> nix::Result<()> {
        let at = NonZeroUsize::new(self.at(offset, len).addr());
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let covered = match fd {
            // SAFETY: within the mapping, of which nobody holds a reference.
            Some(fd) => unsafe { mmap(at, len, prot, MapFlags::MAP_SHARED | MapFlags::MAP_FIXED, fd, 0) },
            // SAFETY: as above.
            None => unsafe { mmap_anonymous(at, len, prot, MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED) },
        };
        covered.map(drop)
    }

    /// Forbids this process to write to it.
    pub fn make_read_only(&self) -> nix::Result<()> {
        // SAFETY: what is written through the mapping is only written by calls of its owner.
        unsafe { nix::sys::mman::mprotect(self.base, self.len, ProtFlags::PROT_READ) }
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        u64::try_from(self.base.as_ptr().addr()).expect("addresses have 64 bits")
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty, which a mapping never is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "{len} bytes at {offset:#x}");
        // SAFETY: within the mapping.
        unsafe { self.base.as_ptr().cast::<u8>().add(offset) }
    }

    /// Copies out of the memory.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: within the mapping; bytes that change meanwhile are only bytes.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copies into the memory.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    fn atomic(&self, offset: usize) -> &AtomicU16 {
        let at = self.at(offset, 2).cast::<u16>();
        assert!(at.is_aligned());
        // SAFETY: aligned, within the mapping, and only read and written atomically while it is shared.
        unsafe { AtomicU16::from_ptr(at) }
    }

    /// Reads a ring index.
    pub fn load(&self, offset: usize) -> u16 {
        u16::from_le(self.atomic(offset).load(Ordering::SeqCst))
    }

    /// Publishes a ring index: what was written before is seen before it.
    pub fn store(&self, offset: usize, value: u16) {
        self.atomic(offset).store(value.to_le(), Ordering::SeqCst);
    }

    /// The same of a doorbell that carries data.
    pub fn store_wide(&self, offset: usize, value: u32) {
        let at = self.at(offset, 4).cast::<u32>();
        assert!(at.is_aligned());
        // SAFETY: as for `atomic`.
        unsafe { AtomicU32::from_ptr(at) }.store(value.to_le(), Ordering::SeqCst);
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nobody has an address into the mapping any more.
        let _ = unsafe { munmap(self.base, self.len) };
    }
}

/// Another descriptor of the same open file, for a library that tells only the number of its own.
pub fn duplicate(of: &impl AsRawFd) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes a number alone.
    Errno::result(unsafe { libc::fcntl(of.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) }).map(own)
}
