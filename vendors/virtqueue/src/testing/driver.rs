//! A driver's side of one ring, in either format (virtio 1.3 §2.7, §2.8).

use super::memory::{DriverMemory, Ram};
use super::packed::{Packed, PackedDesc};
use super::split::{Desc, Split};
use std::collections::VecDeque;
use virtio_mdev_api::QueueConfig;
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED};

/// VIRTQ_DESC_F_NEXT.
pub const DESC_NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const DESC_WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const DESC_INDIRECT: u16 = 4;

/// What a driver wants to be interrupted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupts {
    /// The next chain that is used.
    Next,
    /// Nothing.
    Never,
    /// With VIRTIO_F_EVENT_IDX, one that is used after so many chains (split) or descriptors (packed) that the driver has
    /// not collected yet; without, as [`Next`](Self::Next).
    After(u16),
}

/// A chain the device has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posted {
    pub id: u16,
    /// Descriptors of the ring that it takes.
    pub slots: u16,
    /// What a chain that is skipped in a batch is taken to have been filled with.
    pub writable: u32,
}

/// A driver's side of one ring. Buffers are the caller's business; so is not to add more than there is
/// [`room`](Self::room) for.
///
/// A split driver gives out descriptors in the order of the table, a packed one buffer ids in an order of its own.
#[derive(Debug, Clone)]
pub struct Driver<M = Ram> {
    /// Where everything is.
    pub ram: M,
    /// Entries.
    pub size: u16,
    /// Address of the descriptor area.
    pub desc: u64,
    /// Address of the driver area: the available ring, or a packed ring's event suppression.
    pub avail: u64,
    /// Address of the device area: the used ring, or a packed ring's event suppression.
    pub used: u64,
    pub(super) event_idx: bool,
    pub(super) in_order: bool,
    pub(super) ring: Ring,
    pub(super) posted: VecDeque<Posted>,
    /// Descriptors of the ring that they take.
    taken: u16,
    /// The last of a batch that is being collected (virtio 1.3 §2.7.9, §2.8.10).
    pub(super) batch: Option<(u16, u32)>,
}

#[derive(Debug, Clone)]
pub(super) enum Ring {
    Split(Split),
    Packed(Packed),
}

impl Driver {
    /// A split ring of `size` in `ram` from `base` (aligned to 16) on; see [`end`](Self::end).
    pub fn new(ram: &Ram, base: u64, size: u16) -> Self {
        Self::with_features(ram.clone(), base, size, 0)
    }
}

impl<M: DriverMemory> Driver<M> {
    /// A ring as `features` have it, in `ram` from `base` (aligned to 16) on; see [`end`](Self::end).
    pub fn with_features(ram: M, base: u64, size: u16, features: u64) -> Self {
        let [desc, avail, _] = QueueConfig::area_lens(size, features & VIRTIO_F_RING_PACKED != 0);
        let driver = base + desc;
        Self::at([base, driver, (driver + avail).next_multiple_of(4)], ram, size, features)
    }

    /// The same with its areas at these addresses in `ram`.
    pub fn at([desc, avail, used]: [u64; 3], ram: M, size: u16, features: u64) -> Self {
        let packed = features & VIRTIO_F_RING_PACKED != 0;
        let ring = if packed { Ring::Packed(Packed::new(size)) } else { Ring::Split(Split::new()) };
        Self {
            ram,
            size,
            desc,
            avail,
            used,
            event_idx: features & VIRTIO_F_EVENT_IDX != 0,
            in_order: features & VIRTIO_F_IN_ORDER != 0,
            ring,
            posted: VecDeque::new(),
            taken: 0,
            batch: None,
        }
    }

    /// Whether its ring is packed.
    pub fn is_packed(&self) -> bool {
        matches!(self.ring, Ring::Packed(_))
    }

    /// Bytes of its areas.
    pub fn area_lens(&self) -> [u64; 3] {
        QueueConfig::area_lens(self.size, self.is_packed())
    }

    /// First address after the ring.
    pub fn end(&self) -> u64 {
        (self.used + self.area_lens()[2]).next_multiple_of(16)
    }

    /// For the device.
    pub fn config(&self) -> QueueConfig {
        QueueConfig { size: self.size, desc: self.desc, driver: self.avail, device: self.used }
    }

    /// Makes the ring as it was when new, in memory too.
    pub fn reset(&mut self) {
        for (area, len) in [self.desc, self.avail, self.used].into_iter().zip(self.area_lens()) {
            self.ram.write(area, &vec![0; usize::try_from(len).unwrap_or(0)]);
        }
        self.ring = match self.ring {
            Ring::Split(_) => Ring::Split(Split::new()),
            Ring::Packed(_) => Ring::Packed(Packed::new(self.size)),
        };
        self.posted.clear();
        self.taken = 0;
        self.batch = None;
    }

    /// Adds a chain of buffers (address, length, writable) and makes it available. Returns its head or buffer id.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let id = self.stage(buffers);
        self.publish();
        id
    }

    /// Adds a chain without making it available yet.
    pub fn stage(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let write = |writable| if writable { DESC_WRITE } else { 0 };
        let writable = buffers.iter().map(|&(_, len, writable)| if writable { len } else { 0 });
        let writable = writable.fold(0, u32::wrapping_add);
        let mut chain = buffers.iter().map(|&(addr, len, writable)| (addr, len, write(writable)));
        self.stage_descriptors(&mut chain, writable)
    }

    /// Adds a chain that is an indirect table of `len` bytes, with `writable` bytes of room in it, without making it
    /// available yet.
    pub fn stage_table(&mut self, addr: u64, len: u32, writable: u32) -> u16 {
        self.stage_descriptors(&mut [(addr, len, DESC_INDIRECT)].into_iter(), writable)
    }

    fn stage_descriptors(&mut self, chain: &mut dyn ExactSizeIterator<Item = (u64, u32, u16)>, writable: u32) -> u16 {
        let count = chain.len();
        let slots = u16::try_from(count).unwrap_or(u16::MAX);
        let id = self.next_head();
        self.taken = self.taken.saturating_add(slots);
        let more = |n: usize| if n + 1 < count { DESC_NEXT } else { 0 };
        match &self.ring {
            Ring::Split(_) => {
                for (n, (addr, len, flags)) in chain.enumerate() {
                    self.stage_split(addr, len, flags | more(n));
                }
                self.push(id);
                if let Some(posted) = self.posted.back_mut() {
                    *posted = Posted { id, slots, writable };
                }
            }
            Ring::Packed(_) => {
                // Only the id of the last one counts.
                let id_of = |n| if n + 1 < count { !id } else { id };
                let describe = |(n, (addr, len, flags))| PackedDesc { addr, len, id: id_of(n), flags: flags | more(n) };
                let descs: Vec<_> = chain.enumerate().map(describe).collect();
                self.stage_raw(&descs);
                self.take_id(id);
                self.posted.push_back(Posted { id, slots, writable });
            }
        }
        id
    }

    /// The head or buffer id of the next chain.
    pub fn next_head(&self) -> u16 {
        match &self.ring {
            Ring::Split(split) => split.next_desc,
            Ring::Packed(packed) => packed.next_id(),
        }
    }

    /// Makes available what was added.
    pub fn publish(&mut self) {
        match &self.ring {
            Ring::Split(split) => self.set_avail_idx(split.next_avail),
            Ring::Packed(_) => self.publish_packed(),
        }
    }

    /// Whether the device wants a notification of what was made available since the last time this was asked.
    pub fn wants_kick(&mut self) -> bool {
        match self.ring {
            Ring::Split(_) => self.wants_kick_split(),
            Ring::Packed(_) => self.wants_kick_packed(),
        }
    }

    /// Says what it wants to be interrupted for from now on.
    pub fn ask_for(&self, interrupts: Interrupts) {
        match &self.ring {
            Ring::Split(split) => self.ask_split(split, interrupts),
            Ring::Packed(packed) => self.ask_packed(packed, interrupts),
        }
    }

    /// Chains made available and not seen used.
    pub fn outstanding(&self) -> u16 {
        match &self.ring {
            Ring::Split(split) => split.next_avail.wrapping_sub(split.last_used),
            Ring::Packed(_) => u16::try_from(self.posted.len()).unwrap_or(u16::MAX),
        }
    }

    /// Descriptors of the ring that are free.
    pub fn room(&self) -> u16 {
        self.size.saturating_sub(self.taken)
    }

    /// The next used chain: its head or buffer id, and how many bytes were written. One that a batch skips is taken to
    /// have been filled.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        let (id, len) = match self.ring {
            Ring::Split(_) => self.peek_split()?,
            Ring::Packed(_) => self.peek_packed()?,
        };
        let at = if self.in_order { (!self.posted.is_empty()).then_some(0) } else { self.position(id) };
        let chain = at.and_then(|at| self.posted.remove(at));
        let chain = chain.unwrap_or(Posted { id, slots: 1, writable: len });
        self.taken = self.taken.saturating_sub(chain.slots);
        // A batch goes on until the one it names.
        self.batch = (chain.id != id).then_some((id, len));
        match &mut self.ring {
            Ring::Split(split) => split.advance(),
            Ring::Packed(packed) => packed.advance(&chain),
        }
        Some((chain.id, if chain.id == id { len } else { chain.writable }))
    }

    fn position(&self, id: u16) -> Option<usize> {
        self.posted.iter().position(|posted| posted.id == id)
    }

    /// Writes descriptor `index` of a split ring's table.
    pub fn set_desc(&self, index: u16, desc: Desc) {
        self.ram.write(self.desc + 16 * u64::from(index), &desc.bytes());
    }
}
