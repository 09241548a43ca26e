//! A driver and a device on a ring, each of which tells the other only what it was asked to tell, and then waits.

use crate::batch::BATCH;
use crate::ring::{Marks, Ring};
use crate::sync::unfence;
use area::{Areas, Shared};
use loom::model::Builder;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::fence;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;
use virtio_mdev_api::dirty::{DirtyRecord, RingPart};
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED};
use virtio_mdev_api::{QueueConfig, QueueState};

/// Entries of the ring. There are fewer chains.
const SIZE: u16 = 4;
const CHAINS: u16 = 2;
const CONFIG: QueueConfig = QueueConfig { size: SIZE, desc: 0x1000, driver: 0x2000, device: 0x3000 };

/// Flags of packed descriptors that the driver made available in the first round, or the device used.
const AVAILABLE: u64 = (1 << 7) << 48;
const USED: u64 = (1 << 7 | 1 << 15) << 48;

/// An eventfd that somebody waits for.
#[derive(Default)]
struct Event {
    told: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    fn signal(&self) {
        *self.told.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut told = self.told.lock().unwrap();
        while !std::mem::take(&mut *told) {
            told = self.changed.wait(told).unwrap();
        }
    }
}

struct State {
    ring: Shared,
    kick: Event,
    call: Event,
}

/// What devices do, right and wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Device {
    Right,
    /// It does not look once more after it asked to be told.
    NoLastLook,
}

/// Serves until every chain was used, and sleeps when there is none.
fn serve(state: &State, features: u64, device: Device) {
    let packed = features & VIRTIO_F_RING_PACKED != 0;
    let mut ring = Ring::new(0, &CONFIG, SIZE, QueueState::initial(packed), features, true).unwrap();
    let mut reader = AddressSpace::new(Limits::default()).reader("model", Arc::new(|_: &str| ()));
    let burst = reader.enter();
    let (memory, areas, dirty) = (burst.view(), Areas::of(&state.ring), DirtyRecord::new());
    let marks = Marks { dirty: &dirty, part: RingPart { queue: 0, elsewhere: true } };
    let mut places = [None; BATCH];
    ring.prepare(&areas).unwrap();
    let mut served = 0;
    loop {
        while let Some(chain) = ring.take().or_else(|| {
            ring.fetch(&areas, &memory, &mut places).unwrap();
            ring.take()
        }) {
            ring.disable_notifications(&areas, &marks).unwrap();
            ring.complete(&chain, 0);
            ring.commit();
            served += 1;
        }
        if ring.publish(&areas, &marks).unwrap() {
            state.call.signal();
        }
        if served == CHAINS {
            return;
        }
        let more = ring.enable_notifications(&areas, &marks).unwrap();
        if !more || device == Device::NoLastLook {
            state.kick.wait();
        }
    }
}

/// A driver as the specification has it (virtio 1.3 §2.7.13, §2.8.21).
struct Driver<'s> {
    state: &'s State,
    packed: bool,
    event_idx: bool,
}

impl Driver<'_> {
    /// Makes a chain available, and tells of it if it is asked to.
    fn post(&self, chain: u16) {
        let ring = &self.state.ring;
        if self.packed {
            ring.descriptors[usize::from(chain)][1].store(1 | u64::from(chain) << 32 | AVAILABLE, Release);
        } else {
            ring.driver[1].store(chain + 1, Release);
        }
        fence(SeqCst);
        let asked = match (self.packed, self.event_idx) {
            (false, false) => ring.device[0].load(Relaxed) & 1 == 0,
            (false, true) => ring.device[2].load(Relaxed) == chain,
            (true, _) => match ring.device_event.load(Relaxed) {
                event if event >> 16 == 2 => event & 0xffff == u32::from(chain) | 1 << 15,
                event => event >> 16 == 0,
            },
        };
        if asked {
            self.state.kick.signal();
        }
    }

    fn is_used(&self, chain: u16) -> bool {
        let ring = &self.state.ring;
        if self.packed {
            ring.descriptors[usize::from(chain)][1].load(Acquire) & USED == USED
        } else {
            ring.device[1].load(Acquire) > chain
        }
    }

    /// Waits until a chain was used, of which it asks to be told.
    fn collect(&self, chain: u16) {
        let ring = &self.state.ring;
        while !self.is_used(chain) {
            match (self.packed, self.event_idx) {
                (false, false) => ring.driver[0].store(0, Relaxed),
                (false, true) => ring.driver[2].store(chain, Relaxed),
                (true, false) => ring.driver_event.store(0, Relaxed),
                (true, true) => ring.driver_event.store(2 << 16 | 1 << 15 | u32::from(chain), Relaxed),
            }
            fence(SeqCst);
            if self.is_used(chain) {
                break;
            }
            self.state.call.wait();
        }
        // It does not want to be told of others.
        match (self.packed, self.event_idx) {
            (false, false) => ring.driver[0].store(1, Relaxed),
            (true, false) => ring.driver_event.store(1 << 16, Relaxed),
            (_, true) => {}
        }
    }
}

fn model(features: u64, device: Device, fenced: bool) {
    unfence(!fenced);
    let mut checker = Builder::new();
    checker.preemption_bound = Some(3);
    checker.check(move || {
        // Those of a split ring are one readable buffer each.
        let rest = u64::from(features & VIRTIO_F_RING_PACKED == 0);
        let state = Arc::new(State { ring: Shared::new(rest), kick: Event::default(), call: Event::default() });
        let serving = {
            let state = Arc::clone(&state);
            thread::spawn(move || serve(&state, features, device))
        };
        let has = |feature| features & feature != 0;
        let driver = Driver { state: &state, packed: has(VIRTIO_F_RING_PACKED), event_idx: has(VIRTIO_F_EVENT_IDX) };
        for chain in 0..CHAINS {
            driver.post(chain);
            driver.collect(chain);
        }
        serving.join().unwrap();
    });
}

#[test]
fn no_notification_is_lost_on_a_split_ring() {
    model(0, Device::Right, true);
}

#[test]
fn no_notification_is_lost_on_a_split_ring_with_event_indices() {
    model(VIRTIO_F_EVENT_IDX, Device::Right, true);
}

#[test]
fn no_notification_is_lost_on_a_packed_ring() {
    model(VIRTIO_F_RING_PACKED, Device::Right, true);
}

#[test]
fn no_notification_is_lost_on_a_packed_ring_with_event_indices() {
    model(VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX, Device::Right, true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_last_look_a_chain_is_never_served() {
    model(VIRTIO_F_EVENT_IDX, Device::NoLastLook, true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_its_fences_a_split_ring_loses_notifications() {
    model(VIRTIO_F_EVENT_IDX, Device::Right, false);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_its_fences_a_packed_ring_loses_notifications() {
    model(VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX, Device::Right, false);
}

/// The memory of a ring, in numbers as large as each is read and written.
pub mod area {
    use crate::error::{Cause, Part};
    use crate::layout::Layout;
    use loom::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
    use virtio_mdev_api::dma::{AccessError, View};

    /// What driver and device have in common of a ring of one format.
    pub struct Shared {
        /// Split: what is in the available and the used ring besides entries: flags, index, event.
        pub driver: [AtomicU16; 3],
        pub device: [AtomicU16; 3],
        /// Packed: event suppression of the driver and of the device.
        pub driver_event: AtomicU32,
        pub device_event: AtomicU32,
        /// Of either.
        pub descriptors: [[AtomicU64; 2]; super::SIZE as usize],
    }

    impl Shared {
        pub fn new(rest: u64) -> Self {
            let words = || std::array::from_fn(|_| AtomicU16::new(0));
            Self {
                driver: words(),
                device: words(),
                driver_event: AtomicU32::new(0),
                device_event: AtomicU32::new(0),
                descriptors: std::array::from_fn(|_| [0x5000, rest].map(AtomicU64::new)),
            }
        }
    }

    /// The three areas of it, during a burst that lasts as long as the model.
    pub struct Areas<'a> {
        pub desc: Area<'a>,
        pub driver: Area<'a>,
        pub device: Area<'a>,
    }

    pub struct Area<'a> {
        shared: &'a Shared,
        part: Part,
    }

    /// A driver writes nothing but what the model of it does.
    type Result<T> = std::result::Result<T, Cause>;

    impl<'a> Areas<'a> {
        pub fn of(shared: &'a Shared) -> Self {
            let area = |part| Area { shared, part };
            Self { desc: area(Part::Descriptors), driver: area(Part::Available), device: area(Part::Used) }
        }

        pub fn find(_: View<'a>, _: &Layout, _: bool) -> std::result::Result<Self, (Part, AccessError)> {
            unreachable!("the model has its areas")
        }

        pub fn check_kept(&self, _area: &Area<'_>, _offset: usize) -> Result<()> {
            Ok(())
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "memory of a client may be gone")]
    impl Area<'_> {
        fn word(&self, offset: usize) -> &AtomicU16 {
            let words = if self.part == Part::Available { &self.shared.driver } else { &self.shared.device };
            match offset {
                0 => &words[0],
                2 => &words[1],
                _ => &words[2],
            }
        }

        fn event(&self) -> &AtomicU32 {
            if self.part == Part::Available { &self.shared.driver_event } else { &self.shared.device_event }
        }

        pub fn load_u16(&self, offset: usize, order: Ordering) -> Result<u16> {
            Ok(self.word(offset).load(order))
        }

        pub fn store_u16(&self, offset: usize, value: u16, order: Ordering) -> Result<()> {
            self.word(offset).store(value, order);
            Ok(())
        }

        pub fn load_u32(&self, _offset: usize, order: Ordering) -> Result<u32> {
            Ok(self.event().load(order))
        }

        pub fn store_u32(&self, _offset: usize, value: u32, order: Ordering) -> Result<()> {
            self.event().store(value, order);
            Ok(())
        }

        fn half(&self, offset: usize) -> &AtomicU64 {
            &self.shared.descriptors[offset / 16][offset % 16 / 8]
        }

        pub fn load_u64(&self, offset: usize, order: Ordering) -> Result<u64> {
            Ok(self.half(offset).load(order))
        }

        pub fn store_u64(&self, offset: usize, value: u64, order: Ordering) -> Result<()> {
            self.half(offset).store(value, order);
            Ok(())
        }

        pub fn load_descriptor(&self, offset: usize) -> Result<[u64; 2]> {
            Ok([0, 8].map(|half| self.half(offset + half).load(Ordering::Relaxed)))
        }

        pub fn pairs(&self) -> Option<&[[AtomicU64; 2]]> {
            Some(&self.shared.descriptors)
        }

        pub fn prefetch(&self, _offset: usize, _len: usize) {}

        /// Entries of the available ring: the first chain, and so on.
        pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<()> {
            for (entry, place) in (offset / 2 - 2..).zip(out.as_chunks_mut::<2>().0) {
                *place = u16::try_from(entry).unwrap_or(0).to_le_bytes();
            }
            Ok(())
        }

        /// Entries of the used ring are nobody's concern.
        pub fn write(&self, _offset: usize, _data: &[u8]) -> Result<()> {
            Ok(())
        }

        pub fn range(&self, offset: usize, len: usize) -> (u64, u64) {
            (offset as u64, len as u64)
        }
    }
}
