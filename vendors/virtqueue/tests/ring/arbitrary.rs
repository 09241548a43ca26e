//! Whatever is in a ring, the device neither panics nor writes where it may not.

use crate::rig::{EVENT_IDX, INDIRECT, PACKED, Rig, SIZE};
use proptest::prelude::*;
use std::sync::Arc;
use virtio_mdev_api::dma::{AddressSpace, Limits, Permissions, Region};
use virtio_mdev_api::features::VIRTIO_F_IN_ORDER;
use virtqueue::testing::{DESC_AVAIL, DESC_USED, Desc, PackedDesc, Ram};

const PAGE: usize = 0x1000;
/// Mapped: 0x1000..0x5000 at the same address, the last page of it read-only. Around it the memory goes on.
const MEMORY: usize = 0x8000;

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0x1000u64..0x5000, 2 => 0u64..0x8000, 1 => any::<u64>(), 1 => (u64::MAX - 64)..=u64::MAX]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0u32..64, 3 => 0u32..0x4000, 1 => any::<u32>()]
}

fn flags() -> impl Strategy<Value = u16> {
    prop_oneof![9 => 0u16..8, 1 => any::<u16>()]
}

fn index() -> impl Strategy<Value = u16> {
    prop_oneof![9 => 0..SIZE, 1 => any::<u16>()]
}

fn descriptors() -> impl Strategy<Value = Vec<Desc>> {
    let desc = (address(), length(), flags(), index());
    prop::collection::vec(desc.prop_map(|(addr, len, flags, next)| Desc { addr, len, flags, next }), 16)
}

/// The device does what it can with the ring, writes nothing outside of what it may, and works after a reset.
fn serve_whatever_it_is(rig: &mut Rig, ram: &Ram) -> Result<(), TestCaseError> {
    rig.start().unwrap();
    rig.serve();
    rig.serve();
    prop_assert_eq!(ram.read(0, PAGE), vec![0xa5; PAGE]);
    prop_assert_eq!(ram.read(0x4000, 4 * PAGE), vec![0xa5; 4 * PAGE]);
    rig.reset();
    rig.exchange_at(0x2000, b"after the reset");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_ring_makes_the_device_panic_or_write_outside(
        table in descriptors(),
        heads in prop::collection::vec(index(), usize::from(SIZE)),
        avail in prop_oneof![9 => 0..=SIZE, 1 => any::<u16>()],
        event in any::<u16>(),
        features in prop::sample::select(vec![0, INDIRECT, EVENT_IDX, INDIRECT | EVENT_IDX]),
        private in any::<bool>(),
    ) {
        let ram = if private { Ram::private(MEMORY) } else { Ram::shared(MEMORY) };
        ram.write(0, &[0xa5; MEMORY]);
        let space = AddressSpace::new(Limits::default());
        space.map(ram.region(0x1000, PAGE, 3 * PAGE)).unwrap();
        let read_only = Region { permissions: Permissions::READ, ..ram.region(0x4000, 4 * PAGE, PAGE) };
        space.map(read_only).unwrap();
        let mut rig = Rig::unstarted(&ram, Arc::clone(&space), features);
        rig.driver.reset();
        for (n, desc) in table.iter().enumerate() {
            // The second half is an indirect table for those that point there.
            let at = if n < usize::from(SIZE) { rig.driver.desc } else { 0x2000 - 16 * u64::from(SIZE) };
            ram.write(at + 16 * n as u64, &desc.bytes());
        }
        heads.iter().for_each(|head| rig.driver.push(*head));
        rig.driver.set_used_event(event);
        rig.driver.set_avail_idx(avail);
        serve_whatever_it_is(&mut rig, &ram)?;
    }

    #[test]
    fn no_packed_ring_makes_the_device_panic_or_write_outside(
        table in descriptors(),
        marks in prop::collection::vec(prop_oneof![6 => Just(DESC_AVAIL), 1 => Just(DESC_USED), 1 => Just(0)], 16),
        events in any::<(u16, u16, u16, u16)>(),
        features in prop::sample::select(vec![0, INDIRECT, EVENT_IDX, INDIRECT | EVENT_IDX, VIRTIO_F_IN_ORDER]),
        private in any::<bool>(),
    ) {
        let ram = if private { Ram::private(MEMORY) } else { Ram::shared(MEMORY) };
        ram.write(0, &[0xa5; MEMORY]);
        let space = AddressSpace::new(Limits::default());
        space.map(ram.region(0x1000, PAGE, 3 * PAGE)).unwrap();
        let read_only = Region { permissions: Permissions::READ, ..ram.region(0x4000, 4 * PAGE, PAGE) };
        space.map(read_only).unwrap();
        let mut rig = Rig::unstarted(&ram, Arc::clone(&space), PACKED | features);
        rig.driver.reset();
        for (n, (desc, mark)) in table.iter().zip(marks).enumerate() {
            let at = if n < usize::from(SIZE) { rig.driver.desc } else { 0x2000 - 16 * u64::from(SIZE) };
            let &Desc { addr, len, flags, next } = desc;
            // Most descriptors are available.
            let desc = PackedDesc { addr, len, id: next, flags: flags & !(DESC_AVAIL | DESC_USED) | mark };
            ram.write(at + 16 * n as u64, &desc.bytes());
        }
        rig.driver.set_driver_event(events.0, events.1);
        rig.driver.set_device_event(events.2, events.3);
        serve_whatever_it_is(&mut rig, &ram)?;
    }

    #[test]
    fn no_bytes_at_all_make_the_device_panic(
        bytes in prop::collection::vec(any::<u8>(), 256),
        idx in 0u16..=SIZE,
        packed in any::<bool>(),
    ) {
        let mut rig = Rig::new(INDIRECT | if packed { PACKED } else { 0 });
        rig.driver.ram.write(rig.driver.desc, &bytes);
        if !packed {
            rig.driver.ram.store(rig.driver.used + 2, 0);
            rig.driver.set_avail_idx(idx);
        }
        rig.serve();
        rig.reset();
        rig.exchange(b"after the reset");
    }
}
