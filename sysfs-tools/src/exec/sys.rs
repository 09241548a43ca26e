//! seccomp's own calls, the ioctls of the handle node, and `fork`.
#![allow(unsafe_code)]
// UNSAFETY: no library wraps these calls; each takes the address of a structure of ours, and fork is unsafe wherever there are threads.

use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use vfio_abi::handle::{GetDevice, MigState, UMDEV_HANDLE_GET_DEVICE, UMDEV_HANDLE_MIG_STATE};

/// Puts the calling thread, and all it will start, under `filter`; the descriptor on which the calls that it stops are told.
pub fn install(filter: &[libc::sock_filter], flags: libc::c_ulong) -> Result<OwnedFd, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let flags = flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the program names its length, and the kernel copies it.
    let listener =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let listener = Errno::result(listener).and_then(|fd| i32::try_from(fd).map_err(|_| Errno::EBADF))?;
    // SAFETY: the kernel made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// Has the caller's processor wake who serves the listener (Linux 6.6).
pub fn wake_at_once(listener: BorrowedFd<'_>) {
    const SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: u64 = 1;
    let flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;
    // SAFETY: the argument is a number. Where the kernel does not know it, it takes a little longer.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) };
}

/// The next call that was stopped. Blocks until there is one.
pub fn receive(listener: BorrowedFd<'_>) -> Result<libc::seccomp_notif, Errno> {
    // SAFETY: numbers alone, of which zero is one; the kernel wants zeros.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: `call` is a live structure of the size that the number of the ioctl says.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) })?;
    Ok(call)
}

/// Ends a call.
pub fn answer(listener: BorrowedFd<'_>, answer: &mut libc::seccomp_notif_resp) -> Result<(), Errno> {
    // SAFETY: `answer` is a live structure of the size that the number of the ioctl says.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, std::ptr::from_mut(answer)) };
    Errno::result(done).map(drop)
}

/// Puts a descriptor into the caller; its number there.
pub fn add_fd(listener: BorrowedFd<'_>, what: &libc::seccomp_notif_addfd) -> Result<i32, Errno> {
    // SAFETY: `what` is a live structure of the size that the number of the ioctl says.
    Errno::result(unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, std::ptr::from_ref(what))
    })
}

/// Whether the call is still waiting.
pub fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the argument is the address of a live number.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) })
        .is_ok()
}

/// UMDEV_HANDLE_GET_DEVICE.
pub fn get_device(handle: BorrowedFd<'_>, argument: &GetDevice) -> Result<(), Errno> {
    let argument = std::ptr::from_ref(argument);
    // SAFETY: a live structure of the size that the number of the ioctl says.
    Errno::result(unsafe { libc::ioctl(handle.as_raw_fd(), libc::Ioctl::from(UMDEV_HANDLE_GET_DEVICE), argument) })
        .map(drop)
}

/// UMDEV_HANDLE_MIG_STATE; whether the handle became a stream.
pub fn mig_state(handle: BorrowedFd<'_>, argument: &mut MigState) -> Result<bool, Errno> {
    let argument = std::ptr::from_mut(argument);
    // SAFETY: a live structure of the size that the number of the ioctl says.
    Errno::result(unsafe { libc::ioctl(handle.as_raw_fd(), libc::Ioctl::from(UMDEV_HANDLE_MIG_STATE), argument) })
        .map(|answer| answer == 1)
}

/// Makes a copy of this process, which must have one thread; the copy's number, none in the copy.
pub fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: there is one thread, so the copy can do all that the original can.
    Ok(match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => None,
    })
}

/// Ends this process at once; what its other half has to flush or to remove stays that one's.
pub fn leave(code: i32) -> ! {
    // SAFETY: leaving is always allowed.
    unsafe { libc::_exit(code) }
}
