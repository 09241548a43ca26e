//! A parent as the bus holds it.

use crate::BusError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use virtio_mdev_api::executor;
use virtio_mdev_api::{AttributeSpec, CreateRequest, Device, Parent, Refusal, TypeInfo};

/// More calls of one parent than this are not under way at a time: one that hangs keeps its thread, and anybody may ask
/// again, by reading an attribute.
const MAX_CALLS: usize = 64;

/// A registered type.
#[derive(Debug, Clone)]
pub struct RegisteredType {
    /// The directory in `mdev_supported_types`: `<driver name>-<type name>`.
    pub directory: String,
    /// What the vendor said of it.
    pub info: TypeInfo,
    /// The vendor's attributes of the type.
    pub attributes: Vec<AttributeSpec>,
}

/// A registered parent. Every call of the vendor's code has a deadline.
pub struct RegisteredParent {
    name: String,
    driver_name: String,
    vendor: Arc<dyn Parent>,
    types: Vec<RegisteredType>,
    attributes: Vec<AttributeSpec>,
    max_instances: Option<u32>,
    instances: AtomicU32,
    leaving: AtomicBool,
    deadline: Duration,
    /// Shared by all calls under way, those given up included.
    calls: Arc<()>,
}

impl RegisteredParent {
    /// Asks the vendor what it is.
    pub(crate) fn new(name: &str, vendor: Arc<dyn Parent>, deadline: Duration) -> Result<Self, BusError> {
        let asked = Arc::clone(&vendor);
        let (driver_name, types, attributes, max_instances) = executor::run("register", deadline, move || {
            let driver_name = asked.driver_name().to_owned();
            let of_type = |info: TypeInfo| RegisteredType {
                directory: format!("{driver_name}-{}", info.name),
                attributes: asked.attributes(Some(&info.name)),
                info,
            };
            let types: Vec<_> = asked.types().into_iter().map(of_type).collect();
            (driver_name.clone(), types, asked.attributes(None), asked.max_instances())
        })?;
        Ok(Self {
            name: name.to_owned(),
            driver_name,
            vendor,
            types,
            attributes,
            max_instances,
            instances: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            deadline,
            calls: Arc::default(),
        })
    }

    /// The parent's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the vendor's driver.
    pub fn driver_name(&self) -> &str {
        &self.driver_name
    }

    /// The types.
    pub fn types(&self) -> &[RegisteredType] {
        &self.types
    }

    /// The vendor's attributes of the parent.
    pub fn attributes(&self) -> &[AttributeSpec] {
        &self.attributes
    }

    pub(crate) fn type_index(&self, directory: &str) -> Result<usize, BusError> {
        let at = self.types.iter().position(|of| of.directory == directory);
        at.ok_or_else(|| BusError::Unknown { what: "type", name: directory.to_owned() })
    }

    /// How many more instances of the type can be created now.
    pub fn available(&self, of: &RegisteredType) -> Result<u32, Refusal> {
        let left = self.max_instances.map(|max| max.saturating_sub(self.instances.load(Ordering::Acquire)));
        let name = of.info.name.clone();
        let vendor = self.ask("available", move |vendor| vendor.available(&name))?;
        Ok(left.map_or(vendor, |left| left.min(vendor)))
    }

    /// The text of a vendor attribute, of the parent or of a type.
    pub fn show_attribute(&self, of: Option<&RegisteredType>, name: &str) -> Result<String, Refusal> {
        let (of, name) = (of.map(|of| of.info.name.clone()), name.to_owned());
        self.ask("show_attribute", move |vendor| vendor.show_attribute(of.as_deref(), &name))?
    }

    /// A new value for a vendor attribute, of the parent or of a type.
    pub fn store_attribute(&self, of: Option<&RegisteredType>, name: &str, value: &str) -> Result<(), Refusal> {
        let (of, name, value) = (of.map(|of| of.info.name.clone()), name.to_owned(), value.to_owned());
        self.ask("store_attribute", move |vendor| vendor.store_attribute(of.as_deref(), &name, &value))?
    }

    pub(crate) fn create(&self, request: CreateRequest) -> Result<Device, BusError> {
        Ok(self.ask("create", move |vendor| vendor.create(request))??)
    }

    fn ask<R: Send + 'static>(
        &self,
        call: &'static str,
        work: impl FnOnce(&dyn Parent) -> R + Send + 'static,
    ) -> Result<R, executor::VendorFault> {
        let (vendor, under_way) = (Arc::clone(&self.vendor), Arc::clone(&self.calls));
        if Arc::strong_count(&under_way) > MAX_CALLS + 1 {
            return Err(executor::VendorFault::NoThread { call });
        }
        executor::run(call, self.deadline, move || {
            let _under_way = under_way;
            work(&*vendor)
        })
    }

    /// Counts one instance more, or says that the counter ran out.
    pub(crate) fn take_instance(self: &Arc<Self>) -> Result<InstanceCount, BusError> {
        let max = self.max_instances.unwrap_or(u32::MAX);
        let taken = self
            .instances
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < max).then(|| count.saturating_add(1)));
        match taken {
            Ok(_) => Ok(InstanceCount(Arc::clone(self))),
            Err(_) => Err(BusError::CounterExhausted { parent: self.name.clone(), max }),
        }
    }

    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }
}

/// One instance in a parent's count, for as long as it is held.
pub(crate) struct InstanceCount(Arc<RegisteredParent>);

impl Drop for InstanceCount {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Ordering::AcqRel);
    }
}
