//! A device that gives back what it is sent: the readable bytes of a chain come back in its writable ones.

use std::sync::Arc;
use virtio_mdev_api::dirty::{DirtyPages, DirtyRecord, DirtyWord, SinkGuard};
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED};
use virtio_mdev_api::notify::{CallSlot, EventFd};
use virtio_mdev_api::{DeviceLink, QueueStart, QueueState};
use virtqueue::testing::{Driver, Ram, map};
use virtqueue::{Halt, Health, Io, Queue, RingError, Waker};

pub const SIZE: u16 = 8;
pub const MEMORY: usize = 0x20000;
/// Where buffers are.
pub const DATA: u64 = 0x8000;

/// A device with one queue, and its driver.
pub struct Rig {
    pub driver: Driver,
    pub space: Arc<AddressSpace>,
    pub link: DeviceLink,
    pub health: Arc<Health>,
    pub waker: Arc<Waker>,
    pub features: u64,
    pub call: EventFd,
    pub err: EventFd,
    pub dirty: Arc<DirtyRecord>,
    pub queue: Option<Queue>,
}

pub const INDIRECT: u64 = VIRTIO_F_INDIRECT_DESC;
pub const EVENT_IDX: u64 = VIRTIO_F_EVENT_IDX;
pub const PACKED: u64 = VIRTIO_F_RING_PACKED;

impl Rig {
    pub fn new(features: u64) -> Self {
        Self::with_ram(&Ram::shared(MEMORY), features)
    }

    pub fn with_ram(ram: &Ram, features: u64) -> Self {
        let space = AddressSpace::new(Limits::default());
        map(&space, ram);
        let mut rig = Self::unstarted(ram, space, features);
        rig.start().unwrap();
        rig
    }

    /// One with a ring of `size`.
    pub fn of_size(features: u64, size: u16) -> Self {
        let mut rig = Self::new(features);
        rig.driver = Driver::with_features(rig.driver.ram.clone(), 0x1000, size, features);
        rig.driver.reset();
        rig.start().unwrap();
        rig
    }

    pub fn unstarted(ram: &Ram, space: Arc<AddressSpace>, features: u64) -> Self {
        let link = DeviceLink::new("rig");
        Self {
            driver: Driver::with_features(ram.clone(), 0x1000, SIZE, features),
            space,
            health: Health::new(link.clone()),
            link,
            waker: Arc::new(Waker::new().unwrap()),
            features,
            call: EventFd::new().unwrap(),
            err: EventFd::new().unwrap(),
            dirty: DirtyRecord::new(),
            queue: None,
        }
    }

    pub fn start(&mut self) -> Result<(), RingError> {
        self.start_at(0)
    }

    /// Where a packed ring begins, or `avail` on a split one.
    pub fn start_at(&mut self, avail: u16) -> Result<(), RingError> {
        let start = self.queue_start(avail);
        self.queue = Some(Queue::start(3, start, 1024, Arc::clone(&self.health), Arc::clone(&self.waker))?);
        Ok(())
    }

    pub fn queue_start(&self, avail: u16) -> QueueStart {
        let slot = |fd: &EventFd| {
            let slot = CallSlot::default();
            slot.set(Some(fd.clone()));
            Arc::new(slot)
        };
        QueueStart {
            config: self.driver.config(),
            state: if self.driver.is_packed() { QueueState::initial(true) } else { QueueState::Split { avail } },
            features: self.features,
            asid: 0,
            space: Arc::clone(&self.space),
            ring_asid: 0,
            ring_space: Arc::clone(&self.space),
            kick: None,
            doorbell: None,
            call: slot(&self.call),
            err: slot(&self.err),
            dirty: Arc::clone(&self.dirty),
        }
    }

    /// From now on, what the device writes is recorded.
    pub fn track(&self) -> Written {
        let pages = Arc::new(DirtyPages::new(0x1000).unwrap());
        let guard = self.dirty.add_sink(Arc::clone(&pages) as _);
        Written { pages, _guard: guard }
    }

    /// Lets the device do what it can.
    pub fn serve(&mut self) {
        let queue = self.queue.as_mut().unwrap();
        // What went wrong shows in the link.
        let _ = queue.burst(echo);
        queue.interrupt();
        queue.resume();
    }

    /// Sends `text` and expects it back.
    pub fn exchange(&mut self, text: &[u8]) {
        self.exchange_at(DATA, text);
    }

    /// The same with buffers at `at` and a page further.
    pub fn exchange_at(&mut self, at: u64, text: &[u8]) {
        let len = u32::try_from(text.len()).unwrap();
        self.driver.ram.write(at, text);
        let head = self.driver.add(&[(at, len, false), (at + 0x1000, len, true)]);
        self.serve();
        assert_eq!(self.driver.take_used(), Some((head, len)));
        assert_eq!(self.driver.ram.read(at + 0x1000, text.len()), text);
    }

    /// What is in the areas of the ring.
    pub fn ring_bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.driver.end() - self.driver.desc).unwrap();
        self.driver.ram.read(self.driver.desc, len)
    }

    /// The driver resets the device and starts anew.
    pub fn reset(&mut self) {
        self.queue = None;
        self.health.reset();
        self.driver.reset();
        self.start().unwrap();
    }

    /// The device asked for a reset because of `reason`, told its driver, does nothing more, and works after a reset.
    pub fn expect_fault(&mut self, reason: &str) {
        self.serve();
        let found = self.link.last_fault().unwrap_or_else(|| panic!("no fault, expected: {reason}"));
        assert!(found.contains(reason), "{found} is not: {reason}");
        assert!(self.link.needs_reset());
        assert_eq!(self.err.drain(), Ok(Some(1)), "the error notifier was not rung once");
        self.driver.add(&[(DATA, 1, false)]);
        let before = self.ring_bytes();
        self.serve();
        assert!(self.ring_bytes() == before, "a stopped device went on");
        self.reset();
        self.exchange(b"after the reset");
    }
}

pub fn echo(io: &mut Io<'_>) -> Result<(), Halt> {
    let mut bytes = vec![0; 0x10000];
    while let Some(chain) = io.take()? {
        let read = io.read(&chain, 0, &mut bytes)?;
        let written = io.write(&chain, 0, &bytes[..read])?;
        io.complete(&chain, u32::try_from(written).unwrap());
        io.commit();
    }
    Ok(())
}

/// The pages that a device wrote.
pub struct Written {
    pages: Arc<DirtyPages>,
    _guard: SinkGuard,
}

impl Written {
    /// Their numbers, and forgets them.
    pub fn take(&self) -> Vec<u64> {
        self.pages.take(0, u64::MAX).into_iter().flat_map(DirtyWord::pages).collect()
    }
}
