//! What a queue is started with and what it leaves behind when it stops.

use crate::dirty::DirtyRecord;
use crate::dma::AddressSpace;
use crate::doorbell::Doorbell;
use crate::notify::{CallSlot, EventFd};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Size and addresses of a virtqueue. Addresses are IOVAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Entries in the ring.
    pub size: u16,
    /// Descriptor area (split: descriptor table; packed: descriptor ring).
    pub desc: u64,
    /// Driver area (split: available ring; packed: driver event suppression).
    pub driver: u64,
    /// Device area (split: used ring; packed: device event suppression).
    pub device: u64,
}

impl QueueConfig {
    /// Bytes of the descriptor, driver and device areas of a ring of `size` entries, event indices included: their places
    /// belong to the ring whether they are in use or not (virtio 1.3 §2.7, §2.8).
    pub fn area_lens(size: u16, packed: bool) -> [u64; 3] {
        let size = u64::from(size);
        if packed { [16 * size, 4, 4] } else { [16 * size, 6 + 2 * size, 6 + 8 * size] }
    }
}

/// Where a queue stands: everything a device needs to continue another's work on the same ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueState {
    /// Split ring: the available index of the next chain to fetch. The used index is in the ring itself.
    Split {
        /// Next available index, free running.
        avail: u16,
    },
    /// Packed ring.
    Packed {
        /// Next descriptor to fetch, 15 bits.
        avail: u16,
        /// Its wrap counter.
        avail_wrap: bool,
        /// Next descriptor to use, 15 bits.
        used: u16,
        /// Its wrap counter.
        used_wrap: bool,
    },
}

impl QueueState {
    /// The state of a queue that was never used (virtio 1.3 §2.7, §2.8.1).
    pub fn initial(packed: bool) -> Self {
        if packed {
            Self::Packed { avail: 0, avail_wrap: true, used: 0, used_wrap: true }
        } else {
            Self::Split { avail: 0 }
        }
    }

    /// From the encoding of VHOST_SET_VRING_BASE; `None` when the number is out of range for the ring format.
    pub fn from_vring_base(packed: bool, num: u32) -> Option<Self> {
        if !packed {
            return Some(Self::Split { avail: u16::try_from(num).ok()? });
        }
        let [a0, a1, u0, u1] = num.to_le_bytes();
        let (a, u) = (u16::from_le_bytes([a0, a1]), u16::from_le_bytes([u0, u1]));
        Some(Self::Packed {
            avail: a & 0x7fff,
            avail_wrap: a & 0x8000 != 0,
            used: u & 0x7fff,
            used_wrap: u & 0x8000 != 0,
        })
    }

    /// Whether a queue of `size` entries can stand here.
    pub fn fits(self, packed: bool, size: u16) -> bool {
        match self {
            Self::Split { .. } => !packed,
            Self::Packed { avail, used, .. } => packed && avail < size && used < size,
        }
    }

    /// The encoding of VHOST_GET_VRING_BASE.
    pub fn to_vring_base(self) -> u32 {
        match self {
            Self::Split { avail } => u32::from(avail),
            Self::Packed { avail, avail_wrap, used, used_wrap } => {
                let half = |index: u16, wrap: bool| u32::from(index & 0x7fff) | u32::from(wrap) << 15;
                half(avail, avail_wrap) | half(used, used_wrap) << 16
            }
        }
    }
}

/// Everything a device gets to run a queue.
#[derive(Debug, Clone)]
pub struct QueueStart {
    /// Size and addresses.
    pub config: QueueConfig,
    /// Where to begin.
    pub state: QueueState,
    /// The features the driver accepted.
    pub features: u64,
    /// The address space id of `space`, for a device with an IOMMU of its own.
    pub asid: u32,
    /// The memory the addresses of its buffers are in, and those of indirect tables.
    pub space: Arc<AddressSpace>,
    /// The address space id of `ring_space`.
    pub ring_asid: u32,
    /// The memory the addresses of the ring are in: another than `space` only for a queue with a
    /// [`desc_group`](crate::QueueInfo::desc_group).
    pub ring_space: Arc<AddressSpace>,
    /// Rung by the driver when there is work. May be replaced later by [`set_kick`](crate::VirtioMdev::set_kick).
    pub kick: Option<EventFd>,
    /// Rung as well, where the device has [`DOORBELL_PAGE`](crate::Capabilities::DOORBELL_PAGE). A ring wakes nobody.
    pub doorbell: Option<Doorbell>,
    /// Whom to tell of used buffers. Its content may change at any moment; look each time.
    pub call: Arc<CallSlot>,
    /// Whom to tell when the ring is faulty.
    pub err: Arc<CallSlot>,
    /// Where to report the pages of `space` that were written, and those of another `ring_space` as a ring elsewhere.
    pub dirty: Arc<DirtyRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_base_is_sixteen_bits() {
        assert_eq!(QueueState::from_vring_base(false, 0xffff), Some(QueueState::Split { avail: 0xffff }));
        assert_eq!(QueueState::from_vring_base(false, 0x1_0000), None);
    }

    #[test]
    fn packed_base_round_trips() {
        for num in [0, 0x8000_8000, 0x8000_7fff, 0xffff_ffff, 0x1234_9abc] {
            assert_eq!(QueueState::from_vring_base(true, num).unwrap().to_vring_base(), num);
        }
    }

    #[test]
    fn a_fresh_packed_queue_has_both_wrap_counters_set() {
        assert_eq!(QueueState::initial(true).to_vring_base(), 0x8000_8000);
    }
}
