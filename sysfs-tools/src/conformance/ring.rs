//! The driver's side of a split virtqueue (virtio 1.3 §2.7).

use super::sys::Shared;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

/// Largest ring that is used.
pub const SIZE: u16 = 64;
/// Bytes of one buffer: a header and the longest Ethernet frame.
pub const BUFFER: usize = 2048;
const ROOM: usize = 0x4000;
const AVAIL: usize = 0x1000;
const USED: usize = 0x2000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Receive, transmit, control.
const QUEUES: usize = 3;
/// Where the buffers begin: those of queue 0, then those of queue 1, and so on.
const BUFFERS: usize = 4 * ROOM;

/// Memory for the rings and their buffers.
pub fn memory() -> nix::Result<Shared> {
    let len = BUFFERS + QUEUES * usize::from(SIZE) * BUFFER;
    Shared::new(NonZeroUsize::MIN.saturating_add(len - 1))
}

/// One queue. Descriptor `n` has buffer `n`.
pub struct Ring {
    memory: Arc<Shared>,
    iova: u64,
    queue: usize,
    /// Entries.
    pub size: u16,
    /// Chains made available.
    pub available: u16,
    /// Chains taken from the used ring.
    pub taken: u16,
    /// Rung for the device.
    pub kick: EventFd,
    /// Rung by the device.
    pub call: EventFd,
}

impl Ring {
    /// Queue `queue` (0 to 2) in `memory`, which the device sees at `iova`.
    pub fn new(memory: Arc<Shared>, iova: u64, queue: usize, size: u16) -> nix::Result<Self> {
        memory.write(queue * ROOM, &[0; ROOM]);
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        Ok(Self { memory, iova, queue, size, available: 0, taken: 0, kick: event()?, call: event()? })
    }

    /// IOVAs of descriptor table, available ring and used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [0, AVAIL, USED].map(|at| self.iova + (self.queue * ROOM + at) as u64)
    }

    /// Where in memory the ring is, and where its buffers are.
    pub fn places(&self) -> [Range<usize>; 2] {
        let (ring, buffers) = (self.queue * ROOM, self.buffer(0));
        [ring..ring + ROOM, buffers..buffers + usize::from(SIZE) * BUFFER]
    }

    /// Offsets of pages that the driver writes alone: descriptors and available ring.
    pub fn driver_pages(&self) -> [usize; 2] {
        [self.queue * ROOM, self.queue * ROOM + AVAIL]
    }

    fn buffer(&self, at: u16) -> usize {
        BUFFERS + (self.queue * usize::from(SIZE) + usize::from(at)) * BUFFER
    }

    fn describe(&self, at: u16, iova: u64, len: usize, flags: u16, next: u16) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&iova.to_le_bytes());
        descriptor[8..12].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write(self.queue * ROOM + usize::from(at) * 16, &descriptor);
    }

    fn offer(&mut self, at: u16, len: usize, flags: u16) {
        self.describe(at, self.iova + self.buffer(at) as u64, len, flags, 0);
        self.publish(at);
    }

    /// Makes the chain that begins at descriptor `head` available, whether or not there is one.
    pub fn publish(&mut self, head: u16) {
        let base = self.queue * ROOM;
        self.memory.store(base + AVAIL + 4 + usize::from(self.available % self.size) * 2, head);
        self.available = self.available.wrapping_add(1);
        self.memory.store(base + AVAIL + 2, self.available);
    }

    /// Makes bytes available for the device to read.
    pub fn send(&mut self, at: u16, bytes: &[u8]) {
        self.memory.write(self.buffer(at), bytes);
        self.offer(at, bytes.len(), 0);
    }

    /// Makes a buffer available for the device to write.
    pub fn post(&mut self, at: u16) {
        self.memory.write(self.buffer(at), &[0; BUFFER]);
        self.offer(at, BUFFER, WRITE);
    }

    /// Makes a chain available of bytes to read and one byte to write, which is [`answer`](Self::answer).
    pub fn ask(&mut self, bytes: &[u8]) {
        self.memory.write(self.buffer(0), bytes);
        self.memory.write(self.buffer(1), &[u8::MAX]);
        self.describe(1, self.iova + self.buffer(1) as u64, 1, WRITE, 0);
        self.describe(0, self.iova + self.buffer(0) as u64, bytes.len(), NEXT, 1);
        self.publish(0);
    }

    /// What the device answered.
    pub fn answer(&self) -> u8 {
        self.contents(1)[0]
    }

    /// The device's index.
    pub fn used(&self) -> u16 {
        self.counter()()
    }

    /// The same for whoever does not have the ring.
    pub fn counter(&self) -> impl Fn() -> u16 + use<> {
        let (memory, at) = (Arc::clone(&self.memory), self.queue * ROOM + USED + 2);
        move || memory.load(at)
    }

    /// The next used element, descriptor and length, if there is one.
    pub fn take(&mut self) -> Option<(u32, u32)> {
        if self.used() == self.taken {
            return None;
        }
        let mut element = [0; 8];
        let entry = usize::from(self.taken % self.size);
        self.memory.read(self.queue * ROOM + USED + 4 + entry * 8, &mut element);
        self.taken = self.taken.wrapping_add(1);
        let [a, b, c, d, e, f, g, h] = element;
        Some((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
    }

    /// What is in a buffer, all of it.
    pub fn contents(&self, at: u16) -> Vec<u8> {
        let mut bytes = vec![0; BUFFER];
        self.memory.read(self.buffer(at), &mut bytes);
        bytes
    }
}
