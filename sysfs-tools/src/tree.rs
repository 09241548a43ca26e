//! The tree: which types the parents offer and which instances there are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use crate::error::errno_of;
use crate::{Error, attribute, class};

/// A tree below a root.
pub(crate) struct Tree {
    root: PathBuf,
}

/// A type of a parent: `mdev_supported_types/<type>`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MdevType {
    pub(crate) parent: String,
    #[serde(rename = "type")]
    pub(crate) name: String,
    pub(crate) available_instances: Option<u64>,
    pub(crate) device_api: Option<String>,
    pub(crate) dma_model: Option<String>,
    #[serde(rename = "name")]
    pub(crate) pretty_name: Option<String>,
    pub(crate) description: Option<String>,
    /// What `create` takes.
    pub(crate) parameters: Vec<Parameter>,
    /// The type's directory.
    #[serde(skip)]
    pub(crate) path: PathBuf,
}

/// A line of `parameters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) values: String,
    /// None where each instance has its own.
    pub(crate) default: Option<String>,
    pub(crate) what: String,
}

impl Parameter {
    /// `NAME VALUES DEFAULT WHAT…`; what is missing is empty.
    fn parse(line: &str) -> Self {
        let mut words = line.splitn(4, ' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (name, values, default) = (word(), word(), word());
        Self { name, values, default: Some(default).filter(|value| value != "-"), what: word() }
    }
}

/// An instance as `list` shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Instance {
    pub(crate) uuid: Uuid,
    pub(crate) parent: Option<String>,
    #[serde(rename = "type")]
    pub(crate) type_name: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) driver: Option<String>,
    pub(crate) iommu_group: Option<u64>,
    pub(crate) owner: Option<String>,
    /// The instance's directory, below its parent's.
    #[serde(skip)]
    pub(crate) path: PathBuf,
}

impl Tree {
    /// The tree below `root`.
    ///
    /// # Errors
    /// [`Error::NoTree`] when there is none.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        class::set_root(root);
        let tree = Self { root: root.to_owned() };
        fs::metadata(root.join("sys/class/mdev_bus")).map_err(|error| tree.no_tree(&error))?;
        Ok(tree)
    }

    /// A path below the root.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Every type of every parent, by parent and name.
    pub(crate) fn types(&self) -> Result<Vec<MdevType>, Error> {
        let mut types = Vec::new();
        for parent in class::parents().map_err(|error| self.no_tree(&error))? {
            let dir = parent.join("mdev_supported_types");
            // A parent that went away meanwhile, or one without types, offers none.
            let Some(entries) = unless_gone(fs::read_dir(&dir)).map_err(|error| Error::read(&dir, &error))? else {
                continue;
            };
            let mut paths = entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<_>>>()
                .map_err(|e| Error::read(&dir, &e))?;
            paths.sort();
            types.extend(paths.into_iter().filter(|path| path.is_dir()).map(|path| MdevType::read(&parent, path)));
        }
        Ok(types)
    }

    /// Every instance, by UUID.
    pub(crate) fn instances(&self) -> Result<Vec<Instance>, Error> {
        let links = class::instances().map_err(|error| self.no_tree(&error))?;
        let mut instances = Vec::with_capacity(links.len());
        for link in links {
            // What is no UUID is no mediated device, whatever it does on this bus.
            let Ok(uuid) = Uuid::try_parse(&base_name(&link)) else { continue };
            instances.extend(unless_gone(Instance::read(uuid, &link)).map_err(|error| Error::read(&link, &error))?);
        }
        Ok(instances)
    }

    /// The instance with this UUID.
    ///
    /// # Errors
    /// [`Error::NoInstance`] when there is none.
    pub(crate) fn instance(&self, uuid: Uuid) -> Result<Instance, Error> {
        let link = self.path("sys/bus/mdev/devices").join(uuid.to_string());
        unless_gone(Instance::read(uuid, &link))
            .map_err(|error| Error::read(&link, &error))?
            .ok_or(Error::NoInstance(uuid))
    }

    fn no_tree(&self, error: &io::Error) -> Error {
        Error::NoTree { root: self.root.clone(), errno: errno_of(error) }
    }
}

impl MdevType {
    fn read(parent: &Path, path: PathBuf) -> Self {
        let value = |name: &str| attribute::read_optional(&path.join(name));
        Self {
            parent: base_name(parent),
            name: base_name(&path),
            available_instances: value("available_instances").and_then(|count| count.parse().ok()),
            device_api: value("device_api"),
            dma_model: value("dma_model"),
            pretty_name: value("name"),
            description: value("description"),
            parameters: value("parameters").iter().flat_map(|text| text.lines()).map(Parameter::parse).collect(),
            path,
        }
    }

    /// `PARENT/TYPE`, as `create` takes it.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.parent, self.name)
    }
}

impl Instance {
    /// Parent and type are where the kernel has them: the directory above the real one, and the name behind the link `mdev_type`.
    fn read(uuid: Uuid, link: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(link)?;
        let behind = |name: &str| fs::read_link(path.join(name)).ok().map(|target| base_name(&target));
        Ok(Self {
            uuid,
            parent: path.parent().map(base_name),
            type_name: behind("mdev_type"),
            state: attribute::read_optional(&path.join("state")),
            driver: behind("driver"),
            iommu_group: behind("iommu_group").and_then(|number| number.parse().ok()),
            owner: attribute::read_optional(&path.join("owner")),
            path,
        })
    }
}

/// Things come and go while they are looked at: gone is none, not an error.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last component of a path.
pub(crate) fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
