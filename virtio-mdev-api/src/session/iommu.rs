//! For a device with an IOMMU of its own: what is mapped in its address space is mapped in the device too.

use crate::dma::{AddressSpace, Limits, MapError, Region, Subscriber, SubscriptionGuard};
use crate::executor::Guarded;
use crate::{DeviceLink, HasErrno, VirtioMdev};
use nix::errno::Errno;
use std::sync::Arc;

/// The only address space until queues can be put in groups.
const ASID: u32 = 0;

struct Forward {
    device: Guarded<dyn VirtioMdev>,
    link: DeviceLink,
}

/// Makes `device` a subscriber of `space`; what is mapped already is replayed.
pub(super) fn forward(
    space: &Arc<AddressSpace>,
    device: Guarded<dyn VirtioMdev>,
    link: DeviceLink,
) -> Result<SubscriptionGuard, MapError> {
    space.subscribe(Arc::new(Forward { device, link }))
}

impl Subscriber for Forward {
    fn name(&self) -> String {
        self.link.name().to_owned()
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn map(&self, region: &Region) -> Result<(), Errno> {
        let region = region.clone();
        let mapped = self.device.call("dma_map", move |device| device.dma_map(ASID, &region));
        mapped.map_err(|fault| fault.errno())?.map_err(|refusal| refusal.errno())
    }

    fn unmap(&self, iova: u64, len: u64) {
        // A device that hangs here is broken now, and says so to whoever calls it next.
        let _ = self.device.call("dma_unmap", move |device| device.dma_unmap(ASID, iova, len));
    }
}
