//! What can go wrong in the lab.

use std::fmt::{self, Debug, Display};
use std::io;
use std::path::Path;
use std::time::Duration;

/// The lab's result.
pub type LabResult<T> = Result<T, LabError>;

/// Why the lab could not do what it was asked for.
#[derive(thiserror::Error)]
pub enum LabError {
    /// A system call failed.
    #[error("{what}: {error}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// How it failed.
        error: io::Error,
    },
    /// A program ended badly.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        output: String,
    },
    /// Something did not come in time.
    #[error("{what} did not come within {} s; the last that was seen:\n{tail}", after.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
        /// The end of the output.
        tail: String,
    },
    /// This machine lacks something.
    #[error("{0}")]
    Missing(String),
    /// Something is not as it should be.
    #[error("{0}")]
    Wrong(String),
}

// a test that returns an error shows it so, and what is shown has lines
impl Debug for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl LabError {
    /// Wraps an I/O error with what was tried.
    pub fn io(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |error| Self::Io { what, error }
    }

    /// Wraps an I/O error with what was tried on a path.
    pub fn path(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        Self::io(format!("{what} {}", path.display()))
    }

    /// Wraps an errno with what was tried.
    pub fn errno(what: impl Display) -> impl FnOnce(nix::errno::Errno) -> Self {
        let what = what.to_string();
        move |errno| Self::Io { what, error: errno.into() }
    }
}
