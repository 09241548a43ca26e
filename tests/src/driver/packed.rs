//! What a driver knows of a packed virtqueue (virtio 1.3 §2.8).

use super::memory::Memory;
use super::ring::{Descriptor, Used};
use std::collections::VecDeque;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// VIRTQ_DESC_F_AVAIL.
pub const AVAIL: u16 = 1 << 7;
/// VIRTQ_DESC_F_USED.
pub const USED: u16 = 1 << 15;
/// Bytes of a descriptor, and where its flags are.
const DESCRIPTOR: usize = 16;
const FLAGS: usize = 14;

/// A driver's half of a packed ring, in descriptors at an offset of memory.
///
/// Its user fills a table of descriptors as that of a split ring is, and offers chains by their heads, which become buffer
/// ids. So whoever drives a ring need not know its format.
#[derive(Debug, Clone)]
pub struct Packed {
    at: usize,
    size: u16,
    in_order: bool,
    table: Vec<Descriptor>,
    /// Chains that the device has, in order: id, descriptors, bytes that can be written.
    posted: VecDeque<(u16, u16, u32)>,
    next: Place,
    used: Place,
    /// What a batch goes on to.
    batch: Option<Used>,
}

/// An index, and the wrap counter there.
#[derive(Debug, Clone, Copy)]
struct Place(u16, bool);

impl Place {
    fn step(&mut self, size: u16) {
        self.0 += 1;
        if self.0 == size {
            *self = Self(0, !self.1);
        }
    }

    fn half(self) -> u32 {
        u32::from(self.0) | u32::from(self.1) << 15
    }
}

impl Packed {
    pub(super) fn new(at: usize, size: u16, in_order: bool) -> Self {
        Self {
            at,
            size,
            in_order,
            table: vec![Descriptor::default(); size.into()],
            posted: VecDeque::new(),
            next: Place(0, true),
            used: Place(0, true),
            batch: None,
        }
    }

    pub(super) fn write_descriptor(&mut self, at: u16, descriptor: Descriptor) {
        if let Some(place) = self.table.get_mut(usize::from(at)) {
            *place = descriptor;
        }
    }

    /// Makes the chain available that begins with descriptor `head` of the table.
    pub(super) fn offer(&mut self, memory: &Memory, head: u16) {
        let mut chain: Vec<Descriptor> = Vec::new();
        let mut at = Some(head);
        while let Some(index) = at {
            let found = self.table[usize::from(index)];
            chain.push(found);
            at = (found.flags & NEXT != 0).then_some(found.next);
        }
        let room = chain.iter().filter(|found| found.flags & WRITE != 0).map(|found| found.len).sum();
        self.posted.push_back((head, u16::try_from(chain.len()).expect("a chain"), room));
        self.post(memory, head, &chain);
    }

    /// Writes descriptors with the marks of this turn, whatever they are, the flags of the first last.
    pub(super) fn post(&mut self, memory: &Memory, id: u16, chain: &[Descriptor]) {
        let mut places = Vec::new();
        for found in chain {
            let mark = if self.next.1 { AVAIL } else { USED };
            let at = self.offset(self.next);
            // Where a split ring has the flags, a packed one has the id.
            memory.write(at, &Descriptor { flags: id, ..*found }.bytes()[..FLAGS]);
            places.push((at + FLAGS, found.flags | mark));
            self.next.step(self.size);
        }
        for (at, flags) in places.into_iter().rev() {
            memory.store(at, flags);
        }
    }

    fn offset(&self, place: Place) -> usize {
        self.at + usize::from(place.0) * DESCRIPTOR
    }

    pub(super) fn take(&mut self, memory: &Memory) -> Option<Used> {
        let used = match self.batch {
            Some(used) => used,
            None => self.peek(memory)?,
        };
        let at = self.posted.iter().position(|(id, ..)| u32::from(*id) == used.id)?;
        // In order, all before it are used with it, and filled.
        let (id, slots, room) = self.posted.remove(if self.in_order { 0 } else { at })?;
        (0..slots).for_each(|_| self.used.step(self.size));
        self.batch = (u32::from(id) != used.id).then_some(used);
        Some(if self.batch.is_some() { Used { id: id.into(), len: room } } else { used })
    }

    fn peek(&self, memory: &Memory) -> Option<Used> {
        let at = self.offset(self.used);
        let flags = memory.load(at + FLAGS);
        if self.posted.is_empty() || flags & (AVAIL | USED) != if self.used.1 { AVAIL | USED } else { 0 } {
            return None;
        }
        let mut bytes = [0; 6];
        memory.read(at + 8, &mut bytes);
        let [a, b, c, d, e, f] = bytes;
        let len = if flags & WRITE == 0 { 0 } else { u32::from_le_bytes([a, b, c, d]) };
        Some(Used { id: u16::from_le_bytes([e, f]).into(), len })
    }

    /// As VHOST_GET_VRING_BASE has it of a device that used what can be seen used.
    pub(super) fn base(&self, memory: &Memory) -> u32 {
        let mut ahead = self.clone();
        while ahead.take(memory).is_some() {}
        ahead.used.half() | ahead.used.half() << 16
    }

    /// The next descriptor to offer, and its wrap counter.
    pub fn next_slot(&self) -> (u16, bool) {
        (self.next.0, self.next.1)
    }
}
