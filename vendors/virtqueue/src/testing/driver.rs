//! A driver's side of one split ring.

use super::memory::Ram;
use virtio_mdev_api::QueueConfig;

/// VIRTQ_DESC_F_NEXT.
pub const DESC_NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const DESC_WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const DESC_INDIRECT: u16 = 4;

/// A descriptor, as it lies in memory.
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
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.addr.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes.extend_from_slice(&self.flags.to_le_bytes());
        bytes.extend_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A driver's side of one split ring. Buffers are the caller's business; descriptors are given out in order, so a chain
/// is to be used before as many others are added as the ring holds.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Where everything is.
    pub ram: Ram,
    /// Entries.
    pub size: u16,
    /// Address of the descriptor table.
    pub desc: u64,
    /// Address of the available ring.
    pub avail: u64,
    /// Address of the used ring.
    pub used: u64,
    next_desc: u16,
    next_avail: u16,
    last_used: u16,
}

impl Driver {
    /// A ring of `size` in `ram` from `base` (aligned to 16) on; see [`end`](Self::end).
    pub fn new(ram: &Ram, base: u64, size: u16) -> Self {
        let avail = base + 16 * u64::from(size);
        let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4);
        Self { ram: ram.clone(), size, desc: base, avail, used, next_desc: 0, next_avail: 0, last_used: 0 }
    }

    /// First address after the ring.
    pub fn end(&self) -> u64 {
        (self.used + 6 + 8 * u64::from(self.size)).next_multiple_of(16)
    }

    /// For the device.
    pub fn config(&self) -> QueueConfig {
        QueueConfig { size: self.size, desc: self.desc, driver: self.avail, device: self.used }
    }

    /// Makes the ring as it was when new, in memory too.
    pub fn reset(&mut self) {
        let len = usize::try_from(self.end() - self.desc).unwrap_or(0);
        self.ram.write(self.desc, &vec![0; len]);
        (self.next_desc, self.next_avail, self.last_used) = (0, 0, 0);
    }

    /// Writes descriptor `index` of the table.
    pub fn set_desc(&self, index: u16, desc: Desc) {
        self.ram.write(self.desc + 16 * u64::from(index), &desc.bytes());
    }

    /// Adds a chain of buffers (address, length, writable) and makes it available. Returns its head.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.stage(buffers);
        self.publish();
        head
    }

    /// Adds a chain without making it available yet.
    pub fn stage(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_desc;
        for (n, &(addr, len, writable)) in buffers.iter().enumerate() {
            let next = (self.next_desc + 1) % self.size;
            let more = if n + 1 < buffers.len() { DESC_NEXT } else { 0 };
            let write = if writable { DESC_WRITE } else { 0 };
            self.set_desc(self.next_desc, Desc { addr, len, flags: more | write, next });
            self.next_desc = next;
        }
        self.push(head);
        head
    }

    /// The head of the next chain.
    pub fn next_head(&self) -> u16 {
        self.next_desc
    }

    /// Puts a head into the available ring, whatever it is, without making it available yet.
    pub fn push(&mut self, head: u16) {
        let slot = u64::from(self.next_avail % self.size);
        self.ram.write(self.avail + 4 + 2 * slot, &head.to_le_bytes());
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Makes available what was added.
    pub fn publish(&self) {
        self.set_avail_idx(self.next_avail);
    }

    /// Where the driver stands.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
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

    /// The flags of the used ring.
    pub fn used_flags(&self) -> u16 {
        self.ram.load(self.used)
    }

    /// The used index.
    pub fn used_idx(&self) -> u16 {
        self.ram.load(self.used + 2)
    }

    /// Chains made available and not seen used.
    pub fn outstanding(&self) -> u16 {
        self.next_avail.wrapping_sub(self.last_used)
    }

    /// The next used chain: its head, and how many bytes were written.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.used_idx() == self.last_used {
            return None;
        }
        let slot = u64::from(self.last_used % self.size);
        let entry = self.ram.read(self.used + 4 + 8 * slot, 8);
        self.last_used = self.last_used.wrapping_add(1);
        let &[i0, i1, _, _, l0, l1, l2, l3] = entry.first_chunk()?;
        Some((u16::from_le_bytes([i0, i1]), u32::from_le_bytes([l0, l1, l2, l3])))
    }
}
