//! `umdev show`: everything the tree says about one instance.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use crate::error::{describe, errno_of};
use crate::tree::{Instance, Tree, base_name};
use crate::{Error, attribute};

/// The bus' own entries of an instance; every other file is the vendor's.
const OF_THE_BUS: [&str; 11] = [
    "remove",
    "mdev_type",
    "iommu_group",
    "driver",
    "driver_override",
    "subsystem",
    "uevent",
    "state",
    "owner",
    "last_error",
    "vfio-dev",
];

/// One instance in full.
#[derive(Debug, Serialize)]
pub(crate) struct Detail {
    #[serde(flatten)]
    pub(crate) instance: Instance,
    pub(crate) device_api: Option<String>,
    pub(crate) driver_override: Option<String>,
    pub(crate) last_error: Option<String>,
    pub(crate) devices: Devices,
    /// The vendor's attributes; those of a group of attributes as `group/name`.
    pub(crate) attributes: BTreeMap<String, Value>,
}

/// The device files of an instance.
#[derive(Debug, Serialize)]
pub(crate) struct Devices {
    pub(crate) vhost: Option<PathBuf>,
    pub(crate) vhost_vdpa: Option<PathBuf>,
    pub(crate) vfio_group: Option<PathBuf>,
    /// The name under `vfio-dev/`, no path.
    pub(crate) vfio_dev: Option<String>,
}

/// What reading an attribute gave.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Value {
    /// Its value.
    Value(String),
    /// Why it has none, in words; an attribute that can only be written is one of these.
    Error(String),
}

impl Value {
    fn read(path: &Path) -> Self {
        // Root may open what nobody may read; the mode says what the attribute is for.
        if path.symlink_metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o444 == 0) {
            return Self::Error("write-only".into());
        }
        attribute::read(path).map_or_else(|error| Self::Error(describe(errno_of(&error))), Self::Value)
    }
}

impl Detail {
    /// Reads it all. No device file is opened: opening one would take it.
    pub(crate) fn read(tree: &Tree, uuid: Uuid) -> Result<Self, Error> {
        let instance = tree.instance(uuid)?;
        let mut attributes = BTreeMap::new();
        collect(&instance.path, "", &mut attributes)?;
        Ok(Self {
            device_api: attribute::read_optional(&instance.path.join("mdev_type/device_api")),
            // The kernel spells an override that is not set `(null)`.
            driver_override: attribute::read_optional(&instance.path.join("driver_override"))
                .filter(|name| name != "(null)"),
            last_error: attribute::read_optional(&instance.path.join("last_error")),
            devices: Devices::find(tree, &instance),
            attributes,
            instance,
        })
    }
}

impl Devices {
    fn find(tree: &Tree, instance: &Instance) -> Self {
        let present = |path: PathBuf| path.symlink_metadata().is_ok().then_some(path);
        let uuid = instance.uuid.to_string();
        Self {
            vhost: present(tree.path("dev/vhost-mdev").join(&uuid)),
            vhost_vdpa: vhost_vdpa_link(&tree.path("dev"), &uuid),
            vfio_group: instance.iommu_group.and_then(|group| present(tree.path("dev/vfio").join(group.to_string()))),
            vfio_dev: entries(&instance.path.join("vfio-dev")).first().map(|path| base_name(path)),
        }
    }
}

/// The `vhost-vdpa-<k>` that leads to the instance.
fn vhost_vdpa_link(dev: &Path, uuid: &str) -> Option<PathBuf> {
    entries(dev).into_iter().find(|path| {
        base_name(path).starts_with("vhost-vdpa-") && fs::read_link(path).is_ok_and(|target| base_name(&target) == uuid)
    })
}

/// The entries of a directory, sorted; none when it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// Gathers plain files, and those one directory down: a vendor's named group of attributes. Links lead elsewhere and are not followed.
fn collect(dir: &Path, prefix: &str, attributes: &mut BTreeMap<String, Value>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|error| Error::read(dir, &error))? {
        let entry = entry.map_err(|error| Error::read(dir, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kind) = entry.file_type() else { continue };
        if prefix.is_empty() && OF_THE_BUS.contains(&name.as_str()) {
            continue;
        }
        if kind.is_file() {
            attributes.insert(format!("{prefix}{name}"), Value::read(&entry.path()));
        } else if kind.is_dir() && prefix.is_empty() {
            collect(&entry.path(), &format!("{name}/"), attributes)?;
        }
    }
    Ok(())
}
