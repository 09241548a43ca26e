//! The stock mdev drivers: they give an instance its nodes below `dev/`.

mod face;
mod nodes;
mod vfio;
mod vhost;

use devnode::{Broadcast, Tree};
use mdev_parent::{Bus, BusError, Instance};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;
use vfio::VfioMdevDriver;
use vhost::VhostMdevDriver;

/// The trace of each bound instance, for whoever asks by UUID.
pub(crate) type Traces = Mutex<HashMap<Uuid, Arc<Broadcast>>>;

/// Registers the stock drivers.
pub(crate) fn register(bus: &Bus, tree: &Tree, traces: &Arc<Traces>) -> Result<(), BusError> {
    bus.register_driver(Arc::new(VhostMdevDriver::new(tree.clone(), Arc::clone(traces))))?;
    bus.register_driver(Arc::new(VfioMdevDriver::new(tree.clone(), Arc::clone(traces))))
}

/// What a driver's files tell when they are opened (true) and closed.
fn on_open(instance: &Arc<Instance>) -> Box<dyn Fn(bool) + Send + Sync> {
    let opened = Arc::downgrade(instance);
    Box::new(move |open| {
        if let Some(instance) = opened.upgrade() {
            instance.opened(open);
        }
    })
}
