//! What the sessions of all kinds of devices have in common.

use super::{Condition, Session};
use crate::{DeviceLink, Refusal};

/// The device of an instance, for those to whom it is the same what kind it is of.
pub trait Engine: Send + Sync {
    /// The device's upward line.
    fn link(&self) -> &DeviceLink;

    /// The device in one word. Never waits.
    fn condition(&self) -> Condition;

    /// Why the device is broken, if it is.
    fn broken(&self) -> Option<String>;

    /// Ends the session: the device is taken from its client and dropped. Later calls answer ENODEV.
    fn retire(&self);

    /// The text of a vendor attribute.
    fn show_attribute(&self, name: &str) -> Result<String, Refusal>;

    /// A new value for a vendor attribute.
    fn store_attribute(&self, name: &str, value: &str) -> Result<(), Refusal>;
}

impl Engine for Session {
    fn link(&self) -> &DeviceLink {
        Session::link(self)
    }

    fn condition(&self) -> Condition {
        Session::condition(self)
    }

    fn broken(&self) -> Option<String> {
        Session::broken(self)
    }

    fn retire(&self) {
        Session::retire(self);
    }

    fn show_attribute(&self, name: &str) -> Result<String, Refusal> {
        Session::show_attribute(self, name)
    }

    fn store_attribute(&self, name: &str, value: &str) -> Result<(), Refusal> {
        Session::store_attribute(self, name, value)
    }
}
