//! What `umdev exec` needs of the kernel, tried without harm: on a thread that ends, and in a child that ends.

use super::{listener, sys};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};

/// How a name space of mounts can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameSpace {
    /// By CAP_SYS_ADMIN.
    Own,
    /// Within a user name space.
    OfAUser,
}

/// Whether calls of a program can be told of, and answered with a descriptor.
pub fn can_give_descriptors() -> Result<bool, Errno> {
    let tried = std::thread::spawn(|| {
        // Without CAP_SYS_ADMIN a filter wants it. It is this thread's alone, as the filter is.
        rustix::thread::set_no_new_privs(true).map_err(super::mounts::to_nix)?;
        listener::install().map(|listener| listener.can_give_descriptors())
    });
    tried.join().map_err(|_| Errno::EIO)?
}

/// How a name space of mounts can be had.
pub fn name_space() -> Result<NameSpace, Errno> {
    const OF_A_USER: i32 = 255;
    let Some(child) = sys::fork()? else {
        let alone = unshare(CloneFlags::CLONE_NEWNS);
        let with_user = || unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
        sys::leave(match alone {
            Ok(()) => 0,
            Err(Errno::EPERM) => with_user().err().map_or(OF_A_USER, |errno| errno as i32),
            Err(errno) => errno as i32,
        })
    };
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(NameSpace::Own),
        WaitStatus::Exited(_, OF_A_USER) => Ok(NameSpace::OfAUser),
        WaitStatus::Exited(_, errno) => Err(Errno::from_raw(errno)),
        _ => Err(Errno::ECHILD),
    }
}
