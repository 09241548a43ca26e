//! Memory that is not there yet, and memory that is taken away and given back.

use crate::rig::{DATA, MEMORY, Rig, echo};
use parking_lot::Mutex;
use std::sync::Arc;
use virtio_mdev_api::QueueState;
use virtio_mdev_api::dma::{AddressSpace, Limits, MissHandler, Permissions, Subscriber};
use virtqueue::testing::Ram;

#[derive(Default)]
struct Asked(Mutex<Vec<u64>>);

impl MissHandler for Asked {
    fn miss(&self, iova: u64, _access: Permissions) -> bool {
        self.0.lock().push(iova);
        true
    }
}

#[test]
fn a_queue_waits_for_each_piece_of_memory_without_consuming_the_chain() {
    let ram = Ram::shared(MEMORY);
    let asked = Arc::new(Asked::default());
    let space = AddressSpace::with_miss_handler(Limits::default(), Arc::clone(&asked) as Arc<dyn MissHandler>);
    let mut rig = Rig::unstarted(&ram, Arc::clone(&space), 0);
    rig.start().unwrap();
    rig.driver.ram.write(DATA, b"late");
    rig.driver.add(&[(DATA, 4, false), (DATA + 0x1000, 4, true)]);
    for page in [0x1000, DATA, DATA + 0x1000] {
        rig.serve();
        let queue = rig.queue.as_ref().unwrap();
        assert!(queue.is_parked());
        assert_eq!(queue.state(), QueueState::Split { avail: 0 });
        assert_eq!(asked.0.lock().pop().map(|iova| iova & !0xfff), Some(page));
        rig.serve();
        assert_eq!(asked.0.lock().len(), 0, "asked again without need");
        assert_eq!(rig.waker.fd().drain(), Ok(None));
        space.map(ram.region(page, usize::try_from(page).unwrap(), 0x1000)).unwrap();
        assert_eq!(rig.waker.fd().drain(), Ok(Some(1)), "not woken by {page:#x}");
    }
    rig.serve();
    assert_eq!(rig.driver.take_used(), Some((0, 4)));
    assert_eq!(ram.read(DATA + 0x1000, 4), b"late");
    assert!(!rig.link.needs_reset());
}

#[test]
fn a_queue_that_is_woken_by_a_change_it_has_seen_is_woken_by_the_next() {
    let ram = Ram::shared(MEMORY);
    let space = AddressSpace::with_miss_handler(Limits::default(), Arc::new(Asked::default()));
    let mut rig = Rig::unstarted(&ram, Arc::clone(&space), 0);
    rig.start().unwrap();
    rig.serve();
    assert!(rig.queue.as_ref().unwrap().is_parked());
    // A version can be seen before all are told of it.
    rig.waker.published(space.generation());
    assert_eq!(rig.waker.fd().drain(), Ok(Some(1)));
    rig.serve();
    assert!(rig.queue.as_ref().unwrap().is_parked());
    space.map(ram.region(0, 0, MEMORY)).unwrap();
    assert_eq!(rig.waker.fd().drain(), Ok(Some(1)));
    rig.exchange(b"after");
}

#[test]
fn a_ring_that_is_unmapped_while_it_runs_is_waited_for() {
    let mut rig = Rig::new(0);
    rig.exchange(b"before");
    rig.space.unmap_all();
    rig.driver.add(&[(DATA, 4, false)]);
    rig.serve();
    assert!(rig.queue.as_ref().unwrap().is_parked());
    assert!(!rig.link.needs_reset(), "{:?}", rig.link.last_fault());
    rig.space.map(rig.driver.ram.region(0, 0, MEMORY)).unwrap();
    assert_eq!(rig.waker.fd().drain(), Ok(Some(1)));
    rig.serve();
    assert_eq!(rig.driver.used_idx(), 2);
}

#[test]
fn a_buffer_that_is_mapped_and_offered_during_a_burst_is_served_by_the_next_one() {
    const NEW: u64 = 0x100_0000;
    let mut rig = Rig::new(0);
    rig.exchange(b"before");
    let (mut driver, space) = (rig.driver.clone(), Arc::clone(&rig.space));
    let _ = rig.queue.as_mut().unwrap().burst(|io| {
        driver.ram.write(DATA, b"anew");
        space.map(driver.ram.region(NEW, usize::try_from(DATA).unwrap(), 0x2000)).unwrap();
        driver.add(&[(NEW, 4, false), (NEW + 0x1000, 4, true)]);
        echo(io)
    });
    assert!(!rig.link.needs_reset(), "{:?}", rig.link.last_fault());
    rig.serve();
    assert_eq!(rig.driver.used_idx(), 2);
    assert_eq!(rig.driver.ram.read(DATA + 0x1000, 4), b"anew");
}
