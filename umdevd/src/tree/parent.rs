//! A parent's directory: its types, their `create`, and the vendor's attributes.

use super::attr::{Attr, LastError, READ, READ_WRITE, WRITE, word};
use super::{DEVICES, Key, TreeView};
use devnode::{NodeId, TreeError};
use mdev_parent::{Bus, CreateText, Owner, RegisteredParent, RegisteredType, Restore};
use std::sync::Arc;
use virtio_mdev_api::{AttributeSpec, ParameterSpec, Refusal};

impl TreeView {
    pub(super) fn add_parent(&self, parent: &Arc<RegisteredParent>) -> Result<(), TreeError> {
        let name = parent.name();
        let dir = self.dir(&format!("{DEVICES}/{name}"))?;
        let class = self.dir("sys/class/mdev_bus")?;
        let link = self.tree.link(class, name, &format!("../../devices/virtual/mdev/{name}"))?;
        self.own(Key::Parent(name.to_owned()), vec![dir, link]);
        let refusals = self.refusals_of(name);
        self.tree.attribute(dir, "last_error", READ, Arc::new(refusals.attribute()))?;
        self.tree.attribute(dir, "uevent", READ, Arc::new(Attr::text("MDEV_STATE=registered")))?;
        self.add_vendor_attributes(dir, parent.attributes(), |spec| parent_attribute(parent, None, spec, &refusals))?;
        let types = self.tree.dir(dir, "mdev_supported_types")?;
        for of in parent.types() {
            self.add_type(types, parent, of, &refusals)?;
        }
        Ok(())
    }

    fn add_type(
        &self,
        types: NodeId,
        parent: &Arc<RegisteredParent>,
        of: &RegisteredType,
        parent_refusals: &Arc<LastError>,
    ) -> Result<(), TreeError> {
        let dir = self.tree.dir(types, &of.directory)?;
        self.tree.dir(dir, "devices")?;
        let refusals = Arc::new(LastError::default());
        let show = |name: &str, attr: Attr| self.tree.attribute(dir, name, READ, Arc::new(attr)).map(|_| ());
        show("name", Attr::text(&of.info.pretty_name))?;
        show("description", Attr::text(&of.info.description))?;
        show("device_api", Attr::text(of.info.device_api))?;
        show("dma_model", Attr::text(of.info.dma_model.as_str()))?;
        show("parameters", Attr::text(parameters(&of.info.parameters)))?;
        show("last_error", refusals.attribute())?;
        let (asked, asked_type) = (Arc::clone(parent), of.clone());
        show("available_instances", Attr::show(move || asked.available(&asked_type).map(|left| left.to_string())))?;
        let create = create(self.bus.clone(), parent.name().to_owned(), of.directory.clone());
        let create = create.refusals_to(&refusals).refusals_to(parent_refusals);
        self.tree.attribute(dir, "create", WRITE, Arc::new(create))?;
        self.add_vendor_attributes(dir, &of.attributes, |spec| {
            parent_attribute(parent, Some(of.clone()), spec, &refusals)
        })
    }

    /// Adds a vendor's attributes below `dir`; a `/` in a name makes a group's directory.
    pub(super) fn add_vendor_attributes(
        &self,
        dir: NodeId,
        specs: &[AttributeSpec],
        make: impl Fn(&AttributeSpec) -> Attr,
    ) -> Result<(), TreeError> {
        for spec in specs {
            let (into, name) = match spec.name.rsplit_once('/') {
                Some((group, name)) => (self.tree.dirs(dir, group)?, name),
                None => (dir, spec.name.as_str()),
            };
            let mode = if spec.writable { READ_WRITE } else { READ };
            self.tree.attribute(into, name, mode, Arc::new(make(spec)))?;
        }
        Ok(())
    }
}

/// One line a parameter, the bus' own last.
fn parameters(of_type: &[ParameterSpec]) -> String {
    of_type.iter().chain([&Owner::parameter()]).map(ParameterSpec::to_string).collect::<Vec<_>>().join("\n")
}

fn create(bus: Bus, parent: String, type_name: String) -> Attr {
    Attr::store(move |written| {
        let text = CreateText::parse(written)?;
        let uuid = text.uuid;
        bus.create(&parent, &type_name, text, Restore::default())?;
        tracing::info!(%uuid, parent, type_name, "created");
        Ok(())
    })
}

fn parent_attribute(
    parent: &Arc<RegisteredParent>,
    of: Option<RegisteredType>,
    spec: &AttributeSpec,
    refusals: &Arc<LastError>,
) -> Attr {
    let (shown, shown_of, shown_name) = (Arc::clone(parent), of.clone(), spec.name.clone());
    let attr = Attr::show(move || shown.show_attribute(shown_of.as_ref(), &shown_name));
    if !spec.writable {
        return attr;
    }
    let (stored, name) = (Arc::clone(parent), spec.name.clone());
    let store =
        move |written: &[u8]| -> Result<(), Refusal> { stored.store_attribute(of.as_ref(), &name, word(written)?) };
    attr.and_store(store).refusals_to(refusals)
}
