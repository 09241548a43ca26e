//! The thread of a device.

use crate::rig::{DATA, MEMORY, Rig, echo};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_mdev_api::QueueState;
use virtio_mdev_api::doorbell::Doorbells;
use virtio_mdev_api::notify::EventFd;
use virtqueue::testing::Ram;
use virtqueue::{Next, Pool, PoolOptions, Service, Slot, Task, WorkerError};

pub struct Echo(pub Arc<Slot>);

impl Service for Echo {
    fn slots(&self) -> Vec<Arc<Slot>> {
        vec![Arc::clone(&self.0)]
    }

    fn serve(&mut self) -> Next {
        self.0.work(|queue| {
            let Some(queue) = queue else { return Next::Wait };
            let served = queue.burst(|io| {
                let Some(chain) = io.take()? else { return Ok(Next::Wait) };
                io.disable_notifications()?;
                io.rewind();
                debug_assert!(chain.writable <= u64::from(u32::MAX));
                echo(io)?;
                Ok(Next::Again)
            });
            served.unwrap_or(Next::Wait)
        })
    }

    fn rest(&mut self) -> Next {
        let ask = |queue: &mut virtqueue::Queue| queue.burst(|io| io.enable_notifications());
        if self.0.work(|queue| queue.map(ask)) == Some(Ok(true)) { Next::Again } else { Next::Wait }
    }
}

fn task(rig: &Rig) -> Task<Echo> {
    Task::new(
        Echo(Slot::new()),
        Arc::clone(&rig.waker),
        Arc::clone(&rig.health),
        Pool::new("rig", PoolOptions::default()),
    )
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(5), "{what} did not happen");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The rig's queue with a kick, on a thread.
fn start(rig: &mut Rig, avail: u16) -> (Task<Echo>, EventFd) {
    let (mut worker, kick) = (task(rig), EventFd::new().unwrap());
    let start = virtio_mdev_api::QueueStart { kick: Some(kick.clone()), ..rig.queue_start(avail) };
    let queue = virtqueue::Queue::start(3, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker)).unwrap();
    worker.start_queue(0, queue).unwrap();
    (worker, kick)
}

#[test]
fn a_kick_is_served_and_a_stop_says_where_the_queue_stood() {
    let mut rig = Rig::new(0);
    let (mut worker, kick) = start(&mut rig, 0);
    for n in 1..=100 {
        rig.driver.add(&[(DATA, 1, false)]);
        kick.signal().unwrap();
        wait_for("the echo", || rig.driver.used_idx() == n);
    }
    assert_eq!(worker.stop_queue(0), Ok(Some(QueueState::Split { avail: 100 })));
    assert_eq!(worker.stop_queue(0), Ok(None));
    worker.end().unwrap();
}

/// A driver that tells the device only when it is asked to, for 20,000 chains with each way of asking; `start` says how it tells.
fn is_never_forgotten<T: FnMut()>(start: impl Fn(&mut Rig) -> (Task<Echo>, T)) {
    for features in [0, crate::rig::EVENT_IDX] {
        let mut rig = Rig::new(features);
        let (mut worker, mut tell) = start(&mut rig);
        let mut told = 0;
        for n in 1..=20_000u16 {
            let old = rig.driver.next_avail();
            rig.driver.add(&[(DATA, 1, false)]);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            let asked = if features == 0 {
                rig.driver.used_flags() & 1 == 0
            } else {
                n.wrapping_sub(rig.driver.avail_event()).wrapping_sub(1) < n.wrapping_sub(old)
            };
            if asked {
                told += 1;
                tell();
            }
            while rig.driver.outstanding() == rig.driver.size {
                if rig.driver.take_used().is_none() {
                    std::thread::yield_now();
                }
            }
            while rig.driver.take_used().is_some() {}
        }
        wait_for("the last chain", || rig.driver.used_idx() == 20_000);
        assert!(told < 20_001, "{told}");
        worker.end().unwrap();
    }
}

#[test]
fn a_driver_that_kicks_only_when_asked_is_never_forgotten() {
    is_never_forgotten(|rig| {
        let (worker, kick) = start(rig, 0);
        (worker, move || kick.signal().unwrap())
    });
}

/// The rig's queue with a doorbell and no kick, on a thread.
fn start_with_doorbell(rig: &mut Rig) -> (Task<Echo>, Arc<Doorbells>) {
    let (mut worker, doorbells) = (task(rig), Doorbells::new(4).unwrap());
    let start = virtio_mdev_api::QueueStart { doorbell: doorbells.of_queue(3), ..rig.queue_start(0) };
    let queue = virtqueue::Queue::start(3, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker)).unwrap();
    worker.start_queue(0, queue).unwrap();
    (worker, doorbells)
}

/// What a driver does that has the page mapped: it stores the number of the queue.
fn ring(doorbells: &Doorbells) {
    doorbells.file().write_all_at(&3u16.to_le_bytes(), 3 * 4096).unwrap();
}

#[test]
fn a_driver_that_rings_by_a_store_when_asked_is_never_forgotten() {
    is_never_forgotten(|rig| {
        let (worker, doorbells) = start_with_doorbell(rig);
        (worker, move || ring(&doorbells))
    });
}

#[test]
fn a_ring_after_a_rest_is_found_and_a_rest_costs_little() {
    let mut rig = Rig::new(0);
    let (mut worker, doorbells) = start_with_doorbell(&mut rig);
    std::thread::sleep(Duration::from_millis(50));
    let before = cpu_time("rig/0");
    std::thread::sleep(Duration::from_millis(500));
    let spent = cpu_time("rig/0") - before;
    assert!(spent < Duration::from_millis(50), "{spent:?} of processor time");
    rig.driver.add(&[(DATA, 1, false)]);
    ring(&doorbells);
    wait_for("the echo", || rig.driver.used_idx() == 1);
    assert_eq!(worker.stop_queue(0), Ok(Some(QueueState::Split { avail: 1 })));
    worker.end().unwrap();
}

#[test]
fn a_queue_with_a_doorbell_is_kicked_as_ever() {
    let mut rig = Rig::new(0);
    let (mut worker, _doorbells) = start_with_doorbell(&mut rig);
    let kick = EventFd::new().unwrap();
    worker.set_kick(0, Some(kick.clone()));
    for n in 1..=100 {
        rig.driver.add(&[(DATA, 1, false)]);
        kick.signal().unwrap();
        wait_for("the echo", || rig.driver.used_idx() == n);
    }
    worker.end().unwrap();
}

#[test]
fn a_device_that_needs_a_reset_is_rung_in_vain_and_at_no_cost() {
    let mut rig = Rig::new(0);
    let (mut worker, doorbells) = start_with_doorbell(&mut rig);
    rig.driver.add(&[(DATA, 1, false)]);
    ring(&doorbells);
    wait_for("the echo", || rig.driver.used_idx() == 1);
    rig.health.fault(None, "another queue");
    std::thread::sleep(Duration::from_millis(50));
    let before = cpu_time("rig/0");
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        ring(&doorbells);
    }
    let spent = cpu_time("rig/0") - before;
    assert!(spent < Duration::from_millis(20), "{spent:?} of processor time");
    worker.end().unwrap();
}

#[test]
fn a_replaced_kick_is_looked_at_once_and_then_waited_for() {
    let mut rig = Rig::new(0);
    let (mut worker, _lost) = start(&mut rig, 0);
    rig.driver.add(&[(DATA, 1, false)]);
    let kick = EventFd::new().unwrap();
    worker.set_kick(0, Some(kick.clone()));
    wait_for("the look at the ring", || rig.driver.used_idx() == 1);
    rig.driver.add(&[(DATA, 1, false)]);
    kick.signal().unwrap();
    wait_for("the new kick", || rig.driver.used_idx() == 2);
    worker.set_kick(0, None);
    assert_eq!(worker.stop_queue(0), Ok(Some(QueueState::Split { avail: 2 })));
}

#[test]
fn a_semaphore_eventfd_does_not_keep_the_thread_busy() {
    let mut rig = Rig::new(0);
    let semaphore =
        nix::sys::eventfd::EventFd::from_value_and_flags(0x7fff_ffff, nix::sys::eventfd::EfdFlags::EFD_SEMAPHORE);
    let (mut worker, _first) = start(&mut rig, 0);
    worker.set_kick(0, Some(EventFd::from(std::os::fd::OwnedFd::from(semaphore.unwrap()))));
    std::thread::sleep(Duration::from_millis(50));
    let before = cpu_time("rig/0");
    std::thread::sleep(Duration::from_millis(300));
    let spent = cpu_time("rig/0") - before;
    assert!(spent < Duration::from_millis(50), "{spent:?} of processor time");
    worker.end().unwrap();
}

/// What the thread of this process with that name has spent.
pub fn cpu_time(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let comm = |task: &std::path::Path| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    let task = tasks.into_iter().find(|task| comm(task).trim_end() == name).unwrap();
    let times = std::fs::read_to_string(task.join("schedstat")).unwrap();
    Duration::from_nanos(times.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn memory_that_comes_wakes_the_thread() {
    let mut rig = Rig::new(0);
    let (mut worker, kick) = start(&mut rig, 0);
    rig.driver.add(&[(DATA, 1, false)]);
    kick.signal().unwrap();
    wait_for("the echo", || rig.driver.used_idx() == 1);
    rig.space.unmap_all();
    rig.driver.add(&[(DATA, 1, false)]);
    kick.signal().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.driver.used_idx(), 1);
    rig.space.map(rig.driver.ram.region(0, 0, MEMORY)).unwrap();
    wait_for("the rest", || rig.driver.used_idx() == 2);
    worker.end().unwrap();
}

#[test]
fn memory_that_comes_for_a_device_that_needs_a_reset_does_not_keep_its_thread_busy() {
    let mut rig = Rig::new(0);
    let (mut worker, kick) = start(&mut rig, 0);
    rig.driver.add(&[(DATA, 1, false)]);
    kick.signal().unwrap();
    wait_for("the echo", || rig.driver.used_idx() == 1);
    rig.space.unmap_all();
    kick.signal().unwrap();
    // The other queue of the device breaks the rules while this one waits for memory.
    std::thread::sleep(Duration::from_millis(50));
    rig.health.fault(None, "another queue");
    rig.space.map(rig.driver.ram.region(0, 0, MEMORY)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let before = cpu_time("rig/0");
    std::thread::sleep(Duration::from_millis(300));
    let spent = cpu_time("rig/0") - before;
    assert!(spent < Duration::from_millis(50), "{spent:?} of processor time");
    worker.end().unwrap();
}

#[test]
fn b1_a_client_that_answers_no_faults_holds_up_its_own_thread_alone() {
    let ram = Ram::private(MEMORY);
    let (mut rig, mut neighbour) = (Rig::with_ram(&ram, 0), Rig::new(0));
    let (mut worker, kick) = start(&mut rig, 0);
    let (mut other, other_kick) = start(&mut neighbour, 0);
    let Ram::Private(private) = &ram else { unreachable!() };
    let stalled = private.stall.lock();
    kick.signal().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    neighbour.driver.add(&[(DATA, 1, false)]);
    other_kick.signal().unwrap();
    wait_for("the neighbour's echo", || neighbour.driver.used_idx() == 1);
    let begun = Instant::now();
    assert_eq!(worker.stop_queue(0), Err(WorkerError::Stuck));
    assert!(begun.elapsed() < Duration::from_millis(4900), "{:?}", begun.elapsed());
    drop(stalled);
    worker.end().unwrap();
    other.end().unwrap();
}

#[test]
fn a_panic_on_the_thread_breaks_its_device() {
    struct Bad(Arc<Slot>);
    impl Service for Bad {
        fn slots(&self) -> Vec<Arc<Slot>> {
            vec![Arc::clone(&self.0)]
        }

        fn serve(&mut self) -> Next {
            self.0.work(|queue| assert!(queue.is_none(), "on purpose"));
            Next::Wait
        }

        fn rest(&mut self) -> Next {
            Next::Wait
        }
    }
    let mut rig = Rig::new(0);
    let mut worker = Task::new(
        Bad(Slot::new()),
        Arc::clone(&rig.waker),
        Arc::clone(&rig.health),
        Pool::new("bad", PoolOptions::default()),
    );
    worker.start_queue(0, rig.queue.take().unwrap()).unwrap();
    wait_for("the fault", || rig.link.needs_reset());
    assert_eq!(worker.stop_queue(0), Err(WorkerError::Gone));
}
