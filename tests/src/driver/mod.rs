//! A small driver of an instance, in user space: what a client does, with every byte of the rings in the caller's hands.
//!
//! [`Driver`] walks the whole path of a real client (container, group, vhost file, status, rings) and passes frames. Below it each part stands alone
//! for tests that leave the path: [`Container`] and [`Group`] are the VFIO files, [`Vhost`] is the instance's vhost file with one method an ioctl and
//! its IOTLB messages, [`Memory`] is a memfd shared with the device, and [`Ring`] is a split virtqueue within it (VIRTIO 1.3, section 2.7) whose
//! descriptors, indices and event words are read and written raw, so that they can also be written wrong.

mod client;
mod memory;
mod ring;
mod sys;
mod vfio;
mod vhost;

pub use client::{Dma, Driver, Frame, Options, RX, TX};
pub use memory::Memory;
pub use ring::{Desc, Queue, Ring, UsedElem, desc_flag};
pub use sys::{ioctl_bytes, ioctl_value};
pub use vfio::{Container, Group, MapFlags};
pub use vhost::{IotlbKind, Vhost, VringAddr, backend_feature, feature, status};

use nix::errno::Errno;
use std::path::PathBuf;
use std::time::Duration;

/// What can go wrong between a client and an instance.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the tree could not be opened or read.
    #[error("{}: {errno}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// An ioctl, or the write of a message, was refused.
    #[error("{call}: {errno}")]
    Call {
        /// Its name in the header.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The device did not do something in time.
    #[error("{what} did not happen within {within:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
    },
    /// The device did what it must not do.
    #[error("{0}")]
    Device(String),
}

impl Error {
    /// The errno that the instance answered, if the error is an answer.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Path { errno, .. } | Self::Call { errno, .. } => Some(*errno),
            Self::Timeout { .. } | Self::Device(_) => None,
        }
    }
}

/// The result of a step of the driver.
pub type Result<T> = std::result::Result<T, Error>;
