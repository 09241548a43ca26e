//! U1: when an unmap returns, nobody can touch the memory.

use crate::memory::{Private, RW, Window, remote, shared};
use crate::{PAGE, reader};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use virtio_mdev_api::dma::{AddressSpace, Limits, StallHandler};

fn space_with(window: &Arc<Window>) -> Arc<AddressSpace> {
    let space = AddressSpace::new(Limits::default());
    space.map(shared(window, PAGE, PAGE, 0, RW)).unwrap();
    space
}

#[test]
fn u1_unmap_waits_for_a_burst_that_may_use_the_memory() {
    let window = Window::new(0x1000);
    let space = space_with(&window);
    let mut reader = reader(&space);
    let burst = reader.enter();
    let returned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            space.unmap_all();
            returned.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!returned.load(Ordering::SeqCst));
        burst.view().write(PAGE, &[1]).unwrap();
        drop(burst);
    });
    assert!(returned.load(Ordering::SeqCst));
    assert!(window.revoked.lock().is_empty());
}

#[test]
fn u1_unmap_waits_for_a_lease_that_outlives_its_burst() {
    let window = Window::new(0x1000);
    let space = space_with(&window);
    let mut reader = reader(&space);
    let lease = reader.enter().lease();
    let returned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            space.unmap_all();
            returned.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!returned.load(Ordering::SeqCst));
        lease.view().write(PAGE, &[1]).unwrap();
        drop(lease);
    });
    assert!(returned.load(Ordering::SeqCst));
}

#[test]
fn u1_a_lease_is_waited_for_after_its_reader_ended() {
    let window = Window::new(0x1000);
    let space = space_with(&window);
    let mut ended = reader(&space);
    let lease = ended.enter().lease();
    drop(ended);
    std::thread::scope(|scope| {
        let unmap = scope.spawn(|| space.unmap_all());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!unmap.is_finished());
        drop(lease);
    });
}

#[test]
fn unmap_does_not_wait_for_bursts_and_leases_that_began_after_it() {
    let window = Window::new(0x2000);
    let space = space_with(&window);
    space.map(shared(&window, 2 * PAGE, PAGE, 0x1000, RW)).unwrap();
    let mut reader = reader(&space);
    let before = space.generation();
    let waited_for = reader.enter().lease();
    std::thread::scope(|scope| {
        let unmap = scope.spawn(|| space.unmap(PAGE, PAGE));
        while space.generation() == before {
            std::thread::yield_now();
        }
        let lease = reader.enter().lease();
        let burst = reader.enter();
        drop(waited_for);
        assert_eq!(unmap.join().unwrap().regions, 1);
        drop(burst);
        drop(lease);
    });
    assert!(window.revoked.lock().is_empty());
}

#[test]
fn memory_is_released_when_unmap_returns_although_readers_live_on() {
    let window = Window::new(0x1000);
    let space = space_with(&window);
    let mut reader = reader(&space);
    drop(reader.enter());
    space.map(shared(&window, 2 * PAGE, PAGE, 0, RW)).unwrap();
    drop(reader.enter());
    assert!(Arc::strong_count(&window) > 1);
    space.unmap_all();
    assert_eq!(Arc::strong_count(&window), 1);
}

#[derive(Default)]
struct Stalls(Mutex<Vec<String>>);

impl StallHandler for Stalls {
    fn stalled(&self, reader: &str) {
        self.0.lock().push(reader.into());
    }
}

#[test]
fn u1_memory_is_revoked_under_a_burst_that_does_not_end() {
    let window = Window::new(0x4000);
    let client = Private::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.set_patience(Duration::from_millis(50));
    space.map(shared(&window, PAGE, 2 * PAGE, 0x1000, RW)).unwrap();
    space.map(remote(&client, 8 * PAGE, PAGE, RW)).unwrap();
    let stalls = Arc::new(Stalls::default());
    let mut stuck = space.reader("stuck", Arc::clone(&stalls) as Arc<dyn StallHandler>);
    let mut fine = reader(&space);
    drop(fine.enter());
    let burst = stuck.enter();
    let begun = Instant::now();
    assert_eq!(space.unmap_all().regions, 2);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(*window.revoked.lock(), [(0x1000, 0x2000)]);
    assert!(client.revoked.load(Ordering::Relaxed));
    assert!(burst.view().read(8 * PAGE, &mut [0]).is_err());
    assert_eq!(*stalls.0.lock(), ["stuck"]);
}

#[test]
fn u1_memory_is_revoked_under_a_lease_that_does_not_end() {
    let window = Window::new(0x1000);
    let space = space_with(&window);
    space.set_patience(Duration::from_millis(50));
    let stalls = Arc::new(Stalls::default());
    let mut reader = space.reader("async", Arc::clone(&stalls) as Arc<dyn StallHandler>);
    let _lease = reader.enter().lease();
    space.unmap_all();
    assert_eq!(*window.revoked.lock(), [(0, 0x1000)]);
    assert_eq!(*stalls.0.lock(), ["async"]);
}

#[test]
fn a_reader_that_stalled_is_waited_for_once_and_revoked_every_time() {
    let window = Window::new(0x2000);
    let space = space_with(&window);
    space.map(shared(&window, 2 * PAGE, PAGE, 0x1000, RW)).unwrap();
    space.set_patience(Duration::from_secs(1));
    let stalls = Arc::new(Stalls::default());
    let mut stuck = space.reader("stuck", Arc::clone(&stalls) as Arc<dyn StallHandler>);
    let burst = stuck.enter();
    space.unmap(PAGE, PAGE);
    let begun = Instant::now();
    space.unmap(2 * PAGE, 2 * PAGE);
    assert!(begun.elapsed() < Duration::from_millis(900));
    assert_eq!(*window.revoked.lock(), [(0, 0x1000), (0x1000, 0x1000)]);
    assert_eq!(stalls.0.lock().len(), 1);
    // Once it has left, it is a reader like any other.
    drop(burst);
    space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
    space.unmap_all();
    assert_eq!(window.revoked.lock().len(), 2);
}

#[test]
fn a_stall_handler_may_change_the_space() {
    let window = Window::new(0x1000);
    let space = space_with(&window);
    space.map(shared(&window, 2 * PAGE, PAGE, 0, RW)).unwrap();
    space.set_patience(Duration::from_millis(10));
    let inner = Arc::clone(&space);
    let mut stuck = space.reader("stuck", Arc::new(move |_: &str| assert_eq!(inner.unmap_all().regions, 1)));
    let _burst = stuck.enter();
    space.unmap(PAGE, PAGE);
    assert!(space.regions().is_empty());
}

/// Readers never see a page of the wrong generation, and memory is never unmapped under them, while a thread maps and
/// unmaps as fast as it can. The window counts as gone when the unmap returned: whoever still writes to it is caught.
#[test]
fn readers_never_touch_a_window_after_its_unmap_returned() {
    let space = AddressSpace::new(Limits::default());
    let stop = AtomicBool::new(false);
    let hits = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = reader(&space);
                while !stop.load(Ordering::Relaxed) {
                    let burst = reader.enter();
                    let memory = burst.view();
                    for _ in 0..4 {
                        if memory.write(PAGE, &[1; 64]).is_ok() {
                            hits.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500) || hits.load(Ordering::Relaxed) == 0 {
            let window = Window::new(0x1000);
            space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
            std::thread::yield_now();
            space.unmap_all();
            let gone = window.bytes::<64>(0);
            window.clear::<64>();
            std::thread::yield_now();
            assert!(gone == [0; 64] || gone == [1; 64], "a write was cut in two");
            assert_eq!(window.bytes::<64>(0), [0; 64], "written after the unmap returned");
            assert_eq!(Arc::strong_count(&window), 1);
            assert!(begun.elapsed() < Duration::from_secs(20), "no reader ever found the page");
        }
        stop.store(true, Ordering::Relaxed);
    });
}
