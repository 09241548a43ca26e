//! What can go wrong for a driver.

use nix::errno::Errno;
use std::fmt;

/// Why the driver cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverError {
    /// A call was refused.
    Call {
        /// Which one, on what.
        what: String,
        /// How.
        errno: Errno,
    },
    /// The device did not answer in time.
    Timeout {
        /// What was waited for.
        what: &'static str,
    },
    /// The device answered something else.
    Wrong {
        /// What is wrong.
        what: String,
    },
}

/// Of a call on the device.
pub type CallResult<T> = Result<T, DriverError>;

impl DriverError {
    /// For `map_err` on a system call.
    pub fn call(what: impl fmt::Display) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Call { what: what.to_string(), errno }
    }

    /// For `map_err` on a call of the standard library.
    pub fn io(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| {
            let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            Self::Call { what: what.to_string(), errno }
        }
    }

    /// The errno of a refused call.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { what, errno } => write!(f, "{what}: {errno}"),
            Self::Timeout { what } => write!(f, "timeout: {what}"),
            Self::Wrong { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for DriverError {}
