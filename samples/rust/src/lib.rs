//! The part of a user-space virtio-net driver that does not care how the device gets at its memory.
//!
//! [`sys`] is the system calls, [`queue`] one ring, [`net`] the device. The two programs differ only in how they hand
//! the memory over.

pub mod net;
pub mod queue;
pub mod sys;

use nix::errno::Errno;
use std::process::ExitCode;
use thiserror::Error;

/// Why a driver cannot go on.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {}", errno.desc())]
    Call {
        /// Which one, on what.
        what: String,
        /// How.
        errno: Errno,
    },
    /// The device did not answer in time.
    #[error("timeout: {0}")]
    Timeout(&'static str),
    /// The device, or a file, is not what it should be.
    #[error("{0}")]
    Wrong(String),
}

/// Of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err` on a system call.
    pub fn call(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |errno| Self::Call { what, errno }
    }
}

/// What `main` of a driver gives to its shell.
pub fn report(program: &str, driven: Result<u32>) -> ExitCode {
    match driven {
        Ok(frames) => {
            println!("{frames} frames sent and received");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}
