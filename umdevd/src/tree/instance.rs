//! An instance's directory and the links that lead to it.

use super::attr::{Attr, LastError, READ, READ_WRITE, WRITE, word};
use super::{DEVICES, Key, TreeView};
use devnode::TreeError;
use mdev_parent::{Instance, RemoveText};
use std::sync::{Arc, Weak};
use virtio_mdev_api::{AttributeSpec, Refusal};

impl TreeView {
    pub(super) fn add_instance(&self, instance: &Arc<Instance>) -> Result<(), TreeError> {
        let uuid = instance.uuid().to_string();
        let (parent, of) = (instance.parent_name(), instance.type_name());
        let parent_dir = self.dir(&format!("{DEVICES}/{parent}"))?;
        let dir = self.tree.dir(parent_dir, &uuid)?;
        let key = Key::Instance(instance.uuid());
        self.own(key, vec![dir]);
        let here = format!("devices/virtual/mdev/{parent}/{uuid}");
        let bus = self.dir("sys/bus/mdev/devices")?;
        let of_type = self.dir(&format!("{DEVICES}/{parent}/mdev_supported_types/{of}/devices"))?;
        let links = vec![
            self.tree.link(bus, &uuid, &format!("../../../{here}"))?,
            self.tree.link(of_type, &uuid, &format!("../../../{uuid}"))?,
        ];
        self.own(Key::Instance(instance.uuid()), links);
        self.tree.link(dir, "mdev_type", &format!("../mdev_supported_types/{of}"))?;
        self.tree.link(dir, "subsystem", "../../../../../bus/mdev")?;

        let refusals = self.refusals_of(parent);
        let own_refusals = Arc::new(LastError::default());
        let weak = Arc::downgrade(instance);
        let attributes = [
            ("state", READ, shown(&weak, |instance| instance.state().as_str().to_owned())),
            ("owner", READ, shown(&weak, owner)),
            ("last_fault", READ, shown(&weak, last_fault)),
            ("uevent", READ, shown(&weak, uevent)),
            ("last_error", READ, own_refusals.attribute()),
            ("remove", WRITE, self.remove(&weak).refusals_to(&own_refusals).refusals_to(&refusals)),
            ("driver_override", READ_WRITE, self.driver_override(&weak).refusals_to(&own_refusals)),
        ];
        for (name, mode, attr) in attributes {
            self.tree.attribute(dir, name, mode, Arc::new(attr))?;
        }
        self.add_vendor_attributes(dir, instance.attributes(), |spec| {
            self.vendor_attribute(instance, spec, &own_refusals)
        })
    }

    fn remove(&self, instance: &Weak<Instance>) -> Attr {
        let (bus, instance) = (self.bus.clone(), instance.clone());
        Attr::store(move |written| {
            let force = match RemoveText::parse(written)? {
                RemoveText::Nothing => return Ok(()),
                RemoveText::Remove => false,
                RemoveText::Force => true,
            };
            let uuid = alive(&instance)?.uuid();
            bus.remove(uuid, force)?;
            tracing::info!(%uuid, force, "removed");
            Ok(())
        })
    }

    fn driver_override(&self, instance: &Weak<Instance>) -> Attr {
        let (view, of) = (self.me.clone(), instance.clone());
        let show = shown(instance, |instance| instance.driver_override().unwrap_or_else(|| "(null)".to_owned()));
        show.and_store(move |written| {
            let instance = alive(&of)?;
            let driver = word(written)?;
            instance.set_driver_override((!driver.is_empty()).then(|| driver.to_owned()));
            if let Some(view) = view.upgrade() {
                view.keep(&instance);
            }
            Ok(())
        })
    }

    fn vendor_attribute(&self, instance: &Arc<Instance>, spec: &AttributeSpec, refusals: &Arc<LastError>) -> Attr {
        let (shown, name) = (Arc::downgrade(instance), spec.name.clone());
        let attr = Attr::show(move || alive(&shown)?.engine().show_attribute(&name));
        if !spec.writable {
            return attr;
        }
        let (view, stored, name) = (self.me.clone(), Arc::downgrade(instance), spec.name.clone());
        let store = move |written: &[u8]| {
            let (instance, value) = (alive(&stored)?, word(written)?);
            instance.engine().store_attribute(&name, value)?;
            if instance.keep_attribute(&name, value)
                && let Some(view) = view.upgrade()
            {
                view.keep(&instance);
            }
            Ok(())
        };
        attr.and_store(store).refusals_to(refusals)
    }
}

fn alive(instance: &Weak<Instance>) -> Result<Arc<Instance>, Refusal> {
    instance.upgrade().ok_or_else(|| Refusal::new(nix::errno::Errno::ENODEV, "the instance is gone"))
}

fn shown(instance: &Weak<Instance>, show: impl Fn(&Instance) -> String + Send + Sync + 'static) -> Attr {
    let instance = instance.clone();
    Attr::show(move || Ok(show(&*alive(&instance)?)))
}

fn owner(instance: &Instance) -> String {
    instance.owner().map_or_else(|| "0:0".to_owned(), |owner| format!("{}:{}", owner.uid, owner.gid))
}

fn last_fault(instance: &Instance) -> String {
    let broken = instance.engine().broken();
    broken.or_else(|| instance.engine().link().last_fault()).unwrap_or_default()
}

fn uevent(instance: &Instance) -> String {
    let mut lines = instance.driver().map_or_else(String::new, |driver| format!("DRIVER={driver}\n"));
    lines.push_str(&format!("MODALIAS=mdev:{}\n", instance.type_name()));
    lines
}
