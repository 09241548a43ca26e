//! What a driver does with a packed ring (virtio 1.3 §2.8).

use super::driver::{DESC_WRITE, Driver, Interrupts, Posted, Ring};
use super::memory::DriverMemory;
use virtio_mdev_api::QueueState;

/// VIRTQ_DESC_F_AVAIL.
pub const DESC_AVAIL: u16 = 1 << 7;
/// VIRTQ_DESC_F_USED.
pub const DESC_USED: u16 = 1 << 15;

/// RING_EVENT_FLAGS_ENABLE, _DISABLE and _DESC.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const DESC: u16 = 2;
/// The wrap counter beside a descriptor's number.
const WRAP: u16 = 1 << 15;
/// Offset of the flags in an event suppression area, and in a descriptor.
const EVENT_FLAGS: u64 = 2;
const FLAGS: u64 = 14;

/// A descriptor of a packed ring, as it lies in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackedDesc {
    /// Address.
    pub addr: u64,
    /// Length.
    pub len: u32,
    /// Buffer id.
    pub id: u16,
    /// Flags.
    pub flags: u16,
}

impl PackedDesc {
    /// Its 16 bytes.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.id.to_le_bytes());
        bytes[14..].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }
}

/// A place on the ring: a descriptor, and the wrap counter there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    slot: u16,
    wrap: bool,
}

impl Place {
    const FIRST: Self = Self { slot: 0, wrap: true };

    fn after(self, slots: u16, size: u16) -> Self {
        let turns = |slot: u32| slot / u32::from(size);
        let slot = u32::from(self.slot) + u32::from(slots);
        Self { slot: u16::try_from(slot % u32::from(size)).unwrap_or(0), wrap: self.wrap ^ (turns(slot) % 2 == 1) }
    }

    /// Of the two turns of the ring that wrap counters tell apart.
    fn linear(self, size: u16) -> u32 {
        u32::from(self.slot) + if self.wrap { 0 } else { u32::from(size) }
    }

    fn bits(self) -> u16 {
        self.slot | if self.wrap { WRAP } else { 0 }
    }

    /// How a descriptor is marked available here.
    fn available(self) -> u16 {
        if self.wrap { DESC_AVAIL } else { DESC_USED }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Packed {
    size: u16,
    next: Place,
    used: Place,
    /// The first descriptor that was added and not made available, with its flags.
    staged: Option<(u16, u16)>,
    free_ids: Vec<u16>,
    /// Where the device was last asked whether it wants a notification.
    told: Place,
}

impl Packed {
    pub fn new(size: u16) -> Self {
        // Not in the order of the descriptors: the first id given out is 0, and then the last ones.
        let free_ids = (1..size).chain([0].into_iter().take(size.into())).collect();
        Self { size, next: Place::FIRST, used: Place::FIRST, staged: None, free_ids, told: Place::FIRST }
    }

    pub fn next_id(&self) -> u16 {
        *self.free_ids.last().expect("more chains than the ring holds")
    }

    pub fn advance(&mut self, chain: &Posted) {
        self.used = self.used.after(chain.slots, self.size);
        self.free_ids.push(chain.id);
    }
}

/// What concerns packed rings alone. On a split one these panic.
#[allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
impl<M: DriverMemory> Driver<M> {
    fn packed(&self) -> &Packed {
        let Ring::Packed(packed) = &self.ring else { panic!("the ring is split") };
        packed
    }

    fn packed_mut(&mut self) -> &mut Packed {
        let Ring::Packed(packed) = &mut self.ring else { panic!("the ring is split") };
        packed
    }

    /// The next descriptor that would be added, and the wrap counter there.
    pub fn next_slot(&self) -> (u16, bool) {
        let next = self.packed().next;
        (next.slot, next.wrap)
    }

    /// Where a device stands that has used everything the driver collected.
    pub fn collected(&self) -> QueueState {
        let Place { slot, wrap } = self.packed().used;
        QueueState::Packed { avail: slot, avail_wrap: wrap, used: slot, used_wrap: wrap }
    }

    /// Goes on from another place: nothing is outstanding.
    pub fn continue_at_slot(&mut self, slot: u16, wrap: bool) {
        let packed = self.packed_mut();
        let place = Place { slot, wrap };
        (packed.next, packed.used, packed.told) = (place, place, place);
        // As if all before had been used: of the turn before that, from here on.
        for at in 0..self.size {
            let wrap = wrap ^ (at >= slot);
            let flags = if wrap { DESC_AVAIL | DESC_USED } else { 0 };
            self.write_slot(at, PackedDesc { flags, ..PackedDesc::default() });
        }
    }

    /// Writes descriptor `slot`, whatever it is.
    pub fn write_slot(&self, slot: u16, desc: PackedDesc) {
        let at = self.desc + 16 * u64::from(slot);
        let bytes = desc.bytes();
        self.ram.write(at, &bytes[..14]);
        self.ram.store(at + FLAGS, desc.flags);
    }

    /// Adds descriptors, whatever they are, marked as a driver marks them, without making them available yet.
    pub fn stage_raw(&mut self, descs: &[PackedDesc]) {
        for desc in descs {
            let (place, size) = (self.packed().next, self.size);
            let flags = desc.flags | place.available();
            let at = self.desc + 16 * u64::from(place.slot);
            self.ram.write(at, &desc.bytes()[..14]);
            match &mut self.packed_mut().staged {
                staged @ None => *staged = Some((place.slot, flags)),
                Some(_) => self.ram.store(at + FLAGS, flags),
            }
            self.packed_mut().next = place.after(1, size);
        }
    }

    pub(super) fn take_id(&mut self, id: u16) {
        let free = &mut self.packed_mut().free_ids;
        if free.last() == Some(&id) {
            free.pop();
        }
    }

    pub(super) fn publish_packed(&mut self) {
        if let Some((slot, flags)) = self.packed_mut().staged.take() {
            self.ram.store(self.desc + 16 * u64::from(slot) + FLAGS, flags);
        }
    }

    /// Writes the driver's event suppression: descriptor and wrap counter, flags.
    pub fn set_driver_event(&self, place: u16, flags: u16) {
        self.ram.store(self.avail, place);
        self.ram.store(self.avail + EVENT_FLAGS, flags);
    }

    /// The device's event suppression: descriptor and wrap counter, flags.
    pub fn device_event(&self) -> (u16, u16) {
        (self.ram.load(self.used), self.ram.load(self.used + EVENT_FLAGS))
    }

    /// Writes the device's event suppression.
    pub fn set_device_event(&self, place: u16, flags: u16) {
        self.ram.store(self.used, place);
        self.ram.store(self.used + EVENT_FLAGS, flags);
    }

    pub(super) fn wants_kick_packed(&mut self) -> bool {
        let packed = self.packed_mut();
        let new = packed.next;
        let old = std::mem::replace(&mut packed.told, new);
        let (place, flags) = self.device_event();
        if flags != DESC || !self.event_idx {
            return old != new && flags != DISABLE;
        }
        let event = Place { slot: place & !WRAP, wrap: place & WRAP != 0 };
        let round = 2 * u32::from(self.size);
        let since = |place: Place| (place.linear(self.size) + round - old.linear(self.size)) % round;
        since(event) < since(new)
    }

    pub(super) fn ask_packed(&self, packed: &Packed, interrupts: Interrupts) {
        match interrupts {
            Interrupts::Never => self.set_driver_event(0, DISABLE),
            Interrupts::After(count) if self.event_idx => {
                self.set_driver_event(packed.used.after(count, self.size).bits(), DESC);
            }
            Interrupts::Next | Interrupts::After(_) => self.set_driver_event(0, ENABLE),
        }
    }

    pub(super) fn peek_packed(&self) -> Option<(u16, u32)> {
        if self.batch.is_some() {
            return self.batch;
        }
        let Place { slot, wrap } = self.packed().used;
        let at = self.desc + 16 * u64::from(slot);
        let flags = self.ram.load(at + FLAGS);
        let marks = if wrap { DESC_AVAIL | DESC_USED } else { 0 };
        if self.posted.is_empty() || flags & (DESC_AVAIL | DESC_USED) != marks {
            return None;
        }
        let mut bytes = [0; 6];
        self.ram.read_into(at + 8, &mut bytes);
        let [l0, l1, l2, l3, i0, i1] = bytes;
        // Without the flag the length means nothing.
        let len = if flags & DESC_WRITE == 0 { 0 } else { u32::from_le_bytes([l0, l1, l2, l3]) };
        Some((u16::from_le_bytes([i0, i1]), len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DESC_NEXT, Ram};
    use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED};

    fn driver(size: u16, features: u64) -> Driver {
        Driver::with_features(Ram::shared(0x1000), 0, size, VIRTIO_F_RING_PACKED | features)
    }

    fn flags(driver: &Driver) -> Vec<u16> {
        (0..driver.size).map(|slot| driver.ram.load(16 * u64::from(slot) + 14)).collect()
    }

    /// What a device writes.
    fn used(driver: &Driver, slot: u16, id: u16, len: u32, flags: u16) {
        driver.write_slot(slot, PackedDesc { addr: 0, len, id, flags });
    }

    #[test]
    fn a_chain_is_made_available_by_its_first_descriptor_and_marked_by_the_turn() {
        let mut driver = driver(3, 0);
        assert_eq!(driver.stage(&[(0x1122, 3, false), (0x3344, 4, true)]), 0);
        assert_eq!(flags(&driver), [0, DESC_AVAIL | DESC_WRITE, 0]);
        driver.publish();
        assert_eq!(flags(&driver), [DESC_AVAIL | DESC_NEXT, DESC_AVAIL | DESC_WRITE, 0]);
        assert_eq!(driver.ram.read(16, 14), [0x44, 0x33, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!((driver.room(), driver.next_slot()), (1, (2, true)));
        assert_eq!(driver.take_used(), None);
        used(&driver, 0, 0, 4, 0x8082);
        assert_eq!(driver.take_used(), Some((0, 4)));
        assert_eq!(driver.take_used(), None);
        assert_eq!(driver.collected().to_vring_base(), 0x8002_8002);
        driver.add(&[(0, 1, false), (0, 1, false)]);
        assert_eq!(flags(&driver)[0], DESC_USED, "of the second turn");
        assert_eq!(driver.next_slot(), (1, false));
    }

    #[test]
    fn used_chains_come_in_any_order_and_a_length_counts_where_something_was_written() {
        let mut driver = driver(4, 0);
        let ids = [(); 4].map(|()| driver.add(&[(0, 9, true)]));
        assert_eq!((ids, driver.room()), ([0, 3, 2, 1], 0));
        used(&driver, 0, 2, 7, DESC_AVAIL | DESC_USED);
        used(&driver, 1, 0, 7, DESC_AVAIL | DESC_USED | DESC_WRITE);
        assert_eq!((driver.take_used(), driver.take_used(), driver.take_used()), (Some((2, 0)), Some((0, 7)), None));
        assert_eq!((driver.room(), driver.outstanding()), (2, 2));
        assert_eq!(driver.next_head(), 0);
    }

    #[test]
    fn a_batch_in_order_is_used_by_its_last_chain() {
        let mut driver = driver(5, VIRTIO_F_IN_ORDER);
        let ids =
            [driver.add(&[(0, 9, true)]), driver.add(&[(0, 5, false), (0, 6, true)]), driver.add(&[(0, 7, true)])];
        used(&driver, 0, ids[1], 2, DESC_AVAIL | DESC_USED | DESC_WRITE);
        assert_eq!([(); 3].map(|()| driver.take_used()), [Some((ids[0], 9)), Some((ids[1], 2)), None]);
        used(&driver, 3, ids[2], 1, DESC_AVAIL | DESC_USED | DESC_WRITE);
        assert_eq!(driver.take_used(), Some((ids[2], 1)));
    }

    #[test]
    fn a_driver_kicks_when_it_passes_the_descriptor_it_was_asked_for() {
        let mut driver = driver(3, VIRTIO_F_EVENT_IDX);
        for (event, wanted) in [(WRAP, true), (WRAP, false), (0, false), (0, true), (2, false)] {
            driver.set_device_event(event, DESC);
            let (slot, wrap) = driver.next_slot();
            let id = driver.add(&[(0, 1, false)]);
            assert_eq!(driver.wants_kick(), wanted, "{event:#x} at {slot}");
            used(&driver, slot, id, 0, if wrap { DESC_AVAIL | DESC_USED } else { 0 });
            assert_eq!(driver.take_used(), Some((id, 0)));
        }
        driver.set_device_event(0, DISABLE);
        driver.add(&[(0, 1, false)]);
        assert!(!driver.wants_kick());
        driver.set_device_event(0, ENABLE);
        assert!(!driver.wants_kick(), "nothing is new");
    }

    #[test]
    fn a_driver_asks_for_an_interrupt_after_a_descriptor() {
        let driver = driver(3, VIRTIO_F_EVENT_IDX);
        let asked = |interrupts| {
            driver.ask_for(interrupts);
            (driver.ram.load(driver.avail), driver.ram.load(driver.avail + 2))
        };
        assert_eq!(asked(Interrupts::After(2)), (WRAP | 2, DESC));
        assert_eq!(asked(Interrupts::After(4)), (1, DESC));
        assert_eq!(asked(Interrupts::Never).1, DISABLE);
        assert_eq!(asked(Interrupts::Next).1, ENABLE);
    }
}
