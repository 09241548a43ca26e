//! Descriptor chains, copied once and checked in the copy.

use crate::area::Area;
use crate::error::{Cause, Part, RingError};
use crate::layout::{DESCRIPTOR, Layout};
use virtio_mdev_api::dma::{Permissions, View};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// One buffer of a chain: not empty, and within the 64-bit space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Its address.
    pub iova: u64,
    /// Its length.
    pub len: u32,
}

/// A descriptor chain the device has taken. Its buffers are in the [`Io`](crate::Io) it came from until that takes the
/// next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// The head, which names it in the used ring.
    pub head: u16,
    /// Bytes the device may read.
    pub readable: u64,
    /// Bytes the device may write.
    pub writable: u64,
    /// How many of the buffers are readable; the rest are writable.
    pub(crate) readable_buffers: usize,
}

struct Descriptor {
    iova: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn parse(bytes: [u8; DESCRIPTOR]) -> Self {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        Self {
            iova: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }

    fn check_wrap(&self, part: Part) -> Result<(), RingError> {
        let len = u64::from(self.len);
        match self.iova.checked_add(len - 1) {
            Some(_) => Ok(()),
            None => Err(RingError::Wraps { part, iova: self.iova, len }),
        }
    }
}

/// Reads chains into a private array.
pub struct Fetch<'a, 'b> {
    pub layout: &'a Layout,
    /// The ring is in other memory than `memory`: no buffer can overlap it.
    pub elsewhere: bool,
    pub indirect: bool,
    pub table: &'a Area<'b>,
    pub memory: &'a View<'b>,
}

impl Fetch<'_, '_> {
    /// Copies the chain at `head` into `buffers` (whose room for one ring of them is never exceeded) and checks it.
    #[inline]
    pub fn chain(&self, head: u16, buffers: &mut Vec<Buffer>) -> Result<Chain, Cause> {
        buffers.clear();
        let size = self.layout.size;
        if head >= size {
            return Err(RingError::Head { head, size }.into());
        }
        let mut chain = Chain { head, readable: 0, writable: 0, readable_buffers: 0 };
        // The table being walked: the ring's own, or from its first address an indirect one.
        let (mut indirect, mut entries, mut index) = (None, size, head);
        loop {
            let bytes = match indirect {
                None => self.table.load_descriptor(usize::from(index) * DESCRIPTOR)?,
                Some(table) => self.indirect_descriptor(table, index)?,
            };
            let descriptor = Descriptor::parse(bytes);
            if descriptor.flags & INDIRECT != 0 {
                entries = self.indirect_table(head, &descriptor, indirect.is_some())?;
                (indirect, index) = (Some(descriptor.iova), 0);
                continue;
            }
            if buffers.len() >= usize::from(size) {
                return Err(RingError::ChainTooLong { head, size }.into());
            }
            self.add(&mut chain, &descriptor, buffers)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
            if index >= entries {
                return Err(RingError::Next { next: index, entries }.into());
            }
        }
    }

    fn indirect_descriptor(&self, table: u64, index: u16) -> Result<[u8; DESCRIPTOR], Cause> {
        let mut bytes = [0; DESCRIPTOR];
        // Within the table, which was checked not to wrap.
        let iova = table + u64::from(index) * DESCRIPTOR as u64;
        self.memory.read(iova, &mut bytes).map_err(|error| Cause::access(Part::IndirectTable, error))?;
        Ok(bytes)
    }

    /// Checks an indirect descriptor and its whole table; says how many entries that has. Whether it is writable is to
    /// be ignored (virtio 1.3 §2.7.5.3.2).
    fn indirect_table(&self, head: u16, descriptor: &Descriptor, nested: bool) -> Result<u16, Cause> {
        if nested {
            return Err(RingError::IndirectNested { head }.into());
        }
        if !self.indirect {
            return Err(RingError::IndirectNotNegotiated { head }.into());
        }
        if descriptor.flags & NEXT != 0 {
            return Err(RingError::IndirectWithNext { head }.into());
        }
        let len = descriptor.len;
        let entries = u16::try_from(len / 16).ok().filter(|entries| *entries > 0 && len.is_multiple_of(16));
        let entries = entries.ok_or(RingError::IndirectLength { head, len })?;
        descriptor.check_wrap(Part::IndirectTable)?;
        let checked = self.memory.check(descriptor.iova, u64::from(len), Permissions::READ);
        checked.map_err(|error| Cause::access(Part::IndirectTable, error))?;
        Ok(entries)
    }

    #[inline]
    fn add(&self, chain: &mut Chain, descriptor: &Descriptor, buffers: &mut Vec<Buffer>) -> Result<(), RingError> {
        let (head, &Descriptor { iova, len, .. }) = (chain.head, descriptor);
        if len == 0 {
            return Err(RingError::EmptyBuffer { head });
        }
        descriptor.check_wrap(Part::Buffer)?;
        if descriptor.flags & WRITE != 0 {
            if !self.elsewhere
                && let Some(part) = self.layout.overlapped(iova, u64::from(len))
            {
                return Err(RingError::OverlapsRing { head, iova, part });
            }
            chain.writable += u64::from(len);
        } else if chain.writable > 0 {
            return Err(RingError::ReadableAfterWritable { head });
        } else {
            chain.readable += u64::from(len);
            chain.readable_buffers += 1;
        }
        if chain.readable + chain.writable > 1 << 32 {
            return Err(RingError::ChainTooLarge { head });
        }
        buffers.push(Buffer { iova, len });
        Ok(())
    }
}
