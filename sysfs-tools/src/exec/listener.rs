//! The descriptor on which stopped calls are told, and answered.

use super::{filter, sys};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Where the calls of a program arrive that its filter stops.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its number among all that were told.
    pub id: u64,
    /// The thread that made it; 0 when it is in another pid name space.
    pub thread: u32,
    /// The descriptor it names.
    pub fd: i32,
    /// The number of the ioctl.
    pub request: u32,
    /// The address of its argument.
    pub argument: u64,
}

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel makes the call as if nobody had looked.
    GoOn,
    /// It returns this.
    Value(i64),
    /// It fails.
    Failed(Errno),
    /// It has got its answer already, or nobody waits for it any more.
    Given,
}

/// Puts this thread, and all it will start, under the filter. From now on somebody must serve the listener.
///
/// # Errors
/// EBUSY when another filter of this thread has a listener: the kernel takes one.
pub fn install() -> Result<Listener, Errno> {
    let program = filter::program();
    // Told of once, a call is interrupted by nothing but the end of its thread. Else a signal could take a call away after it had its effect.
    match sys::install(&program, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::EINVAL) => sys::install(&program, 0),
        installed => installed,
    }
    .map(Listener)
    .inspect(|listener| sys::wake_at_once(listener.as_fd()))
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Whether the kernel can put a descriptor into a caller and answer it in one step (Linux 5.14). Asks about a call that there is not.
    pub fn can_give_descriptors(&self) -> bool {
        let nobody = self.gift(0, self.as_fd(), libc::SECCOMP_ADDFD_FLAG_SEND);
        sys::add_fd(self.as_fd(), &nobody) == Err(Errno::ENOENT)
    }

    /// The next call. Blocks until there is one.
    pub fn receive(&self) -> Result<Call, Errno> {
        let told = sys::receive(self.as_fd())?;
        let [fd, request, argument, ..] = told.data.args;
        Ok(Call { id: told.id, thread: told.pid, fd: low(fd).cast_signed(), request: low(request), argument })
    }

    /// Whether the call still waits: what was learnt of its thread by number before is then true of it.
    pub fn is_waiting(&self, call: &Call) -> bool {
        sys::is_waiting(self.as_fd(), call.id)
    }

    /// Ends the call.
    pub fn answer(&self, call: &Call, answer: Answer) {
        let mut response = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
        match answer {
            Answer::GoOn => response.flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or(1),
            Answer::Value(value) => response.val = value,
            Answer::Failed(errno) => response.error = -(errno as i32),
            Answer::Given => return,
        }
        // Whoever is not there any more needs no answer.
        let _ = sys::answer(self.as_fd(), &mut response);
    }

    /// Ends the call with a descriptor, which is its value, as the kernel installs those of VFIO: closed on exec.
    pub fn answer_with(&self, call: &Call, fd: &OwnedFd) -> Answer {
        match sys::add_fd(self.as_fd(), &self.gift(call.id, fd.as_fd(), libc::SECCOMP_ADDFD_FLAG_SEND)) {
            Ok(_) | Err(Errno::ENOENT) => Answer::Given,
            Err(errno) => Answer::Failed(errno),
        }
    }

    /// Puts a descriptor into the caller and leaves the call waiting; its number there.
    pub fn give(&self, call: &Call, fd: &OwnedFd) -> Result<i32, Errno> {
        sys::add_fd(self.as_fd(), &self.gift(call.id, fd.as_fd(), 0))
    }

    fn gift(&self, id: u64, fd: BorrowedFd<'_>, flags: libc::c_ulong) -> libc::seccomp_notif_addfd {
        libc::seccomp_notif_addfd {
            id,
            flags: u32::try_from(flags).unwrap_or_default(),
            srcfd: fd.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC.cast_unsigned(),
        }
    }
}

/// The lower half of a register: what the kernel takes of an argument of 32 bits.
fn low(register: u64) -> u32 {
    u32::try_from(register & u64::from(u32::MAX)).unwrap_or_default()
}
