//! What a driver of the bus is: it gives an instance a face towards clients.

use crate::Instance;
use std::sync::Arc;
use virtio_mdev_api::Refusal;

/// An mdev driver.
pub trait MdevDriver: Send + Sync {
    /// The driver's name, as in `sys/bus/mdev/drivers`.
    fn name(&self) -> &str;

    /// Whether it can drive this instance.
    fn matches(&self, instance: &Instance) -> bool;

    /// Takes the instance. It has no other driver.
    fn probe(&self, instance: &Arc<Instance>) -> Result<Arc<dyn Binding>, Refusal>;
}

/// A driver at work on one instance.
pub trait Binding: Send + Sync {
    /// Who holds the instance open, in words; `None` when nobody does.
    fn holder(&self) -> Option<String>;

    /// Asks whoever holds the instance to let go of it, where there is a way to ask; answers at once.
    fn ask(&self) {}

    /// Lets go of the instance, holders or not: they get ENODEV from now on. When this returns the driver does not use
    /// the instance any more.
    fn remove(&self);
}
