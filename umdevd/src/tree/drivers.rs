//! `sys/bus/mdev/drivers`: binding by hand, and what a bound driver shows.

use super::attr::{Attr, WRITE, word};
use super::{DEVICES, Key, TreeView};
use devnode::TreeError;
use mdev_parent::Instance;
use nix::errno::Errno;
use std::sync::Arc;
use uuid::Uuid;
use virtio_mdev_api::Refusal;

impl TreeView {
    pub(super) fn add_driver(&self, name: &str) -> Result<(), TreeError> {
        let dir = self.dir(&format!("sys/bus/mdev/drivers/{name}"))?;
        let (bus, driver) = (self.bus.clone(), name.to_owned());
        let bind = Attr::store(move |written| Ok(bus.bind(&driver, uuid(written)?)?));
        let (bus, driver) = (self.bus.clone(), name.to_owned());
        let unbind = Attr::store(move |written| Ok(bus.unbind(&driver, uuid(written)?)?));
        self.tree.attribute(dir, "bind", WRITE, Arc::new(bind))?;
        self.tree.attribute(dir, "unbind", WRITE, Arc::new(unbind))?;
        Ok(())
    }

    pub(super) fn add_binding(&self, instance: &Instance, driver: &str) -> Result<(), TreeError> {
        let uuid = instance.uuid().to_string();
        let parent = instance.parent_name();
        let device = self.dir(&format!("{DEVICES}/{parent}/{uuid}"))?;
        let driver_dir = self.dir(&format!("sys/bus/mdev/drivers/{driver}"))?;
        let nodes = vec![
            self.tree.link(device, "driver", &format!("../../../../../bus/mdev/drivers/{driver}"))?,
            self.tree.link(driver_dir, &uuid, &format!("../../../../devices/virtual/mdev/{parent}/{uuid}"))?,
        ];
        self.own(Key::Driver(instance.uuid()), nodes);
        Ok(())
    }
}

/// As the kernel finds devices by name: a name that is no device's is ENODEV.
fn uuid(written: &[u8]) -> Result<Uuid, Refusal> {
    let name = word(written)?;
    Uuid::try_parse(name).map_err(|_| Refusal::new(Errno::ENODEV, format!("there is no instance {name}")))
}
