//! Clients: processes of their own, and the raw calls they make.
#![allow(unsafe_code)]
// UNSAFETY: fork, ioctl with raw pointers, mappings: what a hostile client does.

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A process that runs a closure; killed when dropped.
pub struct Client {
    pid: Pid,
    status: Option<WaitStatus>,
}

impl Client {
    /// Runs `body` in a new process without any of our descriptors. A panic in it is exit code 101.
    pub fn spawn(body: impl FnOnce()) -> Self {
        Self::spawn_keeping(|| {
            // SAFETY: descriptors of this process mean nothing to the client.
            unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
            body();
        })
    }

    /// Runs `body` in a new process that inherits our descriptors.
    pub fn spawn_keeping(body: impl FnOnce()) -> Self {
        // SAFETY: the child runs `body` and leaves by _exit; what it uses of this process is plain memory.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Self { pid: child, status: None },
            ForkResult::Child => {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
                // SAFETY: ends the child without running the parent's destructors.
                unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) }
            }
        }
    }

    /// Runs `body` to its end.
    #[track_caller]
    pub fn run(body: impl FnOnce()) {
        Self::spawn(body).join();
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits for a good end.
    #[track_caller]
    pub fn join(mut self) {
        let status = self.wait(Duration::from_secs(30)).expect("the client never ended");
        assert_eq!(status, WaitStatus::Exited(self.pid, 0));
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits for the end, no longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<WaitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                WaitStatus::StillAlive => return None,
                status => {
                    self.status = Some(status);
                    return Some(status);
                }
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.status.is_none() {
            kill(self.pid, Signal::SIGKILL).ok();
            self.wait(Duration::from_secs(5));
        }
    }
}

/// Opens a device file for reading and writing.
pub fn open(path: &Path) -> Result<File, Errno> {
    let file = File::options().read(true).write(true).open(path);
    file.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap()))
}

/// A raw ioctl with the argument as it is.
pub fn ioctl(fd: impl AsFd, cmd: u32, arg: usize) -> Result<i32, Errno> {
    // SAFETY: the kernel checks the argument; the commands of these tests write nothing but what they are given.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::c_ulong::from(cmd), arg) })
}

/// A descriptor number as an ioctl argument.
pub fn number(fd: RawFd) -> usize {
    usize::try_from(fd).unwrap()
}

/// Makes `fd` known by `number` too, also to programs executed later.
pub fn keep_as(fd: impl AsFd, number: RawFd) {
    // SAFETY: a number of the client's own choice.
    Errno::result(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) }).unwrap();
}

/// A new eventfd.
pub fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
}

/// A word that forked processes share.
pub struct Word(*const AtomicU64);

// SAFETY: an atomic in memory that stays mapped for good.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    pub fn new() -> Self {
        Self(Memory::anonymous(4096, true).addr as *const AtomicU64)
    }

    fn get(&self) -> &AtomicU64 {
        // SAFETY: mapped for good, aligned, and only used as an atomic.
        unsafe { &*self.0 }
    }

    pub fn set(&self, value: u64) {
        self.get().store(value, Ordering::SeqCst);
    }

    pub fn add(&self, value: u64) {
        self.get().fetch_add(value, Ordering::SeqCst);
    }

    pub fn load(&self) -> u64 {
        self.get().load(Ordering::SeqCst)
    }

    #[track_caller]
    pub fn wait_for(&self, value: u64) {
        super::eventually(&format!("word == {value}"), || self.load() == value);
    }
}

/// A mapping, never unmapped.
#[derive(Clone, Copy)]
pub struct Memory {
    pub addr: usize,
    pub len: usize,
}

impl Memory {
    pub fn anonymous(len: usize, shared: bool) -> Self {
        let flags = if shared { MapFlags::MAP_SHARED } else { MapFlags::MAP_PRIVATE };
        // SAFETY: a new mapping where the kernel likes.
        let at = unsafe {
            mmap_anonymous(None, NonZeroUsize::new(len).unwrap(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags)
        };
        Self { addr: at.unwrap().as_ptr().expose_provenance(), len }
    }

    pub fn of(file: impl AsFd, len: usize, prot: ProtFlags, flags: MapFlags) -> Result<Self, Errno> {
        Self::of_part(file, 0, len, prot, flags)
    }

    pub fn of_part(
        file: impl AsFd,
        offset: usize,
        len: usize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, Errno> {
        let offset = libc::off_t::try_from(offset).unwrap();
        // SAFETY: a new mapping where the kernel likes.
        let at = unsafe { mmap(None, NonZeroUsize::new(len).unwrap(), prot, flags, file, offset)? };
        Ok(Self { addr: at.as_ptr().expose_provenance(), len })
    }

    /// A new memory file of `len` bytes, mapped shared.
    pub fn memfd(len: usize) -> (Self, File) {
        let file = File::from(rustix::fs::memfd_create(c"guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(u64::try_from(len).unwrap()).unwrap();
        let memory = Self::of(&file, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        (memory.unwrap(), file)
    }

    /// Maps `file` over this memory.
    pub fn map_over(&self, file: impl AsFd, prot: ProtFlags, flags: MapFlags) {
        let at = NonZeroUsize::new(self.addr);
        // SAFETY: only this test's memory is replaced.
        unsafe { mmap(at, NonZeroUsize::new(self.len).unwrap(), prot, flags | MapFlags::MAP_FIXED, file, 0) }.unwrap();
    }

    pub fn protect(&self, prot: ProtFlags) {
        self.try_protect(prot).unwrap();
    }

    pub fn try_protect(&self, prot: ProtFlags) -> Result<(), Errno> {
        let at = std::ptr::NonNull::new(std::ptr::with_exposed_provenance_mut(self.addr)).unwrap();
        // SAFETY: only this test's memory changes.
        unsafe { nix::sys::mman::mprotect(at, self.len, prot) }
    }

    pub fn set(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        let at = std::ptr::with_exposed_provenance_mut::<u8>(self.addr + offset);
        // SAFETY: in range of a writable mapping of ours.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }

    pub fn get(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: in range of a readable mapping of ours.
        unsafe { std::ptr::with_exposed_provenance::<u8>(self.addr + offset).read_volatile() }
    }

    pub fn addr(&self) -> u64 {
        u64::try_from(self.addr).unwrap()
    }
}

/// Makes `memory` fault into a userfaultfd that nobody answers, until the returned descriptor is closed.
pub fn never_faulted_in(memory: Memory) -> OwnedFd {
    const UFFDIO_API: u32 = 0xc018_aa3f;
    const UFFDIO_REGISTER: u32 = 0xc020_aa00;
    // SAFETY: takes integers; the result is a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let fd = RawFd::try_from(Errno::result(fd).expect("userfaultfd is available")).unwrap();
    // SAFETY: just made, nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = [0xaau64, 0, 0];
    ioctl(&fd, UFFDIO_API, api.as_mut_ptr().expose_provenance()).unwrap();
    let mut register = [memory.addr(), u64::try_from(memory.len).unwrap(), 1, 0];
    ioctl(&fd, UFFDIO_REGISTER, register.as_mut_ptr().expose_provenance()).unwrap();
    fd
}

/// Installs a handler that does nothing, with SA_RESTART.
pub fn ignore_by_handler(signal: Signal) {
    extern "C" fn nothing(_: i32) {}
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(nothing),
        nix::sys::signal::SaFlags::SA_RESTART,
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { nix::sys::signal::sigaction(signal, &action) }.unwrap();
}

/// SIGALRM a thousand times a second.
pub fn kilohertz() {
    ignore_by_handler(Signal::SIGALRM);
    let tick = libc::timeval { tv_sec: 0, tv_usec: 1000 };
    let timer = libc::itimerval { it_interval: tick, it_value: tick };
    // SAFETY: a complete itimerval.
    Errno::result(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }).unwrap();
}

/// Another identity for this process, without supplementary groups.
pub fn become_user(uid: u32) {
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(uid.into(), uid.into(), uid.into()).unwrap();
    nix::unistd::setresuid(uid.into(), uid.into(), uid.into()).unwrap();
}

/// A child that shares this process's memory until this process ends, a few seconds at most.
pub fn share_memory_with_a_sleeper() {
    let stack = Memory::anonymous(64 * 1024, false);
    extern "C" fn sleep(_: *mut libc::c_void) -> i32 {
        // SAFETY: plain numbers. The sleeper ends with its parent, also after that executed another program.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: sleeps and ends without a trace.
        unsafe { libc::sleep(5) };
        // SAFETY: as above.
        unsafe { libc::_exit(0) }
    }
    let top = std::ptr::with_exposed_provenance_mut(stack.addr + stack.len);
    // SAFETY: the child has a stack of its own and only sleeps.
    let child = unsafe { libc::clone(sleep, top, libc::CLONE_VM | libc::SIGCHLD, std::ptr::null_mut()) };
    Errno::result(child).unwrap();
}
