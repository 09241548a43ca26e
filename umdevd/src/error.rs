//! Why the daemon does not start.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why the daemon does not start.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// Another daemon serves this root.
    #[error("another daemon serves {root}")]
    AlreadyRunning {
        /// The root.
        root: PathBuf,
    },
    /// A file or directory that is needed.
    #[error("{what} {path}: {error}")]
    Path {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// FUSE cannot be mounted.
    #[error("cannot mount {root}: {error}; umdevd needs root (CAP_SYS_ADMIN) and /dev/fuse, see `umdev doctor`")]
    Mount {
        /// The root.
        root: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The server does not start.
    #[error("cannot serve: {0}")]
    Serve(io::Error),
    /// A bad line of the configuration or a bad `--parent`.
    #[error("configuration: {0}")]
    Config(String),
    /// A parent that cannot be registered.
    #[error("parent {name}: {reason}")]
    Parent {
        /// The parent.
        name: String,
        /// Why.
        reason: String,
    },
}

impl DaemonError {
    pub(crate) fn path(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Path { what, path, error }
    }
}
