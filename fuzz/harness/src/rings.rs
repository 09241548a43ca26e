//! A ring of either format as a hostile guest writes it, against the ring engine.

use crate::Input;
use std::ops::Range;
use std::sync::Arc;
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::{AddressSpace, Limits, Permissions, Region};
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED};
use virtio_mdev_api::notify::{CallSlot, EventFd};
use virtio_mdev_api::{DeviceLink, QueueConfig, QueueStart, QueueState};
use virtqueue::testing::{DESC_AVAIL, DESC_INDIRECT, DESC_NEXT, DESC_USED, DESC_WRITE, Desc, Driver, PackedDesc, Ram};
use virtqueue::{Halt, Health, Io, Queue, Waker};

const PAGE: usize = 0x1000;
/// Mapped are pages 1 to 4, the last one read-only; pages 0 and 5 are the neighbours'.
const MEMORY: usize = 6 * PAGE;
const READ_ONLY: usize = 4 * PAGE;
const NEIGHBOUR: u8 = 0xa5;
/// Where the ring is, and its indirect tables are likely to be.
const RING: u64 = 0x1000;
const TABLES: u64 = 0x2000;
/// Bytes of memory that are compared at once.
const LINE: usize = 256;
/// Chains one burst may take before it ends.
const CHAINS: usize = 64;

/// Runs one input: features, kind of memory and ring, and then what the guest does.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut guest = Guest::new(input.byte(), input.byte(), input.half());
    while input.more() {
        guest.step(&mut input);
    }
}

struct Guest {
    ram: Ram,
    driver: Driver,
    space: Arc<AddressSpace>,
    health: Arc<Health>,
    waker: Arc<Waker>,
    dirty: Arc<DirtyRecord>,
    features: u64,
    first: u16,
    /// None while the device refuses to start.
    queue: Option<(Queue, QueueConfig)>,
}

impl Guest {
    fn new(how: u8, size: u8, first: u16) -> Self {
        let ram = if how & 1 == 0 { Ram::shared(MEMORY) } else { Ram::private(MEMORY) };
        for neighbour in [0, MEMORY - PAGE] {
            ram.write(neighbour as u64, &[NEIGHBOUR; PAGE]);
        }
        let bit = |bit: u8, feature: u64| if how & bit == 0 { 0 } else { feature };
        let features = bit(2, VIRTIO_F_INDIRECT_DESC)
            | bit(4, VIRTIO_F_EVENT_IDX)
            | bit(16, VIRTIO_F_RING_PACKED)
            | bit(32, VIRTIO_F_IN_ORDER);
        // A packed ring has any size.
        let size = if features & VIRTIO_F_RING_PACKED == 0 { 1 << (size % 6) } else { 1 + u16::from(size % 33) };
        let mut guest = Self {
            driver: Driver::with_features(ram.clone(), RING, size, features),
            space: AddressSpace::new(Limits::default()),
            health: Health::new(DeviceLink::new("fuzzed")),
            waker: Arc::new(Waker::new().expect("a waker")),
            dirty: DirtyRecord::new(),
            features,
            // Mostly from the start.
            first: if how & 8 == 0 { 0 } else { first },
            queue: None,
            ram,
        };
        guest.map();
        guest.start(None);
        guest
    }

    fn map(&self) {
        let read_only = Region { permissions: Permissions::READ, ..self.ram.region(READ_ONLY as u64, READ_ONLY, PAGE) };
        // It may be mapped already.
        let _ = self.space.map(self.ram.region(PAGE as u64, PAGE, READ_ONLY - PAGE));
        let _ = self.space.map(read_only);
    }

    fn start(&mut self, config: Option<QueueConfig>) {
        self.queue = None;
        let slot = || {
            let slot = CallSlot::default();
            slot.set(Some(EventFd::new().expect("eventfd")));
            Arc::new(slot)
        };
        self.driver.reset();
        let state = if self.driver.is_packed() {
            let (slot, wrap) = (self.first % self.driver.size, self.first < 0x8000);
            self.driver.continue_at_slot(slot, wrap);
            QueueState::Packed { avail: slot, avail_wrap: wrap, used: slot, used_wrap: wrap }
        } else {
            self.driver.continue_at(self.first);
            QueueState::Split { avail: self.first }
        };
        let config = config.unwrap_or(self.driver.config());
        let start = QueueStart {
            config,
            state,
            features: self.features,
            asid: 0,
            ring_asid: 0,
            space: Arc::clone(&self.space),
            ring_space: Arc::clone(&self.space),
            kick: None,
            doorbell: None,
            call: slot(),
            err: slot(),
            dirty: Arc::clone(&self.dirty),
        };
        self.health.reset();
        let queue = Queue::start(0, start, 1024, Arc::clone(&self.health), Arc::clone(&self.waker));
        self.queue = queue.ok().map(|queue| (queue, config));
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 10 {
            0..3 => {
                let slot = u64::from(input.byte()) % u64::from(self.driver.size);
                let descriptor = self.descriptor(input);
                self.ram.write(RING + 16 * slot, &descriptor);
            }
            3 => {
                let slot = u64::from(input.byte() % 64);
                let descriptor = self.descriptor(input);
                self.ram.write(TABLES + 16 * slot, &descriptor);
            }
            4 if self.driver.is_packed() => {
                let Desc { addr, len, flags, next } = descriptor(input);
                let id = if input.flag() { next } else { next % self.driver.size };
                self.driver.stage_raw(&[PackedDesc { addr, len, id, flags }]);
                // A chain is whole before its first descriptor is.
                if flags & DESC_NEXT == 0 {
                    self.driver.publish();
                }
            }
            4 => {
                let head = match input.byte() {
                    255 => input.half(),
                    head => u16::from(head) % self.driver.size,
                };
                self.driver.push(head);
                self.publish(0);
            }
            5 if self.driver.is_packed() => self.driver.publish(),
            5 => self.publish(input.half()),
            6 => {
                let at = u64::from(input.half()) % (READ_ONLY as u64) + PAGE as u64;
                let blob = input.blob();
                let room = MEMORY - PAGE - usize::try_from(at).expect("small");
                self.ram.write(at, &blob[..blob.len().min(room)]);
            }
            7 | 8 => self.serve(),
            _ => match input.byte() % 4 {
                0 => drop(self.space.unmap_all()),
                1 => self.map(),
                2 => self.start(None),
                _ => {
                    let [desc, driver, device] = [0; 3].map(|_: u64| input.address());
                    self.start(Some(QueueConfig { size: input.half(), desc, driver, device }));
                }
            },
        }
    }

    /// Any descriptor, in the format of the ring.
    fn descriptor(&self, input: &mut Input<'_>) -> [u8; 16] {
        let desc = descriptor(input);
        if !self.driver.is_packed() {
            return desc.bytes();
        }
        let Desc { addr, len, flags, next } = desc;
        let marks = [DESC_AVAIL, DESC_USED, DESC_AVAIL | DESC_USED, 0][usize::from(input.byte() % 4)];
        PackedDesc { addr, len, id: next, flags: flags | marks }.bytes()
    }

    /// Makes available what was pushed, and more.
    fn publish(&self, more: u16) {
        self.driver.set_avail_idx(self.driver.next_avail().wrapping_add(more));
    }

    /// Lets the device do what it can, and looks at every byte it may not have written.
    fn serve(&mut self) {
        let in_order = self.features & VIRTIO_F_IN_ORDER != 0;
        let Some((queue, config)) = self.queue.as_mut() else { return };
        let before = self.ram.read(0, MEMORY);
        let mut echo = Echo { allowed: vec![false; MEMORY], done: Vec::new() };
        let stood = queue.state();
        // What went wrong shows in the link.
        let _ = queue.burst(|io| echo.run(io));
        queue.interrupt();
        let after = self.ram.read(0, MEMORY);
        let written = written_areas(config, self.driver.is_packed());
        // Most of it is as it was, and whole lines compare faster than bytes.
        let lines = before.chunks(LINE).zip(after.chunks(LINE)).enumerate();
        for (line, (was, is)) in lines.filter(|(_, (was, is))| was != is) {
            for (at, (was, is)) in (line * LINE..).zip(was.iter().zip(is)) {
                let writable = (PAGE..READ_ONLY).contains(&at)
                    && (written.iter().any(|area| area.contains(&at)) || echo.allowed[at]);
                assert!(was == is || writable, "{at:#x} was {was:#x} and is {is:#x}");
            }
        }
        if echo.done.is_empty() || self.health.link().needs_reset() {
            return;
        }
        let half = |at: usize| u16::from_le_bytes([after[at], after[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let first_or_last = |found| echo.done.first() == Some(&found) || (in_order && echo.done.last() == Some(&found));
        let ring = &written[0];
        if let QueueState::Packed { used, .. } = stood {
            // A burst has less than a round.
            let at = ring.start + 16 * usize::from(used);
            let len = if half(at + 14) & DESC_WRITE == 0 { 0 } else { word(at + 8) };
            assert!(first_or_last((half(at + 12).into(), len)), "descriptor {used} is not what was used");
            return;
        }
        let entry = |place: u16| ring.start + 4 + 8 * usize::from(place % config.size);
        let idx = half(ring.start + 2);
        if in_order {
            let place = idx.wrapping_sub(u16::try_from(echo.done.len()).expect("a burst"));
            let at = entry(place);
            assert!(first_or_last((word(at), word(at + 4))), "entry {place} of the used ring");
            return;
        }
        for (back, &chain) in echo.done.iter().rev().take(config.size.into()).enumerate() {
            let place = idx.wrapping_sub(1).wrapping_sub(u16::try_from(back).expect("small"));
            let at = entry(place);
            assert_eq!((word(at), word(at + 4)), chain, "entry {place} of the used ring");
        }
    }
}

/// What of a ring the device writes: what it uses, and what else.
fn written_areas(config: &QueueConfig, packed: bool) -> [Range<usize>; 2] {
    let at = |iova: u64| usize::try_from(iova).expect("a ring that was served is mapped");
    let size = usize::from(config.size);
    let (desc, device) = (at(config.desc), at(config.device));
    // A split ring may lie anywhere, and everything that is written of it is in one area.
    if packed {
        [desc..desc.saturating_add(16 * size), device..device.saturating_add(4)]
    } else {
        [device..device.saturating_add(6 + 8 * size), 0..0]
    }
}

/// A device that gives back what it is sent.
struct Echo {
    /// The bytes of memory it was given to write.
    allowed: Vec<bool>,
    /// Heads and written lengths of the chains it used.
    done: Vec<(u32, u32)>,
}

impl Echo {
    fn run(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let mut bytes = vec![0; PAGE];
        for _ in 0..CHAINS {
            let Some(chain) = io.take()? else { return Ok(()) };
            let read = io.read(&chain, 0, &mut bytes)?;
            assert!(read as u64 <= chain.readable, "more was read than there is");
            for offset in 0..chain.writable.min(read as u64) {
                let at = io.writable_address(&chain, offset).and_then(|at| usize::try_from(at).ok());
                if let Some(may) = at.and_then(|at| self.allowed.get_mut(at)) {
                    *may = true;
                }
            }
            let written = io.write(&chain, 0, &bytes[..read])?;
            assert!(written as u64 <= chain.writable, "more was written than there is room");
            let written = u32::try_from(written).expect("small");
            io.complete(&chain, written);
            io.commit();
            self.done.push((chain.head().into(), written));
        }
        Ok(())
    }
}

fn descriptor(input: &mut Input<'_>) -> Desc {
    let addr = match input.byte() {
        255 => input.long(),
        254 => u64::MAX - u64::from(input.byte()),
        253 => TABLES + 16 * u64::from(input.byte() % 64),
        page => (u64::from(page % 7) << 12) + u64::from(input.half() & 0xfff),
    };
    let len = match input.byte() {
        255 => input.word(),
        254 => u32::from(input.half()),
        pages @ 0xf0.. => u32::from(pages - 0xf0) << 4,
        small => u32::from(small),
    };
    let flags = match input.byte() {
        255 => input.half(),
        flags => u16::from(flags) & (DESC_NEXT | DESC_WRITE | DESC_INDIRECT),
    };
    Desc { addr, len, flags, next: u16::from(input.byte()) }
}
