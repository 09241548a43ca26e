//! One split virtqueue (virtio 1.3 §2.7) whose chains are one descriptor long.

use crate::sys::Memory;
use crate::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Descriptors of a queue.
pub const SIZE: u16 = 256;
/// Bytes of the buffer that belongs to a descriptor.
pub const BUFFER: usize = 2048;
/// Bytes of memory for a queue: its three parts, then its buffers.
pub const ROOM: usize = BUFFERS + SIZE as usize * BUFFER;
/// Where the device sees the first byte of our memory. Any free range of its address space will do; a virtual machine
/// monitor would use the guest's physical addresses.
pub const IOVA: u64 = 0x10_0000;
/// VIRTQ_DESC_F_WRITE: the device writes to the buffer.
pub const WRITE: u16 = 2;

const AVAIL: usize = 0x1000;
const USED: usize = 0x2000;
const BUFFERS: usize = 0x4000;
const PATIENCE_MS: u16 = 10_000;

/// `struct virtq_desc`. All fields are little-endian, as is every machine with a vhost of this kind so far.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// `struct virtq_used_elem`.
#[derive(Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Used {
    id: u32,
    len: u32,
}

/// A queue, at `base` in memory.
#[derive(Debug)]
pub struct Queue {
    base: usize,
    offered: u16,
    taken: u16,
    /// We tell the device.
    pub kick: EventFd,
    /// The device tells us.
    pub call: EventFd,
}

impl Queue {
    /// Queue `index` of a device, in the part of the memory that is its own.
    pub fn new(index: usize) -> Result<Self> {
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let event = || event().map_err(Error::call("eventfd"));
        Ok(Self { base: index * ROOM, offered: 0, taken: 0, kick: event()?, call: event()? })
    }

    /// Where the device finds descriptor table, available ring and used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [0, AVAIL, USED].map(|part| IOVA + (self.base + part) as u64)
    }

    /// The descriptor to offer next: each has its turn, so at most [`SIZE`] may be under way.
    pub fn next(&self) -> u16 {
        self.offered % SIZE
    }

    /// Where the buffer of a descriptor is in memory.
    pub fn buffer(&self, descriptor: u16) -> usize {
        self.base + BUFFERS + usize::from(descriptor) * BUFFER
    }

    /// Makes a buffer available. The device sees it only when the index is published.
    pub fn offer(&mut self, memory: &Memory, head: u16, len: u32, flags: u16) {
        let addr = IOVA + self.buffer(head) as u64;
        memory.write(self.base + usize::from(head) * 16, &Descriptor { addr, len, flags, next: 0 });
        memory.write(self.base + AVAIL + 4 + usize::from(self.next()) * 2, &head);
        self.offered = self.offered.wrapping_add(1);
        memory.publish(self.base + AVAIL + 2, self.offered);
    }

    /// Tells the device to look.
    pub fn notify(&self) -> Result<()> {
        match self.kick.write(1) {
            // At its maximum the counter says already that there is something to see.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(Error::call("kick")(errno)),
        }
    }

    /// Waits for the next used buffer: its descriptor, and how many bytes the device wrote.
    pub fn take(&mut self, memory: &Memory, what: &'static str) -> Result<(u16, usize)> {
        while memory.observe(self.base + USED + 2) == self.taken {
            let mut fds = [PollFd::new(self.call.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(PATIENCE_MS)) {
                Ok(0) => return Err(Error::Timeout(what)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::call("poll")(errno)),
            }
            // Emptied before the ring is looked at again: an interrupt in between is then seen, not lost.
            let _ = self.call.read();
        }
        let mut used = Used::default();
        memory.read(self.base + USED + 4 + usize::from(self.taken % SIZE) * 8, &mut used);
        self.taken = self.taken.wrapping_add(1);
        let (head, len) = (u16::try_from(used.id), usize::try_from(used.len));
        match (head, len) {
            (Ok(head), Ok(len)) if head < SIZE && len <= BUFFER => Ok((head, len)),
            _ => Err(Error::Wrong(format!("the device used {} bytes of descriptor {}", used.len, used.id))),
        }
    }
}
