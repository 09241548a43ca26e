//! Descriptor chains, copied once and checked in the copy: what both ring formats share.

use crate::batch::{Entry, INLINE};
use crate::error::{Cause, Part, RingError};
use crate::layout::{DESCRIPTOR, Layout};
use virtio_mdev_api::dma::{Held, Permissions, View};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// One buffer of a chain: not empty, and within the 64-bit space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// What its ring knows it by: its name, the descriptors of the ring that it takes up, where that matters, and its place
    /// among the chains fetched, 16 bits each. One number, so that a chain goes from hand to hand in registers.
    key: u64,
    /// Bytes the device may read.
    pub readable: u64,
    /// Bytes the device may write.
    pub writable: u64,
}

impl Chain {
    /// The chain of `entry`, which is number `at` of those fetched.
    #[inline(always)]
    pub(crate) fn new(entry: &Entry, at: usize) -> Self {
        let key = u64::from(entry.id) | u64::from(entry.slots) << 16 | (at as u64) << 32;
        Self { key, readable: entry.readable, writable: entry.writable }
    }

    /// What names it: on a split ring its head, on a packed ring its buffer id.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a field of the number is cut out of it")]
    pub fn head(&self) -> u16 {
        self.key as u16
    }

    /// Its place among the chains fetched.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        usize::try_from(self.key >> 32).unwrap_or(usize::MAX)
    }

    /// How it is given back: name and descriptors, and in the upper half what was written to it.
    #[inline]
    pub(crate) fn used(&self, written: u32) -> u64 {
        self.key & u64::from(u32::MAX) | u64::from(written) << 32
    }
}

/// A descriptor of either format: the two have address, length and the flags of chains in the same meaning.
#[derive(Clone, Copy)]
pub struct Descriptor {
    pub iova: u64,
    pub len: u32,
    pub flags: u16,
    /// On a split ring the next descriptor, on a packed ring the buffer id.
    pub link: u16,
}

impl Descriptor {
    /// Of a split ring: address, length, flags, next (virtio 1.3 §2.7.5).
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "fields of the number are cut out of it")]
    pub fn split([iova, rest]: [u64; 2]) -> Self {
        Self { iova, len: rest as u32, flags: (rest >> 32) as u16, link: (rest >> 48) as u16 }
    }

    /// Of a packed ring: address, length, buffer id, flags (virtio 1.3 §2.8.13).
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "fields of the number are cut out of it")]
    pub fn packed([iova, rest]: [u64; 2]) -> Self {
        Self { iova, len: rest as u32, flags: (rest >> 48) as u16, link: (rest >> 32) as u16 }
    }

    fn check_wrap(&self, part: Part) -> Result<(), RingError> {
        let len = u64::from(self.len);
        match self.iova.checked_add(len - 1) {
            Some(_) => Ok(()),
            None => Err(RingError::Wraps { part, iova: self.iova, len }),
        }
    }
}

/// What chains of a queue are checked against.
pub struct Rules<'a, 'b> {
    pub layout: &'a Layout,
    /// The ring is in other memory than `memory`: no buffer can overlap it.
    pub elsewhere: bool,
    pub indirect: bool,
    pub memory: &'a View<'b>,
}

impl<'b> Rules<'_, 'b> {
    /// Makes `entry` the chain of one descriptor called `id`, if it is one and there is nothing wrong with it. It takes up
    /// `slots` of the ring, where that matters. Where its buffer is in place it is held.
    #[inline]
    pub fn single(
        &self,
        entry: &mut Entry,
        held: &mut Option<Held<'b>>,
        (id, slots): (u16, u16),
        found: &Descriptor,
    ) -> bool {
        let &Descriptor { iova, len, flags, .. } = found;
        let bytes = u64::from(len);
        if flags & (NEXT | INDIRECT) != 0 || len == 0 || iova.checked_add(bytes - 1).is_none() {
            return false;
        }
        let writable = flags & WRITE != 0;
        if writable && !self.elsewhere && self.layout.overlapped(iova, bytes).is_some() {
            return false;
        }
        (entry.id, entry.slots, entry.count, entry.readable_count) = (id, slots, 1, u16::from(!writable));
        (entry.readable, entry.writable) = if writable { (0, bytes) } else { (bytes, 0) };
        entry.inline[0] = Buffer { iova, len };
        let access = if writable { Permissions::WRITE } else { Permissions::READ };
        *held = usize::try_from(len).ok().and_then(|len| self.memory.held(iova, len, access));
        true
    }

    /// Adds a buffer to the end of chain `entry`. Those it has no room for are in `more`, where they all are then.
    #[inline]
    pub fn add(&self, entry: &mut Entry, more: &mut Vec<Buffer>, found: &Descriptor) -> Result<(), RingError> {
        let (head, &Descriptor { iova, len, .. }) = (entry.id, found);
        if len == 0 {
            return Err(RingError::EmptyBuffer { head });
        }
        found.check_wrap(Part::Buffer)?;
        if entry.count >= self.layout.size {
            return Err(RingError::ChainTooLong { head, size: self.layout.size });
        }
        if found.flags & WRITE != 0 {
            if !self.elsewhere
                && let Some(part) = self.layout.overlapped(iova, u64::from(len))
            {
                return Err(RingError::OverlapsRing { head, iova, part });
            }
            entry.writable += u64::from(len);
        } else if entry.writable > 0 {
            return Err(RingError::ReadableAfterWritable { head });
        } else {
            entry.readable += u64::from(len);
            entry.readable_count += 1;
        }
        if entry.readable + entry.writable > 1 << 32 {
            return Err(RingError::ChainTooLarge { head });
        }
        let at = usize::from(entry.count);
        match entry.inline.get_mut(at) {
            Some(place) => *place = Buffer { iova, len },
            None => {
                if at == INLINE {
                    more.extend_from_slice(&entry.inline);
                }
                more.push(Buffer { iova, len });
            }
        }
        entry.count += 1;
        Ok(())
    }

    /// Checks an indirect descriptor and its whole table; says how many entries that has. Whether it is writable is to
    /// be ignored (virtio 1.3 §2.7.5.3.2).
    pub fn indirect_table(&self, head: u16, found: &Descriptor, nested: bool) -> Result<u16, Cause> {
        if nested {
            return Err(RingError::IndirectNested { head }.into());
        }
        if !self.indirect {
            return Err(RingError::IndirectNotNegotiated { head }.into());
        }
        if found.flags & NEXT != 0 {
            return Err(RingError::IndirectWithNext { head }.into());
        }
        let len = found.len;
        let entries = u16::try_from(len / 16).ok().filter(|entries| *entries > 0 && len.is_multiple_of(16));
        let entries = entries.ok_or(RingError::IndirectLength { head, len })?;
        found.check_wrap(Part::IndirectTable)?;
        let checked = self.memory.check(found.iova, u64::from(len), Permissions::READ);
        checked.map_err(|error| Cause::access(Part::IndirectTable, error))?;
        Ok(entries)
    }

    /// Entry `index` of an indirect table that was checked.
    pub fn indirect_entry(&self, table: u64, index: u16) -> Result<[u64; 2], Cause> {
        let mut bytes = [0; DESCRIPTOR];
        // Within the table, which was checked not to wrap.
        let iova = table + u64::from(index) * DESCRIPTOR as u64;
        self.memory.read(iova, &mut bytes).map_err(|error| Cause::access(Part::IndirectTable, error))?;
        let (low, high) = bytes.split_at(8);
        let number = |half: &[u8]| half.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Ok([number(low), number(high)])
    }
}
