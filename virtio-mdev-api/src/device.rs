//! What a vendor's device is: the virtio-mdev operations.

use crate::dma::{Limits, Region};
use crate::link::DeviceLink;
use crate::notify::EventFd;
use crate::parent::AttributeSpec;
use crate::queue::{QueueStart, QueueState};
use crate::vfio::VfioMdev;
use crate::{Refusal, Status};
use nix::errno::Errno;

bitflags::bitflags! {
    /// What a device can do beyond the mandatory operations. Asked for before use.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Capabilities: u32 {
        /// The device has an IOMMU of its own: it wants [`VirtioMdev::dma_map`] and [`VirtioMdev::dma_unmap`]
        /// (the `vhost` DMA model) and does not take the mappings of a VFIO container.
        const OWN_IOMMU = 1;
        /// The device watches [`QueueStart::doorbell`], so that its driver can kick by a store.
        const DOORBELL_PAGE = 2;
    }
}

/// A queue as the device was built with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueInfo {
    /// Largest ring size.
    pub max_size: u16,
    /// The virtqueue group: queues of one group share an address space.
    pub group: u32,
    /// The group of the ring itself, for a device that can take it from another address space than the buffers
    /// (`VHOST_BACKEND_F_DESC_ASID`).
    pub desc_group: Option<u32>,
}

/// What never changes while a device lives.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// Virtio device id (virtio 1.3 §5): 1 is a network card.
    pub device_id: u32,
    /// Vendor id.
    pub vendor_id: u32,
    /// The queues, by index.
    pub queues: Vec<QueueInfo>,
    /// Features offered.
    pub features: u64,
    /// Bytes of configuration space.
    pub config_size: u32,
    /// Alignment of ring areas, bytes.
    pub queue_align: u32,
    /// Address spaces the device can tell apart.
    pub address_spaces: u32,
    /// The IOVAs the device can reach.
    pub limits: Limits,
    /// Optional abilities.
    pub capabilities: Capabilities,
}

impl DeviceInfo {
    /// How many virtqueue groups there are: their numbers have no gaps.
    pub fn groups(&self) -> u32 {
        let of = |queue: &QueueInfo| queue.group.max(queue.desc_group.unwrap_or(0)).saturating_add(1);
        self.queues.iter().map(of).max().unwrap_or(1)
    }

    /// Whether some queue can have its ring in a group of its own.
    pub fn has_desc_groups(&self) -> bool {
        self.queues.iter().any(|queue| queue.desc_group.is_some())
    }
}

/// A device as its vendor makes it: the operations of virtio-mdev, and `vdpa_config_ops` after them.
///
/// Calls never overlap: they are made one at a time, on a thread that is the device's own for the length of a call,
/// under no lock of the bus, and each has a deadline. A call that outlives it, or panics, leaves the instance broken.
/// Rules of status and features are checked before a call is made; a device sees legal sequences only:
///
/// ```text
///  create ─▶ set_features ─▶ start_queue* ◀─▶ stop_queue* ─▶ reset ─▶ …  ─▶ drop
/// ```
pub trait VirtioMdev: Send {
    /// What the device is. Asked after creation; and again when features were accepted, for the groups of its queues alone:
    /// features may move a queue into another of the groups there are.
    fn info(&self) -> DeviceInfo;

    /// The features the driver accepted: a subset of those offered that holds all required ones.
    fn set_features(&mut self, features: u64) -> Result<(), Refusal>;

    /// Fills `out` from configuration space at `offset`. The range is within [`DeviceInfo::config_size`].
    fn read_config(&mut self, offset: u32, out: &mut [u8]);

    /// Writes configuration space. The range is within [`DeviceInfo::config_size`].
    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Refusal>;

    /// Starts queue `index` at the given state. It is not running.
    fn start_queue(&mut self, index: u16, queue: QueueStart) -> Result<(), Refusal>;

    /// Stops queue `index` and says where it stood; when it returns, the device touches neither its ring nor its
    /// buffers. `None` when it was not running. An error says that the device cannot be stopped: the instance is broken.
    fn stop_queue(&mut self, index: u16) -> Result<Option<QueueState>, Refusal>;

    /// Replaces the kick of a running queue. A kick already given may have been rung: look at the ring once.
    fn set_kick(&mut self, index: u16, kick: Option<EventFd>);

    /// The status byte changed. Queues are started and stopped by calls of their own.
    fn status_changed(&mut self, _status: Status) {}

    /// Back to the state after creation. All queues are stopped already.
    fn reset(&mut self);

    /// What the device has besides features, configuration space and queues, for another one of its kind to continue it:
    /// what its control queue set, say. All queues are stopped.
    fn save_state(&mut self) -> Result<Vec<u8>, Refusal> {
        Ok(Vec::new())
    }

    /// Takes what [`save_state`](Self::save_state) of a device of this kind said, after features and configuration space
    /// were set; or what somebody else made of it: a state that does not fit is refused with EINVAL. All queues are stopped.
    fn restore_state(&mut self, state: &[u8]) -> Result<(), Refusal> {
        if state.is_empty() {
            return Ok(());
        }
        Err(Refusal::new(Errno::EINVAL, format!("{} bytes of state for a device that has none", state.len())))
    }

    /// With [`Capabilities::OWN_IOMMU`]: `region` becomes visible to the device in address space `asid`.
    fn dma_map(&mut self, _asid: u32, _region: &Region) -> Result<(), Refusal> {
        Err(Refusal::new(Errno::EOPNOTSUPP, "the device has no IOMMU of its own"))
    }

    /// With [`Capabilities::OWN_IOMMU`]: the range is gone; when this returns the device does not touch it.
    fn dma_unmap(&mut self, _asid: u32, _iova: u64, _len: u64) {}

    /// With [`Capabilities::OWN_IOMMU`]: `removed` goes and `added` comes; their addresses may be the same. A device that
    /// can exchange its table at once does it here, so that memory mapped before and after never faults. A refusal leaves
    /// everything as it was.
    fn dma_replace(&mut self, asid: u32, removed: &[Region], added: &[Region]) -> Result<(), Refusal> {
        removed.iter().for_each(|region| self.dma_unmap(asid, region.iova, region.len));
        for (done, region) in added.iter().enumerate() {
            let Err(refusal) = self.dma_map(asid, region) else { continue };
            added[..done].iter().for_each(|region| self.dma_unmap(asid, region.iova, region.len));
            // They were mapped a moment ago.
            removed.iter().try_for_each(|region| self.dma_map(asid, region))?;
            return Err(refusal);
        }
        Ok(())
    }

    /// The vendor's own attributes of the instance.
    fn attributes(&self) -> Vec<AttributeSpec> {
        Vec::new()
    }

    /// The text of attribute `name`.
    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        Err(Refusal::new(Errno::ENOENT, format!("no attribute {name}")))
    }

    /// Takes a new value for attribute `name`, without the final newline.
    fn store_attribute(&mut self, name: &str, _value: &str) -> Result<(), Refusal> {
        Err(Refusal::new(Errno::EACCES, format!("attribute {name} is read-only")))
    }
}

/// What a parent creates.
#[non_exhaustive]
pub enum Device {
    /// A virtio device.
    Virtio(Box<dyn VirtioMdev>),
    /// A device of another kind, which clients drive through VFIO.
    Vfio(Box<dyn VfioMdev>),
}

/// Everything a parent gets to create an instance.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// The instance.
    pub uuid: uuid::Uuid,
    /// Which of the parent's types, by [`TypeInfo::name`](crate::TypeInfo::name).
    pub type_name: String,
    /// `key=value` parameters, as written. A parent refuses keys it does not know with EINVAL.
    pub parameters: std::collections::BTreeMap<String, String>,
    /// Whether clients can map doorbell pages here. Without it a device with [`Capabilities::DOORBELL_PAGE`] would promise
    /// what nobody can use.
    pub doorbell_pages: bool,
    /// User and group whom the files of the instance belong to, where not to root.
    pub owner: Option<(u32, u32)>,
    /// The device's line to whoever drives it.
    pub link: DeviceLink,
}
