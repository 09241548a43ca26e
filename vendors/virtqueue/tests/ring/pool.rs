//! Threads that several tasks share.

use crate::rig::{DATA, MEMORY, Rig};
use crate::worker::{Echo, cpu_time, wait_for};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use virtio_mdev_api::DeviceLink;
use virtio_mdev_api::notify::EventFd;
use virtqueue::testing::Ram;
use virtqueue::{Health, Next, Pool, PoolOptions, Service, Slot, Task, Waker, WorkerError};

fn pool(name: &str, threads: usize) -> Arc<Pool> {
    Pool::new(name, PoolOptions { threads, ..PoolOptions::default() })
}

/// How many threads a pool of this process has.
fn threads(pool: &str) -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.split('/').next() == Some(pool)).count()
}

/// A device of one task, and its driver.
struct Device {
    rig: Rig,
    task: Task<Echo>,
    kick: EventFd,
}

impl Device {
    fn start(pool: &Arc<Pool>) -> Self {
        Self::start_in(&Ram::shared(MEMORY), pool)
    }

    fn start_in(ram: &Ram, pool: &Arc<Pool>) -> Self {
        let rig = Rig::with_ram(ram, 0);
        let echo = Echo(Slot::new());
        let mut task = Task::new(echo, Arc::clone(&rig.waker), Arc::clone(&rig.health), Arc::clone(pool));
        let kick = EventFd::new().unwrap();
        let start = virtio_mdev_api::QueueStart { kick: Some(kick.clone()), ..rig.queue_start(0) };
        let queue = virtqueue::Queue::start(3, start, 1024, Arc::clone(&rig.health), Arc::clone(&rig.waker)).unwrap();
        task.start_queue(0, queue).unwrap();
        Self { rig, task, kick }
    }

    fn exchange(&mut self) {
        let before = self.rig.driver.used_idx();
        self.rig.driver.add(&[(DATA, 1, false)]);
        self.kick.signal().unwrap();
        wait_for("the echo", || self.rig.driver.used_idx() != before);
    }

    fn stop(mut self) {
        self.task.stop_queue(0).unwrap();
        self.task.end().unwrap();
    }
}

/// What needs no queue: it counts how often it was served, and does as it is told.
#[derive(Default)]
struct Tally {
    served: Arc<AtomicU64>,
    /// There is always more.
    busy: bool,
    /// Serving takes until this opens.
    gate: Option<Arc<Gate>>,
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    reached: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        self.reached.store(true, Ordering::Release);
        self.opened.wait_while(&mut self.open.lock(), |open| !*open);
    }

    fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }
}

impl Service for Tally {
    fn slots(&self) -> Vec<Arc<Slot>> {
        Vec::new()
    }

    fn serve(&mut self) -> Next {
        self.served.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        if self.busy { Next::Again } else { Next::Wait }
    }

    fn rest(&mut self) -> Next {
        Next::Wait
    }
}

fn tally(pool: &Arc<Pool>, tally: Tally) -> (Task<Tally>, DeviceLink) {
    let link = DeviceLink::new("tally");
    let waker = Arc::new(Waker::new().unwrap());
    let mut task = Task::new(tally, waker, Health::new(link.clone()), Arc::clone(pool));
    task.run().unwrap();
    (task, link)
}

#[test]
fn busy_tasks_on_one_thread_get_the_same_share_and_one_that_comes_gets_its_own() {
    let pool = pool("fair", 1);
    let busy = || {
        let one = Tally { busy: true, ..Tally::default() };
        let served = Arc::clone(&one.served);
        (tally(&pool, one), served)
    };
    let first = [busy(), busy()];
    wait_for("both", || first.iter().all(|(_, served)| served.load(Ordering::Relaxed) > 1000));
    let late = busy();
    wait_for("the one that came", || late.1.load(Ordering::Relaxed) > 0);
    let all: Vec<_> = first.iter().chain([&late]).map(|(_, served)| served).collect();
    let before: Vec<_> = all.iter().map(|served| served.load(Ordering::Relaxed)).collect();
    wait_for("rounds", || late.1.load(Ordering::Relaxed) > before[2] + 10_000);
    let now = all.iter().map(|served| served.load(Ordering::Relaxed));
    let shares: Vec<_> = now.zip(before).map(|(now, before)| now - before).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    // They were not all looked at in the same round.
    assert!(most - least < least / 2, "{shares:?}");
    assert_eq!(threads("fair"), 1);
}

#[test]
fn a_task_that_rests_is_served_beside_busy_ones_when_it_is_kicked() {
    let pool = pool("mixed", 1);
    let mut device = Device::start(&pool);
    device.exchange();
    let (_busy, _) = tally(&pool, Tally { busy: true, ..Tally::default() });
    for _ in 0..100 {
        // Longer than it is looked at without work.
        std::thread::sleep(Duration::from_micros(200));
        device.exchange();
    }
    device.stop();
}

/// The waking of a thread may take longer than it would have had to look.
#[test]
fn a_driver_that_goes_on_at_once_is_soon_served_without_kicks() {
    let pool = Pool::new("eager", PoolOptions { cpus: vec![1], ..PoolOptions::default() });
    let mut here = nix::sched::CpuSet::new();
    here.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &here).unwrap();
    let mut device = Device::start(&pool);
    let mut kicks = 0;
    for _ in 0..5000 {
        let before = device.rig.driver.used_idx();
        device.rig.driver.add(&[(DATA, 1, false)]);
        if device.rig.driver.wants_kick() {
            kicks += 1;
            device.kick.signal().unwrap();
        }
        while device.rig.driver.used_idx() == before {
            std::hint::spin_loop();
        }
        while device.rig.driver.take_used().is_some() {}
    }
    assert!(kicks < 2000, "{kicks} kicks for 5000 chains");
    device.stop();
}

#[test]
fn threads_start_with_the_first_queues_and_end_with_the_last() {
    let pool = pool("lazy", 2);
    assert_eq!(threads("lazy"), 0);
    let devices: Vec<_> = (1..=3)
        .map(|started| {
            let mut device = Device::start(&pool);
            device.exchange();
            wait_for("the threads", || threads("lazy") == started.min(2));
            device
        })
        .collect();
    devices.into_iter().for_each(Device::stop);
    assert_eq!(threads("lazy"), 0);
    let mut again = Device::start(&pool);
    again.exchange();
    again.stop();
    assert_eq!(threads("lazy"), 0);
}

#[test]
fn a_hundred_queues_at_rest_cost_two_threads_and_no_processor_time() {
    let pool = pool("many", 2);
    let mut devices: Vec<_> = (0..100).map(|_| Device::start(&pool)).collect();
    devices.iter_mut().for_each(Device::exchange);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(threads("many"), 2);
    let spent = || cpu_time("many/0") + cpu_time("many/1");
    let before = spent();
    std::thread::sleep(Duration::from_millis(300));
    let spent = spent() - before;
    assert!(spent < Duration::from_millis(5), "{spent:?} of processor time");
    devices.iter_mut().for_each(Device::exchange);
    devices.into_iter().for_each(Device::stop);
    assert_eq!(threads("many"), 0);
}

#[test]
fn f37_neighbours_of_a_task_that_is_stuck_go_on_once_that_is_known() {
    let pool = pool("stuck", 1);
    let gate = Arc::new(Gate::default());
    let mut neighbour = Device::start(&pool);
    neighbour.exchange();
    let (mut stuck, _) = tally(&pool, Tally { gate: Some(Arc::clone(&gate)), ..Tally::default() });
    wait_for("the gate", || gate.reached.load(Ordering::Acquire));
    let begun = Instant::now();
    assert_eq!(stuck.end(), Err(WorkerError::Stuck));
    assert!(begun.elapsed() < Duration::from_millis(4900), "{:?}", begun.elapsed());
    neighbour.exchange();
    // So do those that come now.
    let mut late = Device::start(&pool);
    late.exchange();
    assert_eq!(threads("stuck"), 2);
    gate.open();
    stuck.end().unwrap();
    wait_for("the end of the thread that was stuck", || threads("stuck") == 1);
    neighbour.exchange();
    late.stop();
    neighbour.stop();
    assert_eq!(threads("stuck"), 0);
}

#[test]
fn f37_a_panic_in_one_task_leaves_its_neighbours_alone() {
    struct Bad;
    impl Service for Bad {
        fn slots(&self) -> Vec<Arc<Slot>> {
            Vec::new()
        }

        fn serve(&mut self) -> Next {
            panic!("on purpose");
        }

        fn rest(&mut self) -> Next {
            Next::Wait
        }
    }
    let pool = pool("panic", 1);
    let mut neighbour = Device::start(&pool);
    let link = DeviceLink::new("bad");
    let waker = Arc::new(Waker::new().unwrap());
    let mut bad = Task::new(Bad, waker, Health::new(link.clone()), Arc::clone(&pool));
    bad.run().unwrap();
    wait_for("the fault", || link.needs_reset());
    neighbour.exchange();
    assert_eq!(bad.end(), Err(WorkerError::Gone));
    neighbour.exchange();
    neighbour.stop();
    assert_eq!(threads("panic"), 0);
}

#[test]
fn threads_run_on_the_processors_they_are_given() {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let cpu = (0..nix::sched::CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let options = PoolOptions { threads: 2, cpus: vec![cpu], ..PoolOptions::default() };
    let pool = Pool::new("pinned", options);
    let devices = [Device::start(&pool), Device::start(&pool)].map(|mut device| {
        device.exchange();
        device
    });
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let read = |task: &std::path::Path, file| std::fs::read_to_string(task.join(file)).unwrap_or_default();
    let pinned = tasks.filter(|task| read(task, "comm").starts_with("pinned/"));
    let places: Vec<_> = pinned.map(|task| read(&task, "status")).collect();
    assert_eq!(places.len(), 2);
    for status in places {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        assert_eq!(line.trim(), cpu.to_string());
    }
    devices.into_iter().for_each(Device::stop);
    let nowhere = PoolOptions { cpus: vec![cpu, 1023], ..PoolOptions::default() };
    assert_eq!(nowhere.unusable_cpu(), Ok(Some(1023)));
}

#[test]
fn f38_a_busy_queue_is_stopped_and_started_as_often_as_one_likes() {
    let pool = pool("reset", 1);
    let mut device = Device::start(&pool);
    let driver = &mut device.rig.driver;
    // One chain, made available as often as the index goes round: there is always another one.
    let head = driver.add(&[(DATA, 1, false)]);
    for _ in 1..driver.size {
        driver.push(head);
    }
    driver.publish();
    device.kick.signal().unwrap();
    for _ in 0..500 {
        let state = device.task.stop_queue(0).unwrap().unwrap();
        let used = device.rig.driver.used_idx();
        std::thread::yield_now();
        assert_eq!(device.rig.driver.used_idx(), used, "a queue that was stopped was served");
        let (health, waker) = (Arc::clone(&device.rig.health), Arc::clone(&device.rig.waker));
        let virtio_mdev_api::QueueState::Split { avail } = state else { unreachable!() };
        // As many more as fit.
        let driver = &mut device.rig.driver;
        while driver.next_avail().wrapping_sub(avail) < driver.size {
            driver.push(head);
        }
        driver.publish();
        let queue = virtqueue::Queue::start(3, device.rig.queue_start(avail), 1024, health, waker).unwrap();
        device.task.start_queue(0, queue).unwrap();
    }
    assert!(!device.rig.link.needs_reset(), "{:?}", device.rig.link.last_fault());
    device.stop();
}

#[test]
fn b1_memory_that_does_not_answer_keeps_no_neighbour_waiting() {
    let pool = pool("slow", 1);
    let ram = Ram::private(MEMORY);
    let mut neighbour = Device::start(&pool);
    let mut slow = Device::start_in(&ram, &pool);
    slow.exchange();
    neighbour.exchange();
    assert_eq!(threads("slow"), 2, "one apart");
    let Ram::Private(private) = &ram else { unreachable!() };
    let stalled = private.stall.lock();
    slow.kick.signal().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    (0..100).for_each(|_| neighbour.exchange());
    drop(stalled);
    slow.exchange();
    slow.stop();
    wait_for("the end of the thread apart", || threads("slow") == 1);
    neighbour.stop();
}

#[test]
fn a_queue_moves_when_its_memory_becomes_slow_and_back_when_it_is_fast_again() {
    let pool = pool("moves", 1);
    let mut neighbour = Device::start(&pool);
    let mut device = Device::start(&pool);
    let far = 0x1000_0000;
    for _ in 0..3 {
        device.exchange();
        wait_for("one thread", || threads("moves") == 1);
        device.rig.space.map(Ram::private(0x1000).region(far, 0, 0x1000)).unwrap();
        device.exchange();
        assert_eq!(threads("moves"), 2);
        neighbour.exchange();
        device.rig.space.unmap(far, far);
        // It is found out while there is work.
        wait_for("one thread", || {
            device.exchange();
            threads("moves") == 1
        });
    }
    wait_for("one thread", || threads("moves") == 1);
    device.stop();
    neighbour.stop();
}
