//! What a vendor's parent is: a maker of instances.

use crate::Refusal;
use crate::device::{CreateRequest, Device};
use crate::parameter::ParameterSpec;
use nix::errno::Errno;

/// A type of instance, as `mdev_supported_types` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeInfo {
    /// Name within the parent; the directory is `<driver name>-<name>`.
    pub name: String,
    /// What a person reads in `name`.
    pub pretty_name: String,
    /// What a person reads in `description`: features, limits.
    pub description: String,
    /// `device_api`: `virtio-mdev` for virtio devices, `vfio-pci` for a device that shows itself as a PCI function.
    pub device_api: &'static str,
    /// `dma_model`: who translates, see [`DmaModel`].
    pub dma_model: DmaModel,
    /// The parameters `create` takes, those of the bus aside.
    pub parameters: Vec<ParameterSpec>,
}

/// Whose mappings a device uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmaModel {
    /// The VFIO container's, or IOTLB messages where there is no container.
    Vfio,
    /// IOTLB messages on the vhost file, for a device with an IOMMU of its own.
    Vhost,
}

impl DmaModel {
    /// The word in the `dma_model` attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vfio => "vfio",
            Self::Vhost => "vhost",
        }
    }
}

/// An attribute a vendor brings. A `/` in the name puts it in a group's directory, as sysfs groups do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeSpec {
    /// File name, or `group/file`.
    pub name: String,
    /// Whether it can be written.
    pub writable: bool,
}

/// A vendor's parent: lists its types and creates devices.
///
/// Methods may be called from several threads at once; each call has a deadline and a panic is caught, see
/// [`VirtioMdev`](crate::VirtioMdev).
pub trait Parent: Send + Sync {
    /// The driver's name, the prefix of the type directories.
    fn driver_name(&self) -> &str;

    /// The types. Asked once, when the parent registers.
    fn types(&self) -> Vec<TypeInfo>;

    /// How many more instances of `type_name` can be created now.
    fn available(&self, type_name: &str) -> u32;

    /// How many instances of all types there may be, kept by the bus (EUSERS); `None` where the parent counts itself.
    fn max_instances(&self) -> Option<u32> {
        None
    }

    /// Creates a device. Its errno reaches the writer of `create`: ENOSPC when nothing is left, EINVAL for a bad
    /// parameter. Two callers may race for the last one: exactly one must win.
    fn create(&self, request: CreateRequest) -> Result<Device, Refusal>;

    /// The vendor's own attributes: of the parent, or with `type_name` of a type.
    fn attributes(&self, _type_name: Option<&str>) -> Vec<AttributeSpec> {
        Vec::new()
    }

    /// The text of attribute `name`.
    fn show_attribute(&self, _type_name: Option<&str>, name: &str) -> Result<String, Refusal> {
        Err(Refusal::new(Errno::ENOENT, format!("no attribute {name}")))
    }

    /// Takes a new value for attribute `name`, without the final newline.
    fn store_attribute(&self, _type_name: Option<&str>, name: &str, _value: &str) -> Result<(), Refusal> {
        Err(Refusal::new(Errno::EACCES, format!("attribute {name} is read-only")))
    }
}
