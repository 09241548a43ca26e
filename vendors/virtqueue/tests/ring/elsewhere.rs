//! A ring in an address space of its own: the same addresses mean other memory there.

use crate::rig::{DATA, INDIRECT, MEMORY, Rig, SIZE};
use std::sync::Arc;
use virtio_mdev_api::QueueStart;
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtqueue::testing::{DESC_INDIRECT, DESC_WRITE, Desc, Driver, Ram, map};
use virtqueue::{Queue, RingError};

/// A device that echoes, with its buffers in one memory and its ring in another.
struct Apart {
    /// Its driver has a ring in the memory of the buffers that must never be used.
    rig: Rig,
    driver: Driver,
    rings: Arc<AddressSpace>,
}

impl Apart {
    fn new(features: u64) -> Self {
        let mut rig = Rig::new(features);
        let ram = Ram::shared(MEMORY);
        let rings = AddressSpace::new(Limits::default());
        map(&rings, &ram);
        let driver = Driver::new(&ram, 0x1000, SIZE);
        let start = QueueStart { ring_asid: 1, ring_space: Arc::clone(&rings), ..rig.queue_start(0) };
        rig.queue = Some(Queue::start(3, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker)).unwrap());
        Self { rig, driver, rings }
    }

    fn buffers(&self) -> &Ram {
        &self.rig.driver.ram
    }

    /// Sends `text` from `DATA` and expects it at `to`.
    fn exchange(&mut self, to: u64, text: &[u8]) {
        let len = u32::try_from(text.len()).unwrap();
        self.buffers().write(DATA, text);
        let head = self.driver.add(&[(DATA, len, false), (to, len, true)]);
        self.rig.serve();
        assert_eq!(self.driver.take_used(), Some((head, len)), "{:?}", self.rig.link.last_fault());
        assert_eq!(self.buffers().read(to, text.len()), text);
    }
}

#[test]
fn ring_and_buffers_are_each_in_their_own_memory() {
    let mut apart = Apart::new(0);
    for round in 0..3 * SIZE {
        apart.exchange(DATA + 0x1000, format!("round {round}").as_bytes());
    }
    assert_eq!(apart.rig.driver.used_idx(), 0, "what has the ring's addresses elsewhere is no ring");
    assert_eq!(apart.driver.ram.read(DATA, 0x2000), [0; 0x2000], "nor are there buffers in the memory of the ring");
}

#[test]
fn a_buffer_at_the_addresses_of_the_ring_does_not_overlap_it() {
    let mut apart = Apart::new(0);
    let at = apart.driver.used;
    apart.exchange(at, b"not a ring");
}

#[test]
fn an_indirect_table_is_where_the_buffers_are() {
    let mut apart = Apart::new(INDIRECT);
    let table = 0x10000;
    let entry = Desc { addr: DATA, len: 4, flags: DESC_WRITE, next: 0 };
    apart.buffers().write(table, &entry.bytes());
    apart.driver.set_desc(0, Desc { addr: table, len: 16, flags: DESC_INDIRECT, next: 0 });
    apart.driver.push(0);
    apart.driver.publish();
    apart.rig.serve();
    assert_eq!(apart.driver.take_used(), Some((0, 0)));
}

#[test]
fn a_ring_that_is_unmapped_while_it_runs_is_waited_for_where_it_is() {
    let mut apart = Apart::new(0);
    apart.exchange(DATA + 0x1000, b"before");
    apart.rings.unmap_all();
    apart.driver.add(&[(DATA, 4, false)]);
    apart.rig.serve();
    assert!(apart.rig.queue.as_ref().unwrap().is_parked());
    apart.rings.map(apart.driver.ram.region(0, 0, MEMORY)).unwrap();
    assert_eq!(apart.rig.waker.fd().drain(), Ok(Some(1)));
    assert!(!apart.rig.queue.as_ref().unwrap().is_parked());
    apart.rig.serve();
    assert_eq!(apart.driver.used_idx(), 2);
    assert!(!apart.rig.link.needs_reset(), "{:?}", apart.rig.link.last_fault());
}

#[test]
fn a_buffer_that_only_the_ring_s_memory_has_is_a_fault() {
    let mut apart = Apart::new(0);
    apart.rig.space.unmap_all();
    apart.driver.add(&[(DATA, 4, false)]);
    apart.rig.serve();
    assert!(apart.rig.link.last_fault().unwrap().contains("buffer"), "{:?}", apart.rig.link.last_fault());
}

#[test]
fn what_is_written_to_a_ring_elsewhere_is_not_reported_as_written_here() {
    let mut apart = Apart::new(0);
    let written = apart.rig.track();
    apart.exchange(DATA + 0x1000, b"dirty");
    assert_eq!(written.take(), [(DATA + 0x1000) >> 12]);
}

#[test]
fn a_ring_that_is_not_mapped_in_its_own_memory_is_a_fault() {
    let mut rig = Rig::new(0);
    let start = QueueStart { ring_space: AddressSpace::new(Limits::default()), ..rig.queue_start(0) };
    let queue: Result<Queue, RingError> = Queue::start(3, start, 1024, rig.health.clone(), rig.waker.clone());
    rig.queue = Some(queue.unwrap());
    rig.driver.add(&[(DATA, 4, false)]);
    rig.serve();
    assert!(rig.link.last_fault().unwrap().contains("descriptor table"), "{:?}", rig.link.last_fault());
}
