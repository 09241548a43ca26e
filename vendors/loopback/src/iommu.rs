//! An instance with an IOMMU of its own: address spaces the vendor fills from map and unmap calls, the only ones its
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
    /// By id.
    spaces: Vec<Arc<AddressSpace>>,
}

impl IommuDevice {
    pub fn new(net: NetDevice<LoopbackPort>) -> Self {
        let spaces = (0..net.info().address_spaces).map(|_| AddressSpace::new(Limits::default())).collect();
        Self { net, spaces }
    }

    fn space(&self, asid: u32) -> Result<&Arc<AddressSpace>, Refusal> {
        let space = usize::try_from(asid).ok().and_then(|asid| self.spaces.get(asid));
        space.ok_or_else(|| {
            Refusal::new(Errno::EINVAL, format!("address space {asid}: there are {}", self.spaces.len()))
        })
    }

    /// One line a mapping: first and last address, what the device may do, how it is reached, and the address space
    /// where it is another than 0.
    fn mappings(&self) -> String {
        let mut text = String::new();
        let spaces = self.spaces.iter().enumerate();
        for (asid, region) in spaces.flat_map(|(asid, space)| space.regions().into_iter().map(move |of| (asid, of))) {
            let allowed = |permission, letter| if region.permissions.contains(permission) { letter } else { '-' };
            let (read, write) = (allowed(Permissions::READ, 'r'), allowed(Permissions::WRITE, 'w'));
            let how = if region.in_place { "shared" } else { "private" };
            // Writing to a string does not fail.
            let _ = write!(text, "{:#x}-{:#x} {read}{write} {how}", region.iova, region.last());
            text.push_str(&if asid == 0 { "\n".to_owned() } else { format!(" asid={asid}\n") });
        }
        text
    }
}

impl VirtioMdev for IommuDevice {
    fn info(&self) -> DeviceInfo {
        let info = self.net.info();
        DeviceInfo { capabilities: info.capabilities | Capabilities::OWN_IOMMU, ..info }
    }

    fn start_queue(&mut self, index: u16, queue: QueueStart) -> Result<(), Refusal> {
        let (space, ring_space) = (Arc::clone(self.space(queue.asid)?), Arc::clone(self.space(queue.ring_asid)?));
        self.net.start_queue(index, QueueStart { space, ring_space, ..queue })
    }

    fn dma_map(&mut self, asid: u32, region: &Region) -> Result<(), Refusal> {
        Ok(self.space(asid)?.map(region.clone())?)
    }

    fn dma_unmap(&mut self, asid: u32, iova: u64, len: u64) {
        if let Ok(space) = self.space(asid)
            && len > 0
        {
            space.unmap(iova, iova.saturating_add(len - 1));
        }
    }

    fn dma_replace(&mut self, asid: u32, removed: &[Region], added: &[Region]) -> Result<(), Refusal> {
        let ranges: Vec<_> = removed.iter().map(|region| (region.iova, region.last())).collect();
        Ok(self.space(asid)?.replace(&ranges, added.to_vec()).map(drop)?)
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

    fn save_state(&mut self) -> Result<Vec<u8>, Refusal> {
        self.net.save_state()
    }

    fn restore_state(&mut self, state: &[u8]) -> Result<(), Refusal> {
        self.net.restore_state(state)
    }

    fn store_attribute(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        self.net.store_attribute(name, value)
    }
}
