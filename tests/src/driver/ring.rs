//! A split virtqueue, seen from the driver's side and written raw (VIRTIO 1.3, section 2.7).

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::vhost::VringAddr;
use super::{Error, Memory, Result};

/// Bits of [`Desc::flags`].
pub mod desc_flag {
    /// The chain goes on at `next`.
    pub const NEXT: u16 = 1;
    /// The device writes this buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// `struct virtq_desc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Desc {
    /// Where the buffer lies, as the device sees it (an IOVA).
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Bits of [`desc_flag`].
    pub flags: u16,
    /// The next descriptor of the chain.
    pub next: u16,
}

/// `struct virtq_used_elem`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UsedElem {
    /// The head of the chain that was used.
    pub id: u32,
    /// How many bytes the device wrote into it.
    pub len: u32,
}

/// The three areas of a split virtqueue within a [`Memory`]. Nothing checks what is written, that is its purpose.
#[derive(Clone)]
pub struct Ring {
    memory: Memory,
    size: u16,
    offset: usize,
}

impl Ring {
    /// A ring of `size` descriptors, whose three areas begin at `offset`.
    #[must_use]
    pub fn new(memory: &Memory, offset: usize, size: u16) -> Self {
        Self { memory: memory.clone(), size, offset }
    }

    /// How many bytes a ring of `size` takes, in whole pages.
    #[must_use]
    pub fn bytes(size: u16) -> usize {
        let size = usize::from(size);
        let avail_end = size * 16 + 6 + size * 2;
        (avail_end.next_multiple_of(4) + 6 + size * 8).next_multiple_of(4096)
    }

    /// How many descriptors it has.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the descriptor table lies in the memory.
    #[must_use]
    pub fn desc_offset(&self) -> usize {
        self.offset
    }

    /// Where the available ring lies in the memory.
    #[must_use]
    pub fn avail_offset(&self) -> usize {
        self.offset + usize::from(self.size) * 16
    }

    /// Where the used ring lies in the memory.
    #[must_use]
    pub fn used_offset(&self) -> usize {
        (self.avail_offset() + 6 + usize::from(self.size) * 2).next_multiple_of(4)
    }

    /// Its three addresses, for a memory that the device sees at `iova`.
    #[must_use]
    pub fn addresses(&self, iova: u64) -> VringAddr {
        VringAddr {
            desc: iova + self.desc_offset() as u64,
            avail: iova + self.avail_offset() as u64,
            used: iova + self.used_offset() as u64,
        }
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index % self.size)
    }

    /// The descriptor at `index`.
    #[must_use]
    pub fn desc(&self, index: u16) -> Desc {
        self.memory.get(self.desc_offset() + usize::from(index) * 16)
    }

    /// Writes the descriptor at `index`.
    pub fn set_desc(&self, index: u16, desc: Desc) {
        self.memory.put(self.desc_offset() + usize::from(index) * 16, &desc);
    }

    /// Writes one descriptor after the other from `head` on, each linked to the next; other flags and a `next` are taken as they are.
    pub fn set_chain(&self, head: u16, chain: &[Desc]) {
        for (n, desc) in chain.iter().enumerate() {
            let index = head + u16::try_from(n).expect("a chain fits its ring");
            let mut desc = *desc;
            if n + 1 < chain.len() {
                desc.flags |= desc_flag::NEXT;
                desc.next = index + 1;
            }
            self.set_desc(index, desc);
        }
    }

    /// Writes `avail.flags` (bit 0: no interrupt wanted).
    pub fn set_avail_flags(&self, flags: u16) {
        self.memory.store(self.avail_offset(), flags);
    }

    /// `avail.idx`.
    #[must_use]
    pub fn avail_idx(&self) -> u16 {
        self.memory.load(self.avail_offset() + 2)
    }

    /// Writes `avail.idx`.
    pub fn set_avail_idx(&self, idx: u16) {
        self.memory.store(self.avail_offset() + 2, idx);
    }

    /// Writes the entry of `avail.ring` that the running index `index` falls on.
    pub fn set_avail_entry(&self, index: u16, head: u16) {
        self.memory.store(self.avail_offset() + 4 + self.slot(index) * 2, head);
    }

    /// Writes `used_event`, the word behind `avail.ring` (EVENT_IDX).
    pub fn set_used_event(&self, index: u16) {
        self.memory.store(self.avail_offset() + 4 + usize::from(self.size) * 2, index);
    }

    /// `used.flags` (bit 0: no kick wanted).
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        self.memory.load(self.used_offset())
    }

    /// `used.idx`.
    #[must_use]
    pub fn used_idx(&self) -> u16 {
        self.memory.load(self.used_offset() + 2)
    }

    /// Writes `used.idx`, which a driver must never do.
    pub fn set_used_idx(&self, idx: u16) {
        self.memory.store(self.used_offset() + 2, idx);
    }

    /// The entry of `used.ring` that the running index `index` falls on.
    #[must_use]
    pub fn used_elem(&self, index: u16) -> UsedElem {
        self.memory.get(self.used_offset() + 4 + self.slot(index) * 8)
    }

    /// `avail_event`, the word behind `used.ring` (EVENT_IDX).
    #[must_use]
    pub fn avail_event(&self) -> u16 {
        self.memory.load(self.used_offset() + 4 + usize::from(self.size) * 8)
    }

    /// Zeroes all three areas.
    pub fn clear(&self) {
        let end = self.used_offset() + 6 + usize::from(self.size) * 8;
        self.memory.write(self.offset, &vec![0; end - self.offset]);
    }
}

/// A ring with its two eventfds and the driver's two running indices.
pub struct Queue {
    /// The raw ring.
    pub ring: Ring,
    /// The device is told by it that buffers are available.
    pub kick: EventFd,
    /// The driver is told by it that buffers were used.
    pub call: EventFd,
    next_avail: u16,
    last_used: u16,
}

impl Queue {
    /// A queue over `ring` with fresh eventfds.
    ///
    /// # Panics
    /// When no descriptor is left.
    #[must_use]
    pub fn new(ring: Ring) -> Self {
        let eventfd =
            || EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).expect("eventfd");
        Self { ring, kick: eventfd(), call: eventfd(), next_avail: 0, last_used: 0 }
    }

    /// Begins anew: a zeroed ring, both indices zero.
    pub fn clear(&mut self) {
        self.ring.clear();
        self.next_avail = 0;
        self.last_used = 0;
        let _ = self.call.read();
    }

    /// Makes the chain at `head` available, without a kick.
    pub fn publish(&mut self, head: u16) {
        self.ring.set_avail_entry(self.next_avail, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.ring.set_avail_idx(self.next_avail);
    }

    /// Tells the device to look.
    ///
    /// # Panics
    /// When the eventfd is at its maximum.
    pub fn kick(&self) {
        self.kick.write(1).expect("kick");
    }

    /// The next used chain, if there is one by now.
    pub fn take_used(&mut self) -> Option<UsedElem> {
        if self.ring.used_idx() == self.last_used {
            return None;
        }
        let elem = self.ring.used_elem(self.last_used);
        self.last_used = self.last_used.wrapping_add(1);
        // ask for an interrupt on the very next one, whether or not EVENT_IDX is on
        self.ring.set_used_event(self.last_used);
        Some(elem)
    }

    /// The next used chain, waiting for the device's interrupt.
    ///
    /// # Errors
    /// A timeout: nothing was used, or it was used and no interrupt came (the message says which).
    ///
    /// # Panics
    /// When poll(2) fails.
    pub fn wait_used(&mut self, within: Duration) -> Result<UsedElem> {
        let end = Instant::now() + within;
        loop {
            if let Some(elem) = self.take_used() {
                return Ok(elem);
            }
            if !self.wait_call(end.saturating_duration_since(Instant::now())) {
                let what = if self.ring.used_idx() == self.last_used {
                    format!("the use of a buffer (used idx {}, avail idx {})", self.last_used, self.ring.avail_idx())
                } else {
                    "the interrupt for a used buffer".to_owned()
                };
                return Err(Error::Timeout { what, within });
            }
        }
    }

    /// Waits for an interrupt and takes it; false when none came.
    ///
    /// # Panics
    /// When poll(2) fails.
    #[must_use]
    pub fn wait_call(&self, within: Duration) -> bool {
        let mut fds = [PollFd::new(self.call.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(within.as_millis()).unwrap_or(PollTimeout::MAX);
        poll(&mut fds, timeout).expect("poll");
        self.call.read().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_areas_lie_as_the_specification_sizes_them() {
        let memory = Memory::new(2 * Ring::bytes(256));
        let ring = Ring::new(&memory, Ring::bytes(256), 256);
        let base = Ring::bytes(256) as u64;
        // 16 bytes a descriptor; 6 + 2 a slot, then up to a multiple of 4; 6 + 8 a slot
        assert_eq!(
            ring.addresses(0x1000),
            VringAddr { desc: 0x1000 + base, avail: 0x1000 + base + 4096, used: 0x1000 + base + 4096 + 520 }
        );
        assert!(Ring::bytes(256) >= 4096 + 520 + 6 + 2048);
    }

    #[test]
    fn what_a_device_puts_into_the_used_ring_is_taken_once_and_in_order() {
        let memory = Memory::new(Ring::bytes(4));
        let mut queue = Queue::new(Ring::new(&memory, 0, 4));
        assert_eq!(queue.take_used(), None);
        let ring = queue.ring.clone();
        for index in 0..10_u16 {
            memory.put(ring.used_offset() + 4 + usize::from(index % 4) * 8, &UsedElem { id: index.into(), len: 7 });
            ring.set_used_idx(index + 1);
            assert_eq!(queue.take_used(), Some(UsedElem { id: index.into(), len: 7 }));
            assert_eq!(queue.take_used(), None);
        }
    }

    #[test]
    fn a_missing_interrupt_is_told_from_an_unused_buffer() {
        let memory = Memory::new(Ring::bytes(4));
        let mut queue = Queue::new(Ring::new(&memory, 0, 4));
        queue.publish(0);
        let error = queue.wait_used(Duration::from_millis(1)).unwrap_err().to_string();
        assert!(error.contains("the use of a buffer (used idx 0, avail idx 1)"), "{error}");
    }
}
