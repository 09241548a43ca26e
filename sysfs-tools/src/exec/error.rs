//! Why a program could not be started, in words.

use super::{HANDLE, STREAM};
use crate::error::describe;
use nix::errno::Errno;
use std::path::PathBuf;

/// Every way `umdev exec` fails before the program runs.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The root is no mount of umdevd.
    #[error("no umdevd serves {}: {what} (umdev doctor says more)", .root.display())]
    NotServed {
        /// The root that was asked for.
        root: PathBuf,
        /// What is there instead.
        what: String,
    },
    /// The daemon has no node for device descriptors.
    #[error("the daemon at {} is too old for exec: it has no {HANDLE} or no {STREAM}; install umdev and umdevd in one version", .0.display())]
    OldDaemon(PathBuf),
    /// Neither capabilities nor user name spaces.
    #[error(
        "cannot make a name space of mounts: {}; run as root, or allow user name spaces (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
        describe(*.0)
    )]
    NoNameSpace(Errno),
    /// Part of the tree could not be shown.
    #[error("cannot show the tree at {}: {}", .at.display(), describe(*.errno))]
    Place {
        /// Where.
        at: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// There is one listener a program.
    #[error(
        "this runs under a seccomp supervisor already, another umdev exec or that of a container, and the kernel takes one: \
         start the program without umdev exec, or umdev exec outside of it"
    )]
    Supervised,
    /// No seccomp.
    #[error("cannot watch the program's calls: seccomp: {}; use a kernel with CONFIG_SECCOMP_FILTER and allow seccomp(2)", describe(*.0))]
    NoSeccomp(Errno),
    /// The kernel cannot answer a call with a descriptor.
    #[error("the kernel cannot answer a call with a descriptor (SECCOMP_ADDFD_FLAG_SEND): use Linux 5.14 or newer")]
    OldKernel,
    /// The supervisor did not come up.
    #[error("cannot start the supervisor: {}", describe(*.0))]
    Supervisor(Errno),
    /// The program itself.
    #[error("{}: {}", .program.display(), describe(*.errno))]
    Program {
        /// What was to be started.
        program: PathBuf,
        /// What the system said.
        errno: Errno,
    },
}

impl ExecError {
    /// As env(1): 127 for a program that is not there, 126 for one that cannot be started, 125 for our own failures.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Program { errno: Errno::ENOENT, .. } => 127,
            Self::Program { .. } => 126,
            _ => 125,
        }
    }
}
