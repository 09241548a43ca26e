//! A device that finds out what must not reach a device.

use parking_lot::Mutex;
use std::sync::Arc;
use vfio_container::{DeviceShape, IrqAction, IrqChange, IrqData, IrqShape, RegionShape, VfioDevice};
use virtio_mdev_api::Refusal;
use virtio_mdev_api::dma::AddressSpace;

const REGIONS: [RegionShape; 4] = [
    RegionShape { size: 0x1000, readable: true, writable: true },
    RegionShape { size: 0, readable: true, writable: true },
    RegionShape { size: 0x100, readable: true, writable: false },
    RegionShape { size: 0x1_0001, readable: false, writable: true },
];
/// A line that can be masked, vectors that cannot be resized, and an index of none.
const IRQS: [IrqShape; 3] =
    [IrqShape { count: 1, flags: 1 | 2 | 4 }, IrqShape { count: 4, flags: 1 | 8 }, IrqShape { count: 0, flags: 1 }];

/// The device.
#[derive(Default)]
pub(super) struct Judge(Mutex<State>);

#[derive(Default)]
struct State {
    open: bool,
    has_memory: bool,
    /// Whether the call under way is of somebody who may change the device.
    permitted: bool,
    /// Vectors of index 1 that were set up.
    vectors: u32,
}

impl Judge {
    pub fn permit(&self, permitted: bool) {
        self.0.lock().permitted = permitted;
    }

    pub fn is_open(&self) -> bool {
        self.0.lock().open
    }

    fn check(&self, what: &str) {
        let state = self.0.lock();
        assert!(state.open && state.permitted, "{what} of a stranger, or of a closed device");
    }

    fn check_access(&self, region: u32, offset: u64, len: usize) -> RegionShape {
        self.check("access");
        let region = REGIONS[usize::try_from(region).expect("an index")];
        let len = u64::try_from(len).expect("a length");
        assert!(offset < region.size && len <= region.size - offset, "{offset:#x}+{len:#x} of {:#x}", region.size);
        region
    }
}

impl VfioDevice for Judge {
    fn shape(&self) -> DeviceShape {
        DeviceShape { flags: 2, resettable: true, regions: REGIONS.to_vec(), irqs: IRQS.to_vec() }
    }

    fn open(&self) -> Result<(), Refusal> {
        let mut state = self.0.lock();
        assert!(!state.open && state.permitted);
        state.open = true;
        Ok(())
    }

    fn close(&self) {
        let mut state = self.0.lock();
        assert!(state.open && !state.has_memory, "it loses its memory first");
        (state.open, state.vectors) = (false, 0);
    }

    fn set_memory(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        let mut state = self.0.lock();
        assert!(state.open && state.has_memory != memory.is_some());
        state.has_memory = memory.is_some();
        Ok(())
    }

    fn read(&self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        assert!(self.check_access(region, offset, out.len()).readable);
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        assert!(self.check_access(region, offset, data.len()).writable);
        Ok(())
    }

    fn set_irqs(&self, change: IrqChange) -> Result<(), Refusal> {
        self.check("interrupts");
        let IrqChange { index, start, action, data } = change;
        let irq = IRQS[usize::try_from(index).expect("an index")];
        let count = match &data {
            IrqData::None(count) => *count,
            IrqData::Bool(which) => u32::try_from(which.len()).expect("a count"),
            IrqData::EventFd(events) => u32::try_from(events.len()).expect("a count"),
        };
        assert!(start < irq.count && count <= irq.count - start, "{start}+{count} of {}", irq.count);
        assert!(action == IrqAction::Trigger || irq.flags & 2 != 0, "a mask of what cannot be masked");
        if index == 1 && action == IrqAction::Trigger {
            let mut state = self.0.lock();
            match data {
                IrqData::None(0) => state.vectors = 0,
                IrqData::EventFd(_) if state.vectors == 0 => state.vectors = start + count,
                IrqData::EventFd(_) => assert!(start + count <= state.vectors, "vectors were resized"),
                _ => {}
            }
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), Refusal> {
        self.check("a reset");
        Ok(())
    }
}
