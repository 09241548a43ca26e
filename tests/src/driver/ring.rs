//! A virtqueue of either format (virtio 1.3 §2.7, §2.8) under the full control of its driver.

use super::abi::{VIRTIO_F_IN_ORDER, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_RING_PACKED};
use super::memory::{BUFFER_ROOM, BUFFERS, LARGE, LARGE_ROOM, Memory, QUEUE_ROOM};
use super::packed::Packed;
use super::sys::Map;
use super::{CallResult, DriverError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest ring that is where others are.
const SMALL: u16 = 1024;
const AVAIL: usize = 0x8000;
const USED: usize = 0x1_0000;
/// The same in the room of a large one.
const LARGE_AVAIL: usize = 0x8_0000;
const LARGE_USED: usize = 0xa_0000;
/// Buffers of a queue.
const ITS_BUFFERS: usize = 256;
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
    features: u64,
    /// Chains offered so far, which never wraps.
    offered: u64,
    packed: Option<Packed>,
    /// The last of a split ring's batch that is being taken (virtio 1.3 §2.7.9), and the heads the device has.
    batch: Option<Used>,
    heads: VecDeque<u16>,
}

impl Ring {
    /// A split ring in the memory's room for queue `index`; its size a power of two. For more than 1,024 entries the memory
    /// has to be larger.
    pub fn new(memory: Arc<Memory>, index: u32, size: u16) -> CallResult<Self> {
        Self::with_features(memory, index, size, 0)
    }

    /// The same of the format that `features` say.
    pub fn with_features(memory: Arc<Memory>, index: u32, size: u16, features: u64) -> CallResult<Self> {
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let event = || event().map_err(DriverError::call("eventfd"));
        let mut ring = Self {
            memory,
            index,
            size,
            avail_idx: 0,
            seen: 0,
            kick: event()?,
            call: event()?,
            doorbell: None,
            features,
            offered: 0,
            packed: None,
            batch: None,
            heads: VecDeque::new(),
        };
        ring.restart();
        Ok(ring)
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Makes the ring as new: nothing available, nothing used.
    pub fn restart(&mut self) {
        self.memory.write(self.base(), &vec![0; if self.is_large() { LARGE_ROOM } else { QUEUE_ROOM }]);
        (self.avail_idx, self.seen, self.offered, self.batch) = (0, 0, 0, None);
        self.heads.clear();
        let packed = || Packed::new(self.desc_offset(), self.size, self.has(VIRTIO_F_IN_ORDER));
        self.packed = self.has(VIRTIO_F_RING_PACKED).then(packed);
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// What VHOST_GET_VRING_BASE says of a device that used what is used now; of a new one when nothing is.
    pub fn vring_base(&self) -> u32 {
        self.packed.as_ref().map_or_else(|| self.used_idx().into(), |packed| packed.base(&self.memory))
    }

    /// The packed half, where the ring is.
    pub fn packed(&self) -> Option<&Packed> {
        self.packed.as_ref()
    }

    /// The descriptor whose turn it is, where chains have one each.
    pub fn next_descriptor(&self) -> u16 {
        match &self.packed {
            Some(_) => u16::try_from(self.offered % u64::from(self.size)).expect("less than the size"),
            None => self.avail_idx % self.size,
        }
    }

    /// Chains offered and not taken back.
    pub fn outstanding(&self) -> u16 {
        self.avail_idx.wrapping_sub(self.seen)
    }

    fn is_large(&self) -> bool {
        self.size > SMALL
    }

    fn base(&self) -> usize {
        let queue = usize::try_from(self.index).expect("64 bits");
        if self.is_large() { LARGE + queue * LARGE_ROOM } else { queue * QUEUE_ROOM }
    }

    /// Offset of the descriptor area in memory.
    pub fn desc_offset(&self) -> usize {
        self.base()
    }

    /// Offset of the driver area in memory: the available ring, or event suppression.
    pub fn avail_offset(&self) -> usize {
        self.base() + if self.is_large() { LARGE_AVAIL } else { AVAIL }
    }

    /// Offset of the device area in memory: the used ring, or event suppression.
    pub fn used_offset(&self) -> usize {
        self.base() + if self.is_large() { LARGE_USED } else { USED }
    }

    /// IOVAs of descriptor, driver and device area.
    pub fn addresses(&self) -> (u64, u64, u64) {
        [self.desc_offset(), self.avail_offset(), self.used_offset()].map(|offset| self.memory.iova(offset)).into()
    }

    /// Offset of the buffer set aside for a descriptor; those of larger rings have it together with others.
    pub fn buffer(&self, descriptor: u16) -> usize {
        let queue = usize::try_from(self.index).expect("64 bits") * ITS_BUFFERS;
        BUFFERS + (queue + usize::from(descriptor) % ITS_BUFFERS) * BUFFER_ROOM
    }

    /// Writes a descriptor of the table; that of a packed ring is the driver's own until it is offered.
    pub fn write_descriptor(&mut self, at: u16, descriptor: Descriptor) {
        if let Some(packed) = &mut self.packed {
            return packed.write_descriptor(at, descriptor);
        }
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
            let index = u16::try_from(self.index).expect("a queue's number");
            if self.has(VIRTIO_F_NOTIFICATION_DATA) {
                doorbell.store_wide(0, u32::from(index) | u32::from(self.next_place()) << 16);
            } else {
                doorbell.store(0, index);
            }
            return Ok(());
        }
        self.kick.write(1).map(drop).map_err(DriverError::call("kick"))
    }

    /// Where the driver goes on, as a doorbell tells it (virtio 1.3 §2.9).
    fn next_place(&self) -> u16 {
        match self.packed.as_ref().map(Packed::next_slot) {
            Some((at, wrap)) => at | u16::from(wrap) << 15,
            None => self.avail_idx,
        }
    }

    /// Makes one chain available, without a kick.
    pub fn offer(&mut self, head: u16) {
        self.offered += 1;
        if let Some(packed) = &mut self.packed {
            packed.offer(&self.memory, head);
            self.avail_idx = self.avail_idx.wrapping_add(1);
            return;
        }
        if self.has(VIRTIO_F_IN_ORDER) {
            self.heads.push_back(head);
        }
        self.write_avail(self.avail_idx, head);
        self.publish(self.avail_idx.wrapping_add(1));
    }

    /// Writes descriptors to a packed ring with the marks of this turn, as the chain `id`, whatever they are.
    pub fn post_raw(&mut self, id: u16, chain: &[Descriptor]) {
        self.packed.as_mut().expect("a packed ring").post(&self.memory, id, chain);
    }

    /// Takes the next used chain, if there is one.
    pub fn take(&mut self) -> Option<Used> {
        if let Some(packed) = &mut self.packed {
            let used = packed.take(&self.memory)?;
            self.seen = self.seen.wrapping_add(1);
            return Some(used);
        }
        if self.used_idx() == self.seen {
            return None;
        }
        let used = self.batch.take().unwrap_or_else(|| self.used_entry());
        self.seen = self.seen.wrapping_add(1);
        match self.heads.pop_front() {
            // What a batch passes over can only be what nothing is written to.
            Some(head) if u32::from(head) != used.id => {
                self.batch = Some(used);
                Some(Used { id: head.into(), len: 0 })
            }
            _ => Some(used),
        }
    }

    fn used_entry(&self) -> Used {
        let mut bytes = [0; 8];
        self.memory.read(self.used_offset() + 4 + usize::from(self.seen % self.size) * 8, &mut bytes);
        let [a, b, c, d, e, f, g, h] = bytes;
        Used { id: u32::from_le_bytes([a, b, c, d]), len: u32::from_le_bytes([e, f, g, h]) }
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
