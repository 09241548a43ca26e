//! An instance with an IOMMU of its own: an address space the vendor fills from map and unmap calls, the only one its
//! queues use.

use crate::port::LoopbackPort;
use nix::errno::Errno;
use std::fmt::Write as _;
use std::sync::Arc;
use virtio_mdev_api::dma::{AddressSpace, Limits, Permissions, Region};
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{AttributeSpec, Capabilities, DeviceInfo, QueueStart, QueueState, Refusal, Status, VirtioMdev};
use virtio_net::NetDevice;

const MAPPINGS: &str = "mappings";

pub struct IommuDevice {
    net: NetDevice<LoopbackPort>,
    space: Arc<AddressSpace>,
}

impl IommuDevice {
    pub fn new(net: NetDevice<LoopbackPort>) -> Self {
        Self { net, space: AddressSpace::new(Limits::default()) }
    }

    /// One line a mapping: first and last address, what the device may do, how it is reached.
    fn mappings(&self) -> String {
        let mut text = String::new();
        for region in self.space.regions() {
            let allowed = |permission, letter| if region.permissions.contains(permission) { letter } else { '-' };
            let (read, write) = (allowed(Permissions::READ, 'r'), allowed(Permissions::WRITE, 'w'));
            let how = if region.in_place { "shared" } else { "private" };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:#x}-{:#x} {read}{write} {how}", region.iova, region.last());
        }
        text
    }
}

impl VirtioMdev for IommuDevice {
    fn info(&self) -> DeviceInfo {
        let mut info = self.net.info();
        info.queues.iter_mut().for_each(|queue| queue.group = 0);
        DeviceInfo { capabilities: Capabilities::OWN_IOMMU, address_spaces: 1, ..info }
    }

    fn start_queue(&mut self, index: u16, queue: QueueStart) -> Result<(), Refusal> {
        self.net.start_queue(
            index,
            QueueStart { space: Arc::clone(&self.space), ring_space: Arc::clone(&self.space), ..queue },
        )
    }

    fn dma_map(&mut self, asid: u32, region: &Region) -> Result<(), Refusal> {
        if asid != 0 {
            return Err(Refusal::new(Errno::EINVAL, format!("address space {asid}: there is only 0")));
        }
        Ok(self.space.map(region.clone())?)
    }

    fn dma_unmap(&mut self, asid: u32, iova: u64, len: u64) {
        if asid == 0 && len > 0 {
            self.space.unmap(iova, iova.saturating_add(len - 1));
        }
    }

    fn attributes(&self) -> Vec<AttributeSpec> {
        let mut attributes = self.net.attributes();
        attributes.push(AttributeSpec { name: MAPPINGS.to_owned(), writable: false });
        attributes
    }

    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        if name == MAPPINGS { Ok(self.mappings()) } else { self.net.show_attribute(name) }
    }

    // The rest is any network device's.

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        self.net.set_features(features)
    }

    fn read_config(&mut self, offset: u32, out: &mut [u8]) {
        self.net.read_config(offset, out);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Refusal> {
        self.net.write_config(offset, data)
    }

    fn stop_queue(&mut self, index: u16) -> Result<Option<QueueState>, Refusal> {
        self.net.stop_queue(index)
    }

    fn set_kick(&mut self, index: u16, kick: Option<EventFd>) {
        self.net.set_kick(index, kick);
    }

    fn status_changed(&mut self, status: Status) {
        self.net.status_changed(status);
    }

    fn reset(&mut self) {
        self.net.reset();
    }

    fn store_attribute(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        self.net.store_attribute(name, value)
    }
}
