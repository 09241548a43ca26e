//! Errors that know their errno.

use nix::errno::Errno;
use std::fmt;

/// An error that can be answered to a system call.
pub trait HasErrno: std::error::Error {
    /// The errno the kernel would give for this failure.
    fn errno(&self) -> Errno;
}

/// A refusal as it reaches a client: the errno, and the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    errno: Errno,
    reason: String,
}

impl Refusal {
    /// A refusal with `errno`, explained by `reason`.
    pub fn new(errno: Errno, reason: impl Into<String>) -> Self {
        Self { errno, reason: reason.into() }
    }

    /// The errno of the failed call.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The reason, in words for a person.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl<E: HasErrno> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::new(error.errno(), error.to_string())
    }
}
