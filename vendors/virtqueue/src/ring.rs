//! Where the device stands on a ring: its private half.

use crate::chain::Buffer;
use crate::layout::{Layout, USED_ENTRY};
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};

/// Most heads copied at once.
pub const HEADS: usize = 64;

pub struct Ring {
    pub index: u16,
    pub layout: Layout,
    /// Its addresses are in another address space than those of the buffers.
    pub elsewhere: bool,
    pub event_idx: bool,
    pub indirect: bool,
    /// The available index of the first chain not used for good.
    pub committed: u16,
    /// The available index of the first chain the driver was not told of.
    pub published: u16,
    /// The available index of the next chain to take.
    pub cursor: u16,
    /// The used index; `None` until it was read from the ring.
    pub used: Option<u16>,
    /// Entries for the used ring.
    pub completed: Vec<u8>,
    /// How many bytes of them are committed.
    pub kept: usize,
    /// Copies of heads, from `heads_base` on.
    pub heads: Vec<u16>,
    pub heads_base: u16,
    /// The chain last taken.
    pub buffers: Vec<Buffer>,
    /// The used index at which the driver was last asked whether it wants to be told.
    pub told: Option<u16>,
    /// Whether VIRTQ_USED_F_NO_NOTIFY is clear; `None` when it is not known.
    pub notified: Option<bool>,
}

impl Ring {
    pub fn new(index: u16, layout: Layout, avail: u16, features: u64, elsewhere: bool) -> Self {
        let size = usize::from(layout.size);
        Self {
            index,
            layout,
            elsewhere,
            event_idx: features & VIRTIO_F_EVENT_IDX != 0,
            indirect: features & VIRTIO_F_INDIRECT_DESC != 0,
            committed: avail,
            published: avail,
            cursor: avail,
            used: None,
            completed: Vec::with_capacity(size * USED_ENTRY),
            kept: 0,
            heads: Vec::with_capacity(HEADS),
            heads_base: avail,
            buffers: Vec::with_capacity(size),
            told: None,
            notified: None,
        }
    }

    #[inline]
    pub fn cached_head(&self) -> Option<u16> {
        self.heads.get(usize::from(self.cursor.wrapping_sub(self.heads_base))).copied()
    }

    #[inline]
    pub fn commit(&mut self) {
        self.committed = self.cursor;
        self.kept = self.completed.len();
    }

    pub fn rewind(&mut self) {
        self.cursor = self.committed;
        self.completed.truncate(self.kept);
    }
}
