//! A name space of mounts of the program's own.

use super::ExecError;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

/// Where the caller was before.
#[derive(Debug)]
pub struct Outside(Option<OwnedFd>);

impl Outside {
    /// The former name space of mounts, none when there is no way back.
    pub fn name_space(&self) -> Option<&OwnedFd> {
        self.0.as_ref()
    }
}

/// Leaves the name space of mounts for a copy of it, into which mounts of the former come and not the other way round.
///
/// Without CAP_SYS_ADMIN a user name space gives the right to it, in which the user is who he was. From there is no way back, so what is mounted
/// outside later is seen only where mounts are shared (which systemd sees to).
pub fn enter() -> Result<Outside, ExecError> {
    let before =
        File::open("/proc/self/ns/mnt").map_err(|error| ExecError::NoNameSpace(crate::error::errno_of(&error)))?;
    let outside = match unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => Outside(Some(before.into())),
        Err(Errno::EPERM) => {
            of_a_user()?;
            Outside(None)
        }
        Err(errno) => return Err(ExecError::NoNameSpace(errno)),
    };
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(ExecError::NoNameSpace)?;
    Ok(outside)
}

fn of_a_user() -> Result<(), ExecError> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(ExecError::NoNameSpace)?;
    let told = |(file, text): (&str, String)| match fs::write(format!("/proc/self/{file}"), text) {
        // Kernels before 3.19 have no such file and need none.
        Err(error) if file == "setgroups" && error.kind() == io::ErrorKind::NotFound => Ok(()),
        told => told.map_err(|error| ExecError::NoNameSpace(crate::error::errno_of(&error))),
    };
    // A user may map his own group only when nobody can drop groups any more.
    [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{user} {user} 1")),
        ("gid_map", format!("{group} {group} 1")),
    ]
    .into_iter()
    .try_for_each(told)
}
