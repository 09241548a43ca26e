//! Why a command failed, in words an operator can act on.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use uuid::Uuid;

use crate::text::printable;

/// Every way a command fails. The text is what `umdev` prints after its name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense although each word of it does.
    #[error("{0}\nFor more information, try 'umdev --help'.")]
    Usage(String),
    /// Nothing that looks like the tree lies below the root.
    #[error("no device tree at {}: {}{}", .root.display(), .errno.desc(), no_tree_hint(*.errno))]
    NoTree {
        /// The root that was asked for.
        root: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// No instance has this UUID.
    #[error("no instance {0} (umdev list shows what there is)")]
    NoInstance(Uuid),
    /// An instance without a vhost file: no virtio device, or one that is not bound to `vhost_mdev`.
    #[error("instance {0} has no vhost file (umdev show {0} tells what it is, and which driver it has)")]
    NoVhostFile(Uuid),
    /// The path is neither the directory of an instance nor one of its device files.
    #[error("{}: no instance is called so, and no device file of one", printable(&.0.to_string_lossy()))]
    NotAnInstance(PathBuf),
    /// An instance that counts nothing.
    #[error("instance {0} has no statistics")]
    NoStatistics(Uuid),
    /// No parent offers this type.
    #[error("no parent offers the type {}{}", printable(.asked), offers(.offered))]
    NoType {
        /// What was asked for, as TYPE or PARENT/TYPE.
        asked: String,
        /// Every PARENT/TYPE there is.
        offered: Vec<String>,
    },
    /// Several parents offer the type and none was named.
    #[error("several parents offer the type {}: name one of {}", printable(.asked), words(.candidates))]
    AmbiguousType {
        /// The type that was asked for.
        asked: String,
        /// Every PARENT/TYPE that fits.
        candidates: Vec<String>,
    },
    /// The tree refused a write.
    #[error("cannot {action}: {}", refusal(*.errno, .reason.as_deref()))]
    Refused {
        /// What was to be done: `create X`, `remove X`.
        action: String,
        /// What the write answered.
        errno: Errno,
        /// The daemon's own words, when it left any.
        reason: Option<String>,
    },
    /// A file of the tree could not be read.
    #[error("cannot read {}: {}", printable(&.path.to_string_lossy()), describe(*.errno))]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// Nobody serves the fd socket.
    #[error("the daemon is not running: {}: {}{}", .socket.display(), .errno.desc(), no_daemon_hint(*.errno))]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// What `connect` answered.
        errno: Errno,
    },
    /// The daemon is there and does not speak as agreed.
    #[error("the daemon at {} {what}", .socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What it did instead, as a verb phrase.
        what: String,
    },
    /// A system call on the fd socket or a stream of it failed.
    #[error("{}: {}", .socket.display(), describe(*.errno))]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// The stream of `watch` or `trace` ended because its daemon did.
    #[error("the daemon at {} has gone", .socket.display())]
    DaemonGone {
        /// The socket.
        socket: PathBuf,
    },
    /// A program could not be started.
    #[error(transparent)]
    Exec(#[from] crate::exec::ExecError),
    /// Standard output does not take what is written to it.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// 2 for a wrong command line, 1 for everything else; for a program that could not be started see [`ExecError::exit_code`](crate::exec::ExecError::exit_code).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Exec(error) => error.exit_code(),
            _ => 1,
        }
    }

    pub(crate) fn read(path: &Path, error: &io::Error) -> Self {
        Self::Read { path: path.to_owned(), errno: errno_of(error) }
    }
}

/// The errno of an I/O error; EIO for one that the standard library made up (invalid UTF-8 and the like).
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// `Device or resource busy (EBUSY)`.
pub(crate) fn describe(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}

fn refusal(errno: Errno, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{} ({errno:?})", printable(reason)),
        None => describe(errno),
    }
}

fn no_tree_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOTCONN => " (the daemon that served it died; start umdevd again)",
        Errno::ENOENT | Errno::ENOTDIR => " (is umdevd running? umdev doctor says more)",
        _ => "",
    }
}

fn no_daemon_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOTCONN | Errno::ECONNREFUSED => " (it died; start umdevd again)",
        _ => " (umdev doctor says more)",
    }
}

fn offers(offered: &[String]) -> String {
    if offered.is_empty() { ": there are no types".into() } else { format!(": there are {}", words(offered)) }
}

fn words(names: &[String]) -> String {
    names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ")
}
