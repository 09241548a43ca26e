//! Why the bus refuses, with the errnos of the kernel's mdev core.

use nix::errno::Errno;
use thiserror::Error;
use uuid::Uuid;
use virtio_mdev_api::executor::VendorFault;
use virtio_mdev_api::{HasErrno, Refusal, SessionError};

/// Why the bus refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BusError {
    /// What was written to `create` is no UUID of 36 characters, alone or followed by parameters.
    #[error("write a UUID of 36 characters, alone or followed by key=value parameters")]
    NotAUuid,
    /// A parameter without `=`, or given twice.
    #[error("parameter {word:?} is not key=value, or is given twice")]
    Parameter {
        /// The word.
        word: String,
    },
    /// An owner that does not exist.
    #[error("owner={owner}: no such user or group")]
    Owner {
        /// As written.
        owner: String,
    },
    /// What was written to `remove` is neither a number nor `force`.
    #[error("write 1 to remove the instance, or force to take it from its holder")]
    NotANumber,
    /// The UUID is taken, under whatever parent.
    #[error("{uuid} exists already")]
    Exists {
        /// The UUID.
        uuid: Uuid,
    },
    /// The parent's counter ran out.
    #[error("{parent} has all its {max} instances")]
    CounterExhausted {
        /// The parent.
        parent: String,
        /// Its `max_instances`.
        max: u32,
    },
    /// A parent, type or driver that is not there (any more).
    #[error("there is no {what} {name}")]
    Unknown {
        /// Parent, type, driver or instance.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A name that is taken.
    #[error("{what} {name} exists already")]
    NameTaken {
        /// Parent or driver.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Another removal of the instance is running.
    #[error("{uuid} is being removed already")]
    RemovalRunning {
        /// The instance.
        uuid: Uuid,
    },
    /// A client holds the instance and did not let go.
    #[error("{uuid} is in use by {holder}, which did not let go")]
    InUse {
        /// The instance.
        uuid: Uuid,
        /// Who holds it.
        holder: String,
    },
    /// The instance has a driver already.
    #[error("{uuid} is bound to {driver}")]
    Bound {
        /// The instance.
        uuid: Uuid,
        /// Its driver.
        driver: String,
    },
    /// The driver does not take this kind of device, or the override names another.
    #[error("driver {driver} does not take {uuid}")]
    NoMatch {
        /// The instance.
        uuid: Uuid,
        /// The driver.
        driver: String,
    },
    /// The instance is not bound to this driver.
    #[error("{uuid} is not bound to {driver}")]
    NotBound {
        /// The instance.
        uuid: Uuid,
        /// The driver.
        driver: String,
    },
    /// The vendor refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The vendor's code hung or panicked.
    #[error(transparent)]
    Vendor(#[from] VendorFault),
    /// The device's session refused.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<Refusal> for BusError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl HasErrno for BusError {
    fn errno(&self) -> Errno {
        match self {
            Self::NotAUuid | Self::Parameter { .. } | Self::Owner { .. } | Self::NotANumber => Errno::EINVAL,
            Self::Exists { .. } | Self::NameTaken { .. } => Errno::EEXIST,
            Self::CounterExhausted { .. } => Errno::EUSERS,
            Self::Unknown { .. } | Self::NoMatch { .. } | Self::NotBound { .. } => Errno::ENODEV,
            Self::RemovalRunning { .. } => Errno::EAGAIN,
            Self::InUse { .. } | Self::Bound { .. } => Errno::EBUSY,
            Self::Refused(refusal) => refusal.errno(),
            Self::Vendor(fault) => fault.errno(),
            Self::Session(error) => error.errno(),
        }
    }
}
