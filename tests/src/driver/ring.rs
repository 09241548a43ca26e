//! A split virtqueue (virtio 1.3 §2.7) under the full control of its driver.

use super::memory::{BUFFER_ROOM, BUFFERS, Memory, QUEUE_ROOM};
use super::sys::Map;
use super::{CallResult, DriverError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const AVAIL: usize = 0x8000;
const USED: usize = 0x1_0000;
const LOOK: Duration = Duration::from_millis(50);

/// `struct virtq_desc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// IOVA of the buffer.
    pub addr: u64,
    /// Its length.
    pub len: u32,
    /// VIRTQ_DESC_F_*.
    pub flags: u16,
    /// The next one, with VIRTQ_DESC_F_NEXT.
    pub next: u16,
}

impl Descriptor {
    /// As it is in memory.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// `struct virtq_used_elem`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Head of the chain.
    pub id: u32,
    /// Bytes written to it.
    pub len: u32,
}

/// One queue of a driver.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<Memory>,
    /// Its number.
    pub index: u32,
    /// Its size.
    pub size: u16,
    /// The driver's index: what was made available so far.
    pub avail_idx: u16,
    /// What was taken from the used ring so far.
    pub seen: u16,
    /// The device listens here.
    pub kick: EventFd,
    /// The driver listens here.
    pub call: EventFd,
    /// What the driver kicks in place of its eventfd.
    pub doorbell: Option<Map>,
}

impl Ring {
    /// A ring in the memory's room for queue `index`; its size a power of two, at most 1,024.
    pub fn new(memory: Arc<Memory>, index: u32, size: u16) -> CallResult<Self> {
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let event = || event().map_err(DriverError::call("eventfd"));
        let ring = Self { memory, index, size, avail_idx: 0, seen: 0, kick: event()?, call: event()?, doorbell: None };
        ring.clear();
        Ok(ring)
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Makes the ring as new: nothing available, nothing used.
    pub fn restart(&mut self) {
        self.clear();
        (self.avail_idx, self.seen) = (0, 0);
    }

    fn clear(&self) {
        self.memory.write(self.base(), &vec![0; QUEUE_ROOM]);
    }

    fn base(&self) -> usize {
        usize::try_from(self.index).expect("64 bits") * QUEUE_ROOM
    }

    /// Offset of the descriptor table in memory.
    pub fn desc_offset(&self) -> usize {
        self.base()
    }

    /// Offset of the available ring in memory.
    pub fn avail_offset(&self) -> usize {
        self.base() + AVAIL
    }

    /// Offset of the used ring in memory.
    pub fn used_offset(&self) -> usize {
        self.base() + USED
    }

    /// IOVAs of descriptor table, available ring and used ring.
    pub fn addresses(&self) -> (u64, u64, u64) {
        [self.desc_offset(), self.avail_offset(), self.used_offset()].map(|offset| self.memory.iova(offset)).into()
    }

    /// Offset of the buffer set aside for a descriptor.
    pub fn buffer(&self, descriptor: u16) -> usize {
        // Queues share the buffers' room evenly for rings of up to 256.
        let queue = usize::try_from(self.index).expect("64 bits") * 256;
        BUFFERS + (queue + usize::from(descriptor)) * BUFFER_ROOM
    }

    /// Writes a descriptor.
    pub fn write_descriptor(&self, at: u16, descriptor: Descriptor) {
        self.memory.write(self.desc_offset() + usize::from(at) * 16, &descriptor.bytes());
    }

    /// Writes an entry of the available ring.
    pub fn write_avail(&self, entry: u16, head: u16) {
        self.memory.store(self.avail_offset() + 4 + usize::from(entry % self.size) * 2, head);
    }

    /// Writes the driver's index.
    pub fn publish(&mut self, idx: u16) {
        self.avail_idx = idx;
        self.memory.store(self.avail_offset() + 2, idx);
    }

    /// Writes `used_event`, which lies behind the available ring's entries.
    pub fn write_used_event(&self, value: u16) {
        self.memory.store(self.avail_offset() + 4 + usize::from(self.size) * 2, value);
    }

    /// Writes `avail_event`, which is the device's, behind the used ring's entries.
    pub fn write_avail_event(&self, value: u16) {
        self.memory.store(self.used_offset() + 4 + usize::from(self.size) * 8, value);
    }

    /// The device's index.
    pub fn used_idx(&self) -> u16 {
        self.memory.load(self.used_offset() + 2)
    }

    /// Kicks the device: by the doorbell where there is one.
    pub fn notify(&self) -> CallResult<()> {
        if let Some(doorbell) = &self.doorbell {
            doorbell.store(0, u16::try_from(self.index).expect("a queue's number"));
            return Ok(());
        }
        self.kick.write(1).map(drop).map_err(DriverError::call("kick"))
    }

    /// Makes one chain available, without a kick.
    pub fn offer(&mut self, head: u16) {
        self.write_avail(self.avail_idx, head);
        self.publish(self.avail_idx.wrapping_add(1));
    }

    /// Takes the next used chain, if there is one.
    pub fn take(&mut self) -> Option<Used> {
        if self.used_idx() == self.seen {
            return None;
        }
        let mut bytes = [0; 8];
        self.memory.read(self.used_offset() + 4 + usize::from(self.seen % self.size) * 8, &mut bytes);
        self.seen = self.seen.wrapping_add(1);
        let [a, b, c, d, e, f, g, h] = bytes;
        Some(Used { id: u32::from_le_bytes([a, b, c, d]), len: u32::from_le_bytes([e, f, g, h]) })
    }

    /// Waits for the next used chain by the call eventfd. Looks at the ring now and then in any case: a test may have
    /// told the device not to interrupt.
    pub fn wait(&mut self, timeout: Duration, what: &'static str) -> CallResult<Used> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(used) = self.take() {
                return Ok(used);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DriverError::Timeout { what });
            }
            let left = PollTimeout::try_from(left.min(LOOK)).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.call.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, left) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => drop(self.call.read()),
                Err(errno) => return Err(DriverError::call("poll")(errno)),
            }
        }
    }
}
