//! Where the parts of a ring are (virtio 1.3 §2.7, §2.8).

use crate::error::{Part, RingError};
use virtio_mdev_api::QueueConfig;

/// Bytes of a descriptor, in both formats.
pub const DESCRIPTOR: usize = 16;

/// The largest ring of the specification.
const MAX_SIZE: u16 = 1 << 15;

/// One of the three areas of a ring.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub part: Part,
    pub iova: u64,
    /// Not 0.
    pub len: u64,
}

impl Place {
    /// Its last byte. The area was checked not to wrap.
    fn last(&self) -> u64 {
        self.iova + (self.len - 1)
    }
}

/// The checked layout of a ring: descriptor, driver and device area.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub size: u16,
    pub areas: [Place; 3],
    /// The first and the last byte of all areas.
    hull: (u64, u64),
}

impl Layout {
    pub fn new(config: &QueueConfig, packed: bool, max_size: u16) -> Result<Self, RingError> {
        let &QueueConfig { size, desc, driver, device } = config;
        let max = max_size.min(MAX_SIZE);
        if size == 0 || size > max || !(packed || size.is_power_of_two()) {
            return Err(RingError::Size { size, max });
        }
        let parts = if packed {
            [(Part::Descriptors, desc, 16), (Part::DriverEvents, driver, 4), (Part::DeviceEvents, device, 4)]
        } else {
            [(Part::Descriptors, desc, 16), (Part::Available, driver, 2), (Part::Used, device, 4)]
        };
        let lens = QueueConfig::area_lens(size, packed);
        let mut areas = [Place { part: Part::Descriptors, iova: 0, len: 1 }; 3];
        for ((area, (part, iova, align)), len) in areas.iter_mut().zip(parts).zip(lens) {
            if iova % align != 0 {
                return Err(RingError::Misaligned { part, iova, align });
            }
            if iova.checked_add(len - 1).is_none() {
                return Err(RingError::Wraps { part, iova, len });
            }
            *area = Place { part, iova, len };
        }
        let first = areas.iter().map(|area| area.iova).min().unwrap_or_default();
        let last = areas.iter().map(Place::last).max().unwrap_or_default();
        Ok(Self { size, areas, hull: (first, last) })
    }

    /// The area that `len` bytes at `iova` overlap. The range is not empty and does not wrap.
    #[inline]
    pub fn overlapped(&self, iova: u64, len: u64) -> Option<Part> {
        let last = iova + (len - 1);
        if last < self.hull.0 || iova > self.hull.1 {
            return None;
        }
        self.areas.iter().find(|area| iova <= area.last() && area.iova <= last).map(|area| area.part)
    }
}
