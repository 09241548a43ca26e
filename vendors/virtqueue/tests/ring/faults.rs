//! What a hostile driver does to a ring of either format ends in DEVICE_NEEDS_RESET of its own device, or does nothing at
//! all. Every test ends with a reset that brings the device back.

use crate::rig::{DATA, EVENT_IDX, INDIRECT, MEMORY, PACKED, Rig, SIZE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::{QueueConfig, QueueStart};
use virtqueue::testing::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, PackedDesc, Ram};
use virtqueue::{Queue, RingError};

const TABLE: u64 = 0x10000;
const FORMATS: [u64; 2] = [0, PACKED];

/// Address, length, flags.
type Buffer = (u64, u32, u16);

/// Makes one chain of these available, each linked to the next.
fn offer(rig: &mut Rig, chain: &[Buffer]) {
    let more = |n: usize| if n + 1 < chain.len() { DESC_NEXT } else { 0 };
    let linked = chain.iter().enumerate().map(|(n, &(addr, len, flags))| (addr, len, flags | more(n)));
    if rig.driver.is_packed() {
        let descs: Vec<_> = linked.map(|(addr, len, flags)| PackedDesc { addr, len, id: 0, flags }).collect();
        rig.driver.stage_raw(&descs);
    } else {
        for (index, (addr, len, flags)) in (0..).zip(linked) {
            rig.driver.set_desc(index, Desc { addr, len, flags, next: index + 1 });
        }
        rig.driver.push(0);
    }
    rig.driver.publish();
}

/// Puts a table of these into memory; what leads to it.
fn table(rig: &Rig, entries: &[Buffer]) -> Buffer {
    let last = entries.len() - 1;
    for (n, &(addr, len, flags)) in entries.iter().enumerate() {
        let bytes = if rig.driver.is_packed() {
            PackedDesc { addr, len, id: 0, flags }.bytes()
        } else {
            let more = if n < last { DESC_NEXT } else { 0 };
            Desc { addr, len, flags: flags | more, next: u16::try_from(n + 1).unwrap() }.bytes()
        };
        rig.driver.ram.write(TABLE + 16 * n as u64, &bytes);
    }
    (TABLE, u32::try_from(16 * entries.len()).unwrap(), DESC_INDIRECT)
}

/// In both formats, a chain of these stops the device for this reason.
fn stops(features: u64, chain: &[Buffer], reason: &str) {
    for format in FORMATS {
        let mut rig = Rig::new(format | features);
        offer(&mut rig, chain);
        rig.expect_fault(reason);
    }
}

/// The same of a table of these.
fn table_stops(entries: &[Buffer], reason: &str) {
    for format in FORMATS {
        let mut rig = Rig::new(format | INDIRECT);
        let leads_there = table(&rig, entries);
        offer(&mut rig, &[leads_there]);
        rig.expect_fault(reason);
    }
}

#[test]
fn f06_a_chain_longer_than_the_ring_stops_the_device() {
    for format in FORMATS {
        let mut rig = Rig::new(format | INDIRECT);
        let whole = table(&rig, &[(DATA, 1, 0); SIZE as usize]);
        offer(&mut rig, &[whole]);
        rig.serve();
        assert_eq!(rig.driver.take_used().is_some(), !rig.driver.is_packed(), "it has no id of its own");
        assert!(!rig.link.needs_reset());
    }
    table_stops(&[(DATA, 1, 0); SIZE as usize + 1], "more than 8 descriptors");
}

#[test]
fn f07_an_indirect_table_in_an_indirect_table_stops_the_device() {
    table_stops(&[(TABLE, 16, DESC_INDIRECT)], "inside the indirect table");
}

#[test]
fn f08_an_indirect_descriptor_with_a_next_stops_the_device() {
    stops(INDIRECT, &[(TABLE, 16, DESC_INDIRECT), (DATA, 4, 0)], "is indirect and has a next one");
}

#[test]
fn f08_an_indirect_descriptor_that_was_not_negotiated_stops_the_device() {
    stops(0, &[(TABLE, 16, DESC_INDIRECT)], "was not negotiated");
}

#[test]
fn f09_an_indirect_table_of_no_possible_length_stops_the_device() {
    for len in [0, 15, 17, 16 * 65_536, u32::MAX] {
        stops(INDIRECT, &[(TABLE, len, DESC_INDIRECT)], &format!("indirect table of {len} bytes"));
    }
}

#[test]
fn f10_an_indirect_table_that_crosses_into_unmapped_memory_stops_the_device() {
    // Its first entry is mapped.
    stops(INDIRECT, &[(MEMORY as u64 - 16, 32, DESC_INDIRECT)], "indirect table: no mapping at 0x20000");
}

#[test]
fn f11_an_empty_buffer_stops_the_device() {
    stops(0, &[(DATA, 0, 0)], "empty buffer in chain 0");
    table_stops(&[(DATA, 4, 0), (DATA, 0, DESC_WRITE)], "empty buffer in chain 0");
}

#[test]
fn f12_a_buffer_that_wraps_stops_the_device() {
    stops(0, &[(u64::MAX - 3, 5, DESC_WRITE)], "wraps around");
    table_stops(&[(u64::MAX - 3, 5, 0)], "wraps around");
}

#[test]
fn f12_a_buffer_that_is_not_mapped_stops_the_device() {
    for flags in [0, DESC_WRITE] {
        stops(0, &[(DATA, 8, 0), (MEMORY as u64 - 4, 8, flags)], "buffer: no mapping at 0x20000");
    }
}

#[test]
fn f13_a_chain_of_more_than_4_gib_stops_the_device() {
    stops(0, &[(DATA, u32::MAX, 0), (DATA, 2, 0)], "more than 4 GiB");
    table_stops(&[(DATA, u32::MAX, 0), (DATA, 2, 0)], "more than 4 GiB");
}

#[test]
fn f14_a_readable_buffer_after_a_writable_one_stops_the_device() {
    stops(0, &[(DATA, 4, DESC_WRITE), (DATA, 4, 0)], "readable buffer after a writable one");
    table_stops(&[(DATA, 4, DESC_WRITE), (DATA, 4, 0)], "readable buffer after a writable one");
}

#[test]
fn f15_a_device_can_refuse_a_chain_of_the_wrong_direction() {
    for format in FORMATS {
        let mut rig = Rig::new(format);
        offer(&mut rig, &[(DATA, 4, DESC_WRITE)]);
        let _ = rig.queue.as_mut().unwrap().burst(|io| {
            let chain = io.take()?.unwrap();
            assert_eq!((chain.readable, chain.writable), (0, 4));
            Err::<(), _>(io.refuse(&chain, "nothing to read"))
        });
        rig.expect_fault("chain 0: nothing to read");
    }
}

#[test]
fn f16_a_writable_buffer_over_the_ring_stops_the_device() {
    for format in FORMATS {
        for area in 0..3 {
            let mut rig = Rig::new(format);
            let areas = [rig.driver.desc, rig.driver.avail, rig.driver.used];
            let last_byte = areas[area] + rig.driver.area_lens()[area] - 1;
            offer(&mut rig, &[(last_byte, 1, DESC_WRITE)]);
            rig.expect_fault("of its own queue");
        }
    }
}

#[test]
fn f16_a_readable_buffer_over_the_ring_is_a_copy_like_any_other() {
    for format in FORMATS {
        let mut rig = Rig::new(format);
        // The address of the second one is in the bytes that are sent.
        let id = rig.driver.add(&[(rig.driver.desc + 16, 8, false), (DATA, 8, true)]);
        rig.serve();
        assert_eq!(rig.driver.take_used(), Some((id, 8)));
        assert_eq!(rig.driver.ram.read(DATA, 8), DATA.to_le_bytes());
    }
}

#[test]
fn f17_a_misaligned_or_wrapping_area_is_no_ring() {
    for format in FORMATS {
        let good = Rig::new(format).driver.config();
        let refused = |config: QueueConfig| {
            let mut other = Rig::new(format);
            let start = QueueStart { config, ..other.queue_start(0) };
            let error = Queue::start(0, start, 1024, Arc::clone(&other.health), Arc::clone(&other.waker));
            other.exchange(b"unharmed");
            error.unwrap_err()
        };
        for config in [
            QueueConfig { desc: good.desc + 8, ..good },
            QueueConfig { driver: good.driver + 1, ..good },
            QueueConfig { device: good.device + 2, ..good },
        ] {
            assert!(matches!(refused(config), RingError::Misaligned { .. }), "{config:?}");
        }
        // An area of events has four bytes: aligned, it never wraps.
        let wrapping = [
            QueueConfig { desc: 0u64.wrapping_sub(64), ..good },
            QueueConfig { driver: 0u64.wrapping_sub(4), ..good },
            QueueConfig { device: 0u64.wrapping_sub(8), ..good },
        ];
        for config in &wrapping[..if format == PACKED { 1 } else { 3 }] {
            assert!(matches!(refused(*config), RingError::Wraps { .. }), "{config:?}");
        }
    }
}

#[test]
fn f17_a_half_mapped_ring_stops_the_device() {
    for (format, words) in [(0, "used ring: no mapping"), (PACKED, "device event suppression: no mapping")] {
        let ram = Ram::shared(MEMORY);
        let space = AddressSpace::new(Limits::NONE);
        let mut rig = Rig::unstarted(&ram, Arc::clone(&space), format);
        let half = usize::try_from(rig.driver.used).unwrap() + 2;
        space.map(ram.region(0, 0, half)).unwrap();
        rig.start().unwrap();
        rig.driver.add(&[(DATA, 4, false)]);
        rig.serve();
        assert!(rig.link.last_fault().unwrap().contains(words), "{:?}", rig.link.last_fault());
        space.map(ram.region(half as u64, half, MEMORY - half)).unwrap();
        rig.reset();
        rig.exchange(b"after the reset");
    }
}

#[test]
fn a_ring_that_lies_in_two_mappings_works() {
    for format in FORMATS {
        let ram = Ram::shared(MEMORY);
        for area in 0..3 {
            let space = AddressSpace::new(Limits::NONE);
            let mut rig = Rig::unstarted(&ram, Arc::clone(&space), format | EVENT_IDX);
            rig.driver.reset();
            let begins = [rig.driver.desc, rig.driver.avail, rig.driver.used][area];
            // No mapping begins within what is read at once.
            let half = usize::try_from(begins + rig.driver.area_lens()[area] / 2).unwrap() & !15;
            space.map(ram.region(0, 0, half)).unwrap();
            space.map(ram.region(half as u64, half, MEMORY - half)).unwrap();
            rig.start().unwrap();
            (0..20).for_each(|_| rig.exchange(b"over the border"));
        }
    }
}

#[test]
fn f19_a_descriptor_that_changes_all_the_time_is_used_as_it_was_read() {
    for format in FORMATS {
        let mut rig = Rig::new(format);
        let stop = Arc::new(AtomicBool::new(false));
        // The buffer that is read: where it is, and in the last mapped bytes and beyond.
        let flipper = {
            let (driver, stop) = (rig.driver.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for (addr, slot) in
                        [MEMORY as u64 - 8, DATA].into_iter().flat_map(|addr| [0, 2, 4, 6].map(|n| (addr, n)))
                    {
                        driver.ram.write(driver.desc + 16 * slot, &addr.to_le_bytes());
                    }
                }
            })
        };
        let (mut fine, mut faults) = (0, 0);
        let begun = Instant::now();
        while (fine < 100 || faults < 100) && begun.elapsed() < Duration::from_secs(20) {
            let id = rig.driver.add(&[(DATA, 16, false), (DATA + 0x1000, 16, true)]);
            rig.serve();
            match rig.driver.take_used() {
                // What was used was read once: all that the good one has.
                Some(used) => {
                    assert_eq!(used, (id, 16));
                    fine += 1;
                }
                None => {
                    assert!(rig.health.is_stopped());
                    rig.reset();
                    faults += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        flipper.join().unwrap();
        assert!(fine >= 100 && faults >= 100, "{fine} fine, {faults} faults");
        rig.reset();
        rig.exchange(b"after the reset");
    }
}

#[test]
fn f33_a_ring_whose_memory_was_taken_away_stops_the_device() {
    for format in FORMATS {
        let mut rig = Rig::new(format);
        rig.exchange(b"before");
        let Ram::Shared(window) = rig.driver.ram.clone() else { unreachable!() };
        window.faults.store(1, Ordering::Relaxed);
        rig.serve();
        assert!(rig.link.needs_reset());
        window.faults.store(0, Ordering::Relaxed);
        rig.reset();
        rig.exchange(b"after the reset");
    }
}
