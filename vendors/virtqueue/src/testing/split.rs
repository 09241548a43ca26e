//! What a driver does with a split ring (virtio 1.3 §2.7).

use super::driver::{Driver, Interrupts, Posted, Ring};
use super::memory::DriverMemory;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// A descriptor of a split ring, as it lies in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Desc {
    /// Address.
    pub addr: u64,
    /// Length.
    pub len: u32,
    /// Flags.
    pub flags: u16,
    /// Next one.
    pub next: u16,
}

impl Desc {
    /// Its 16 bytes.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

#[derive(Debug, Clone)]
pub(super) struct Split {
    pub next_desc: u16,
    pub next_avail: u16,
    pub last_used: u16,
    /// The available index at which the device was last asked whether it wants a notification.
    told: u16,
}

impl Split {
    pub fn new() -> Self {
        Self { next_desc: 0, next_avail: 0, last_used: 0, told: 0 }
    }

    pub fn advance(&mut self) {
        self.last_used = self.last_used.wrapping_add(1);
    }
}

/// What concerns split rings alone. On a packed one these panic.
#[allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
impl<M: DriverMemory> Driver<M> {
    fn split(&self) -> &Split {
        let Ring::Split(split) = &self.ring else { panic!("the ring is packed") };
        split
    }

    fn split_mut(&mut self) -> &mut Split {
        let Ring::Split(split) = &mut self.ring else { panic!("the ring is packed") };
        split
    }

    pub(super) fn stage_split(&mut self, addr: u64, len: u32, flags: u16) {
        let index = self.split().next_desc;
        let next = (index + 1) % self.size;
        self.set_desc(index, Desc { addr, len, flags, next });
        self.split_mut().next_desc = next;
    }

    /// Puts a head into the available ring, whatever it is, without making it available yet.
    pub fn push(&mut self, head: u16) {
        let slot = u64::from(self.split().next_avail % self.size);
        self.ram.write(self.avail + 4 + 2 * slot, &head.to_le_bytes());
        let split = self.split_mut();
        split.next_avail = split.next_avail.wrapping_add(1);
        self.posted.push_back(Posted { id: head, slots: 0, writable: 0 });
    }

    /// Where the driver stands.
    pub fn next_avail(&self) -> u16 {
        self.split().next_avail
    }

    /// Goes on from other indices, in memory too: nothing is outstanding.
    pub fn continue_at(&mut self, index: u16) {
        let split = self.split_mut();
        (split.next_avail, split.last_used, split.told) = (index, index, index);
        self.set_avail_idx(index);
        self.ram.store(self.used + 2, index);
    }

    /// Writes the available index, whatever it is.
    pub fn set_avail_idx(&self, index: u16) {
        self.ram.store(self.avail + 2, index);
    }

    /// Writes the flags of the available ring.
    pub fn set_avail_flags(&self, flags: u16) {
        self.ram.store(self.avail, flags);
    }

    /// Writes `used_event`.
    pub fn set_used_event(&self, index: u16) {
        self.ram.store(self.avail + 4 + 2 * u64::from(self.size), index);
    }

    /// Reads `avail_event`.
    pub fn avail_event(&self) -> u16 {
        self.ram.load(self.used + 4 + 8 * u64::from(self.size))
    }

    /// Writes `avail_event`, which is the device's.
    pub fn set_avail_event(&self, index: u16) {
        self.ram.store(self.used + 4 + 8 * u64::from(self.size), index);
    }

    /// The flags of the used ring.
    pub fn used_flags(&self) -> u16 {
        self.ram.load(self.used)
    }

    /// The used index.
    pub fn used_idx(&self) -> u16 {
        self.ram.load(self.used + 2)
    }

    pub(super) fn wants_kick_split(&mut self) -> bool {
        let new = self.next_avail();
        let old = std::mem::replace(&mut self.split_mut().told, new);
        if !self.event_idx {
            return old != new && self.used_flags() & NO_NOTIFY == 0;
        }
        let event = self.avail_event();
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    pub(super) fn ask_split(&self, split: &Split, interrupts: Interrupts) {
        if !self.event_idx {
            return self.set_avail_flags(if interrupts == Interrupts::Never { NO_INTERRUPT } else { 0 });
        }
        let after = match interrupts {
            Interrupts::Next => 0,
            // It is passed when the index has gone all the way round.
            Interrupts::Never => u16::MAX,
            Interrupts::After(count) => count,
        };
        self.set_used_event(split.last_used.wrapping_add(after));
    }

    pub(super) fn peek_split(&self) -> Option<(u16, u32)> {
        let last_used = self.split().last_used;
        if self.used_idx() == last_used {
            return None;
        }
        if self.batch.is_some() {
            return self.batch;
        }
        let mut entry = [0; 8];
        self.ram.read_into(self.used + 4 + 8 * u64::from(last_used % self.size), &mut entry);
        let [i0, i1, _, _, l0, l1, l2, l3] = entry;
        Some((u16::from_le_bytes([i0, i1]), u32::from_le_bytes([l0, l1, l2, l3])))
    }
}
