//! The bus itself: who is on it, and how they come and go.

use crate::instance::{Bound, InstanceDevice, Slot};
use crate::parent::InstanceCount;
use crate::{BusError, CreateText, Event, EventKind, Instance, MdevDriver, RegisteredParent, Restore, State, remove};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use uuid::Uuid;
use virtio_mdev_api::executor;
use virtio_mdev_api::vfio::VfioSession;
use virtio_mdev_api::{AttributeSpec, CreateRequest, Device, DeviceLink, Parent, Session};

/// Events a subscriber may be behind before it loses some.
const BACKLOG: usize = 4096;

/// What the bus can offer, and how patient it is.
#[derive(Debug, Clone, Copy)]
pub struct BusOptions {
    /// How long one call of vendor code may take.
    pub vendor_deadline: Duration,
    /// How long a holder has to let go of an instance that is to be removed.
    pub remove_patience: Duration,
    /// Whether clients can map doorbell pages.
    pub doorbell_pages: bool,
}

impl Default for BusOptions {
    fn default() -> Self {
        Self {
            vendor_deadline: executor::DEFAULT_DEADLINE,
            remove_patience: Duration::from_secs(5),
            doorbell_pages: false,
        }
    }
}

/// Who shows the bus to the world. Called in order, before the call that caused the change returns.
pub trait Listener: Send + Sync {
    /// A parent registered.
    fn parent_added(&self, _parent: &Arc<RegisteredParent>) {}
    /// A parent left; its instances are gone.
    fn parent_removed(&self, _parent: &Arc<RegisteredParent>) {}
    /// A driver registered.
    fn driver_added(&self, _name: &str) {}
    /// An instance exists; no driver is bound to it yet.
    fn created(&self, _instance: &Arc<Instance>) {}
    /// An instance is going away; no driver is bound to it any more.
    fn removed(&self, _instance: &Arc<Instance>) {}
    /// A driver was bound.
    fn bound(&self, _instance: &Arc<Instance>, _driver: &str) {}
    /// A driver was unbound.
    fn unbound(&self, _instance: &Arc<Instance>, _driver: &str) {}
}

struct Nobody;
impl Listener for Nobody {}

/// The mdev bus.
#[derive(Clone)]
pub struct Bus(Arc<BusInner>);

pub(crate) struct BusInner {
    pub options: BusOptions,
    listener: OnceLock<Arc<dyn Listener>>,
    members: RwLock<Members>,
    subscribers: Mutex<Vec<Sender<Event>>>,
}

#[derive(Default)]
struct Members {
    parents: BTreeMap<String, Arc<RegisteredParent>>,
    drivers: BTreeMap<String, Arc<dyn MdevDriver>>,
    instances: BTreeMap<Uuid, Entry>,
    indices: BTreeSet<u32>,
}

/// A UUID is taken from the moment its creation begins.
enum Entry {
    Coming,
    Here { instance: Arc<Instance>, _count: InstanceCount },
}

impl Members {
    fn take_index(&mut self, wanted: Option<u32>) -> u32 {
        let free = |index: &u32| !self.indices.contains(index);
        let index = wanted.filter(free).or_else(|| (0..).find(free)).unwrap_or(u32::MAX);
        self.indices.insert(index);
        index
    }
}

impl Bus {
    /// An empty bus.
    pub fn new(options: BusOptions) -> Self {
        Self(Arc::new(BusInner {
            options,
            listener: OnceLock::new(),
            members: RwLock::default(),
            subscribers: Mutex::default(),
        }))
    }

    /// Names the listener; the first one stays.
    pub fn listen(&self, listener: Arc<dyn Listener>) {
        let _ = self.0.listener.set(listener);
    }

    /// The event stream from now on. A subscriber that falls behind loses events.
    pub fn subscribe(&self) -> Receiver<Event> {
        let (send, receive) = crossbeam_channel::bounded(BACKLOG);
        self.0.subscribers.lock().push(send);
        receive
    }

    /// Registers a vendor's parent under `name`.
    pub fn register_parent(&self, name: &str, vendor: Arc<dyn Parent>) -> Result<(), BusError> {
        let parent = Arc::new(RegisteredParent::new(name, vendor, self.0.options.vendor_deadline)?);
        let mut members = self.0.members.write();
        if members.parents.contains_key(name) {
            return Err(BusError::NameTaken { what: "parent", name: name.to_owned() });
        }
        members.parents.insert(name.to_owned(), Arc::clone(&parent));
        drop(members);
        self.0.listener().parent_added(&parent);
        self.0.publish(Event::of_parent(EventKind::ParentAdd, name));
        Ok(())
    }

    /// Takes a parent off the bus, and its instances from whoever holds them.
    pub fn unregister_parent(&self, name: &str) -> Result<(), BusError> {
        let parent = self.parent(name)?;
        parent.leave();
        for instance in self.instances().iter().filter(|instance| Arc::ptr_eq(instance.parent(), &parent)) {
            match remove::remove(&self.0, instance, true) {
                Ok(()) | Err(BusError::RemovalRunning { .. }) => {}
                Err(error) => tracing::error!(uuid = %instance.uuid(), %error, "left behind by its parent"),
            }
        }
        self.0.members.write().parents.remove(name);
        self.0.listener().parent_removed(&parent);
        self.0.publish(Event::of_parent(EventKind::ParentRemove, name));
        Ok(())
    }

    /// Registers an mdev driver.
    pub fn register_driver(&self, driver: Arc<dyn MdevDriver>) -> Result<(), BusError> {
        let name = driver.name().to_owned();
        let mut members = self.0.members.write();
        if members.drivers.contains_key(&name) {
            return Err(BusError::NameTaken { what: "driver", name });
        }
        members.drivers.insert(name.clone(), driver);
        drop(members);
        self.0.listener().driver_added(&name);
        Ok(())
    }

    /// The parents, by name.
    pub fn parents(&self) -> Vec<Arc<RegisteredParent>> {
        self.0.members.read().parents.values().cloned().collect()
    }

    /// The parent called `name`.
    pub fn parent(&self, name: &str) -> Result<Arc<RegisteredParent>, BusError> {
        let parent = self.0.members.read().parents.get(name).cloned();
        parent.ok_or_else(|| BusError::Unknown { what: "parent", name: name.to_owned() })
    }

    /// The instances, by UUID.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        let members = self.0.members.read();
        let here = members.instances.values().filter_map(|entry| match entry {
            Entry::Here { instance, .. } => Some(Arc::clone(instance)),
            Entry::Coming => None,
        });
        here.collect()
    }

    /// The instance `uuid`.
    pub fn instance(&self, uuid: Uuid) -> Result<Arc<Instance>, BusError> {
        match self.0.members.read().instances.get(&uuid) {
            Some(Entry::Here { instance, .. }) => Ok(Arc::clone(instance)),
            _ => Err(BusError::Unknown { what: "instance", name: uuid.to_string() }),
        }
    }

    /// Creates an instance of the type with the directory name `type_name`, and binds it to its driver.
    pub fn create(
        &self,
        parent: &str,
        type_name: &str,
        text: CreateText,
        restore: Restore,
    ) -> Result<Arc<Instance>, BusError> {
        let parent = self.parent(parent)?;
        let type_index = parent.type_index(type_name)?;
        let uuid = text.uuid;
        let index = self.0.reserve(&parent, uuid, restore.index)?;
        let made = self.0.make(&parent, type_index, index, text, restore.driver_override);
        let (instance, count) = match made {
            Ok(made) => made,
            Err(error) => {
                self.0.unreserve(uuid, index);
                return Err(error);
            }
        };
        self.0.members.write().instances.insert(uuid, Entry::Here { instance: Arc::clone(&instance), _count: count });
        self.0.listener().created(&instance);
        instance.publish(EventKind::Create);
        if let Err(error) = self.0.attach_default_driver(&instance) {
            remove::take_away(&self.0, &instance);
            return Err(error);
        }
        // From here on it can be removed, as the kernel's can once it is active.
        instance.give_up_claim();
        if parent.is_leaving() {
            remove::remove(&self.0, &instance, true)?;
            return Err(BusError::Unknown { what: "parent", name: parent.name().to_owned() });
        }
        Ok(instance)
    }

    /// Removes an instance. Its holder is asked to let go and has a while to do so; `force` does not wait.
    pub fn remove(&self, uuid: Uuid, force: bool) -> Result<(), BusError> {
        remove::remove(&self.0, &self.instance(uuid)?, force)
    }

    /// Binds the instance to `driver`.
    pub fn bind(&self, driver: &str, uuid: Uuid) -> Result<(), BusError> {
        let instance = self.instance(uuid)?;
        let driver = self.0.driver(driver)?;
        self.0.attach_driver(&instance, &driver)
    }

    /// Unbinds the instance from `driver`, holders or not, as the kernel does.
    pub fn unbind(&self, driver: &str, uuid: Uuid) -> Result<(), BusError> {
        let instance = self.instance(uuid)?;
        self.0.driver(driver)?;
        if instance.driver().as_deref() != Some(driver) {
            return Err(BusError::NotBound { uuid, driver: driver.to_owned() });
        }
        self.0.detach_driver(&instance);
        Ok(())
    }
}

/// The session of a new device, and the vendor's attributes of it.
fn session_of(
    device: Device,
    link: DeviceLink,
    deadline: Duration,
) -> Result<(InstanceDevice, Vec<AttributeSpec>), BusError> {
    match device {
        Device::Virtio(device) => {
            let asked = executor::run("info", deadline, move || (device.info(), device.attributes(), device));
            let (info, attributes, device) = asked?;
            Ok((InstanceDevice::Virtio(Arc::new(Session::new(device, info, link, deadline))), attributes))
        }
        Device::Vfio(device) => {
            let asked = executor::run("shape", deadline, move || {
                (device.shape(), device.movable(), device.attributes(), device)
            });
            let (shape, movable, attributes, device) = asked?;
            let session = VfioSession::new(device, shape, movable, link, deadline);
            Ok((InstanceDevice::Vfio(Arc::new(session)), attributes))
        }
        _ => Err(BusError::Unknown { what: "driver for this kind of device", name: String::new() }),
    }
}

impl BusInner {
    pub fn listener(&self) -> &dyn Listener {
        self.listener.get().map_or(&Nobody, |listener| &**listener)
    }

    pub fn publish(&self, event: Event) {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|to| !matches!(to.try_send(event.clone()), Err(TrySendError::Disconnected(_))));
    }

    fn driver(&self, name: &str) -> Result<Arc<dyn MdevDriver>, BusError> {
        let driver = self.members.read().drivers.get(name).cloned();
        driver.ok_or_else(|| BusError::Unknown { what: "driver", name: name.to_owned() })
    }

    fn reserve(&self, parent: &RegisteredParent, uuid: Uuid, index: Option<u32>) -> Result<u32, BusError> {
        let mut members = self.members.write();
        if parent.is_leaving() {
            return Err(BusError::Unknown { what: "parent", name: parent.name().to_owned() });
        }
        if members.instances.contains_key(&uuid) {
            return Err(BusError::Exists { uuid });
        }
        members.instances.insert(uuid, Entry::Coming);
        Ok(members.take_index(index))
    }

    fn unreserve(&self, uuid: Uuid, index: u32) {
        let mut members = self.members.write();
        members.instances.remove(&uuid);
        members.indices.remove(&index);
    }

    fn make(
        self: &Arc<Self>,
        parent: &Arc<RegisteredParent>,
        type_index: usize,
        index: u32,
        text: CreateText,
        driver_override: Option<String>,
    ) -> Result<(Arc<Instance>, InstanceCount), BusError> {
        let count = parent.take_instance()?;
        let link = DeviceLink::new(text.uuid.to_string());
        let request = CreateRequest {
            uuid: text.uuid,
            type_name: parent.types()[type_index].info.name.clone(),
            parameters: text.parameters.clone(),
            doorbell_pages: self.options.doorbell_pages,
            owner: text.owner.map(|owner| (owner.uid, owner.gid)),
            link: link.clone(),
        };
        let deadline = self.options.vendor_deadline;
        let (device, attributes) = session_of(parent.create(request)?, link, deadline)?;
        let instance = Arc::new(Instance {
            uuid: text.uuid,
            parent: Arc::clone(parent),
            type_index,
            index,
            parameters: Mutex::new(text.parameters),
            owner: text.owner,
            device,
            attributes,
            bus: Arc::downgrade(self),
            claimed: AtomicBool::new(true),
            binding: Mutex::default(),
            bound: Mutex::new(Bound { driver: Slot::Free, driver_override, gone: false }),
            told: Mutex::new(State::Idle),
        });
        let observed = Arc::downgrade(&instance);
        instance.engine().link().observe(move || {
            if let Some(instance) = observed.upgrade() {
                instance.state_changed();
            }
        });
        Ok((instance, count))
    }

    /// The UUID and the numbers of a removed instance are free again.
    pub fn forget(&self, instance: &Instance) {
        let mut members = self.members.write();
        members.instances.remove(&instance.uuid());
        members.indices.remove(&instance.index());
    }

    /// As the kernel's mdev core does, a new instance is bound to its driver at once: the one named by
    /// `driver_override`, else the first that matches. None at all is fine.
    fn attach_default_driver(&self, instance: &Arc<Instance>) -> Result<(), BusError> {
        let wanted = instance.driver_override();
        let driver = {
            let members = self.members.read();
            let fits = |driver: &&Arc<dyn MdevDriver>| match &wanted {
                Some(name) => driver.name() == name,
                None => driver.matches(instance),
            };
            members.drivers.values().find(fits).cloned()
        };
        match driver.map_or(Ok(()), |driver| self.attach_driver(instance, &driver)) {
            // Somebody was faster and bound it by hand.
            Err(BusError::Bound { .. }) => Ok(()),
            attached => attached,
        }
    }

    fn attach_driver(&self, instance: &Arc<Instance>, driver: &Arc<dyn MdevDriver>) -> Result<(), BusError> {
        let _binding = instance.binding.lock();
        let uuid = instance.uuid();
        let name = driver.name();
        if instance.driver_override().is_some_and(|only| only != name) || !driver.matches(instance) {
            return Err(BusError::NoMatch { uuid, driver: name.to_owned() });
        }
        {
            let mut bound = instance.bound.lock();
            if bound.gone {
                return Err(BusError::Unknown { what: "instance", name: uuid.to_string() });
            }
            if let Some(driver) = bound.driver.name() {
                return Err(BusError::Bound { uuid, driver: driver.to_owned() });
            }
            bound.driver = Slot::Probing(name.to_owned());
        }
        match driver.probe(instance) {
            Ok(binding) => instance.bound.lock().driver = Slot::Taken(name.to_owned(), binding),
            Err(refusal) => {
                instance.bound.lock().driver = Slot::Free;
                return Err(refusal.into());
            }
        }
        self.listener().bound(instance, name);
        self.publish(Event { driver: Some(name.to_owned()), ..Event::of_instance(EventKind::Bind, instance) });
        Ok(())
    }

    pub fn detach_driver(&self, instance: &Arc<Instance>) {
        let _binding = instance.binding.lock();
        let taken = std::mem::replace(&mut instance.bound.lock().driver, Slot::Free);
        let Slot::Taken(name, binding) = taken else { return };
        binding.remove();
        self.listener().unbound(instance, &name);
        self.publish(Event { driver: Some(name), ..Event::of_instance(EventKind::Unbind, instance) });
    }
}
