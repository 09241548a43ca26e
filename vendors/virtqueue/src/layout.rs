//! Where the parts of a split ring are (virtio 1.3 §2.7).

use crate::error::{Part, RingError};
use virtio_mdev_api::QueueConfig;

/// Offset of `idx` in the available and the used ring.
pub const INDEX: usize = 2;
/// Offset of the first entry in both rings.
pub const ENTRIES: usize = 4;
/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;
/// Bytes of an entry of the used ring.
pub const USED_ENTRY: usize = 8;

/// The checked layout of a split ring.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
}

impl Layout {
    pub fn new(config: &QueueConfig, max_size: u16) -> Result<Self, RingError> {
        let &QueueConfig { size, desc, driver: avail, device: used } = config;
        // 32768 is the largest power of two there is in 16 bits, and the largest ring of the specification.
        if !size.is_power_of_two() || size > max_size {
            return Err(RingError::Size { size, max: max_size });
        }
        let layout = Self { size, desc, avail, used };
        for (part, iova, align) in [(Part::Descriptors, desc, 16), (Part::Available, avail, 2), (Part::Used, used, 4)] {
            if iova % align != 0 {
                return Err(RingError::Misaligned { part, iova, align });
            }
            let len = layout.len(part);
            if iova.checked_add(len - 1).is_none() {
                return Err(RingError::Wraps { part, iova, len });
            }
        }
        Ok(layout)
    }

    /// Bytes of an area.
    pub fn len(&self, part: Part) -> u64 {
        let [desc, avail, used] = QueueConfig::area_lens(self.size, false);
        match part {
            Part::Descriptors => desc,
            Part::Available => avail,
            Part::Used | Part::IndirectTable | Part::Buffer => used,
        }
    }

    /// The area that `len` bytes at `iova` overlap. The range is not empty and does not wrap.
    #[inline]
    pub fn overlapped(&self, iova: u64, len: u64) -> Option<Part> {
        let last = iova + (len - 1);
        [(Part::Descriptors, self.desc), (Part::Available, self.avail), (Part::Used, self.used)]
            .into_iter()
            .find(|(part, area)| iova <= area + (self.len(*part) - 1) && *area <= last)
            .map(|(part, _)| part)
    }

    /// Where in its ring the entry with the free-running index `index` is.
    #[inline]
    pub fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Offset of `used_event` in the available ring.
    pub fn used_event(&self) -> usize {
        ENTRIES + 2 * usize::from(self.size)
    }

    /// Offset of `avail_event` in the used ring.
    pub fn avail_event(&self) -> usize {
        ENTRIES + USED_ENTRY * usize::from(self.size)
    }
}
