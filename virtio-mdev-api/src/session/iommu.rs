//! For a device with an IOMMU of its own: what is mapped in one of its address spaces is mapped in the device too.

use crate::dma::{AddressSpace, Limits, MapError, Region, Subscriber, SubscriptionGuard};
use crate::executor::Guarded;
use crate::{DeviceLink, HasErrno, VirtioMdev};
use nix::errno::Errno;
use std::sync::Arc;

struct Forward {
    asid: u32,
    device: Guarded<dyn VirtioMdev>,
    link: DeviceLink,
}

/// Makes `device` a subscriber of `space`, its address space `asid`; what is mapped already is replayed.
pub(super) fn forward(
    space: &Arc<AddressSpace>,
    asid: u32,
    device: Guarded<dyn VirtioMdev>,
    link: DeviceLink,
) -> Result<SubscriptionGuard, MapError> {
    space.subscribe(Arc::new(Forward { asid, device, link }))
}

impl Subscriber for Forward {
    fn name(&self) -> String {
        self.link.name().to_owned()
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn map(&self, region: &Region) -> Result<(), Errno> {
        let (asid, region) = (self.asid, region.clone());
        let mapped = self.device.call("dma_map", move |device| device.dma_map(asid, &region));
        mapped.map_err(|fault| fault.errno())?.map_err(|refusal| refusal.errno())
    }

    fn unmap(&self, iova: u64, len: u64) {
        let asid = self.asid;
        // A device that hangs here is broken now, and says so to whoever calls it next.
        let _ = self.device.call("dma_unmap", move |device| device.dma_unmap(asid, iova, len));
    }

    fn replace(&self, removed: &[Region], added: &[Region]) -> Result<(), Errno> {
        let (asid, removed, added) = (self.asid, removed.to_vec(), added.to_vec());
        let replaced = self.device.call("dma_replace", move |device| device.dma_replace(asid, &removed, &added));
        replaced.map_err(|fault| fault.errno())?.map_err(|refusal| refusal.errno())
    }
}
