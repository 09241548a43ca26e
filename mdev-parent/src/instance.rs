//! One instance.

use crate::bus::BusInner;
use crate::{Binding, Event, EventKind, Owner, RegisteredParent};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use uuid::Uuid;
use virtio_mdev_api::vfio::VfioSession;
use virtio_mdev_api::{AttributeSpec, Condition, Engine, Session};

/// Our group numbers start here, far from those of real IOMMU groups.
pub const FIRST_GROUP: u32 = 1 << 20;

/// An instance in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No client.
    Idle,
    /// A client holds it.
    Open,
    /// Its driver set DRIVER_OK.
    Running,
    /// The device asked for a reset.
    NeedsReset,
    /// Vendor code hung or panicked.
    Broken,
}

impl State {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Open => "open",
            Self::Running => "running",
            Self::NeedsReset => "needs_reset",
            Self::Broken => "broken",
        }
    }
}

/// An instance of a type.
pub struct Instance {
    pub(crate) uuid: Uuid,
    pub(crate) parent: Arc<RegisteredParent>,
    pub(crate) type_index: usize,
    pub(crate) index: u32,
    pub(crate) parameters: Mutex<BTreeMap<String, String>>,
    pub(crate) owner: Option<Owner>,
    pub(crate) device: InstanceDevice,
    pub(crate) attributes: Vec<AttributeSpec>,
    pub(crate) bus: Weak<BusInner>,
    /// Whether somebody has it to himself: its creation until that is over, then whoever removes it.
    pub(crate) claimed: AtomicBool,
    /// Held while a driver is bound or unbound: one is over before the next begins.
    pub(crate) binding: Mutex<()>,
    pub(crate) bound: Mutex<Bound>,
    pub(crate) told: Mutex<State>,
}

pub(crate) struct Bound {
    pub driver: Slot,
    pub driver_override: Option<String>,
    /// It is being removed: no driver takes it any more.
    pub gone: bool,
}

/// The session of an instance's device.
pub(crate) enum InstanceDevice {
    Virtio(Arc<Session>),
    Vfio(Arc<VfioSession>),
}

/// The place of an instance's driver.
pub(crate) enum Slot {
    Free,
    /// A driver is about to take it.
    Probing(String),
    Taken(String, Arc<dyn Binding>),
}

impl Slot {
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Free => None,
            Self::Probing(name) | Self::Taken(name, _) => Some(name),
        }
    }

    fn binding(&self) -> Option<Arc<dyn Binding>> {
        match self {
            Self::Taken(_, binding) => Some(Arc::clone(binding)),
            _ => None,
        }
    }
}

impl Instance {
    /// The UUID.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The parent's name.
    pub fn parent_name(&self) -> &str {
        self.parent.name()
    }

    /// The parent.
    pub fn parent(&self) -> &Arc<RegisteredParent> {
        &self.parent
    }

    /// The directory name of its type.
    pub fn type_name(&self) -> &str {
        &self.parent.types()[self.type_index].directory
    }

    /// The small number that names its nodes (`vhost-vdpa-<index>`, `vfio<index>`).
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its IOMMU group.
    pub fn group(&self) -> u32 {
        FIRST_GROUP.saturating_add(self.index)
    }

    /// The parameters it would be created with again.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        self.parameters.lock().clone()
    }

    /// An attribute was changed. One that is called as a parameter of `create` is that parameter: says whether it is.
    pub fn keep_attribute(&self, name: &str, value: &str) -> bool {
        let of_type = &self.parent.types()[self.type_index].info.parameters;
        let known = of_type.iter().any(|spec| spec.name == name);
        if known {
            self.parameters.lock().insert(name.to_owned(), value.to_owned());
        }
        known
    }

    /// Whom its nodes belong to, where not to root.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Its device, of whatever kind.
    pub fn engine(&self) -> &dyn Engine {
        match &self.device {
            InstanceDevice::Virtio(session) => &**session,
            InstanceDevice::Vfio(session) => &**session,
        }
    }

    /// The session of its device, where that is a virtio device.
    pub fn session(&self) -> Option<&Arc<Session>> {
        match &self.device {
            InstanceDevice::Virtio(session) => Some(session),
            InstanceDevice::Vfio(_) => None,
        }
    }

    /// The session of its device, where that is a device of another kind.
    pub fn vfio_session(&self) -> Option<&Arc<VfioSession>> {
        match &self.device {
            InstanceDevice::Virtio(_) => None,
            InstanceDevice::Vfio(session) => Some(session),
        }
    }

    /// The vendor's attributes.
    pub fn attributes(&self) -> &[AttributeSpec] {
        &self.attributes
    }

    /// The driver bound to it.
    pub fn driver(&self) -> Option<String> {
        self.bound.lock().driver.name().map(str::to_owned)
    }

    /// The only driver that may be bound to it, where one was named.
    pub fn driver_override(&self) -> Option<String> {
        self.bound.lock().driver_override.clone()
    }

    /// Names the only driver that may be bound to it; `None` lifts the rule.
    pub fn set_driver_override(&self, driver: Option<String>) {
        self.bound.lock().driver_override = driver;
    }

    /// Whether its removal has begun, and nothing keeps it any more.
    pub fn is_gone(&self) -> bool {
        self.bound.lock().gone
    }

    /// Who holds it, in words.
    pub fn holder(&self) -> Option<String> {
        let binding = self.bound.lock().driver.binding();
        binding.and_then(|binding| binding.holder())
    }

    /// Asks its holder to let go.
    pub(crate) fn ask_holder(&self) {
        let binding = self.bound.lock().driver.binding();
        if let Some(binding) = binding {
            binding.ask();
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        match self.engine().condition() {
            Condition::Broken => State::Broken,
            Condition::NeedsReset => State::NeedsReset,
            Condition::Running => State::Running,
            Condition::Idle if self.holder().is_some() => State::Open,
            Condition::Idle => State::Idle,
        }
    }

    /// The driver tells that a client opened or closed it.
    pub fn opened(&self, open: bool) {
        self.publish(if open { EventKind::Open } else { EventKind::Close });
        self.state_changed();
    }

    /// Tells the event stream if the state is another than the one told last.
    pub(crate) fn state_changed(&self) {
        let now = self.state();
        if std::mem::replace(&mut *self.told.lock(), now) != now
            && let Some(bus) = self.bus.upgrade()
        {
            bus.publish(Event { state: Some(now), ..Event::of_instance(EventKind::State, self) });
        }
    }

    pub(crate) fn publish(&self, kind: EventKind) {
        if let Some(bus) = self.bus.upgrade() {
            bus.publish(Event::of_instance(kind, self));
        }
    }

    /// Claims the right to remove it; false when somebody else has it.
    pub(crate) fn claim_removal(&self) -> bool {
        !self.claimed.swap(true, Ordering::SeqCst)
    }

    /// Lets others remove it.
    pub(crate) fn give_up_claim(&self) {
        self.claimed.store(false, Ordering::SeqCst);
    }
}
