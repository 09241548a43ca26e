//! A driver that kicks when it is asked to, control that stops or moves tasks, and the threads of a pool.

use crate::end::End;
use crate::host::{Host, unmark};
use crate::kernel;
use crate::pool::{Place, Pool, PoolOptions};
use crate::queue::{Queue, Ring};
use crate::served::{Served, Shared, Work};
use crate::service::{Next, Service};
use crate::slot::Slot;
use crate::sync::EventFd;
use crate::task::Task;
use crate::waker::Waker;
use loom::model::Builder;
use loom::{explore, stop_exploring, thread};
use nix::sys::epoll::EpollTimeout;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

/// What services do, right and wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    Right,
    /// It does not look once more after it asked to be told.
    NoLastLook,
    /// It touches the ring outside of its slot.
    OutOfItsSlot,
}

struct Echoing {
    slot: Arc<Slot>,
    echo: Echo,
    /// The ring it saw last.
    last: Option<Arc<Ring>>,
}

impl Service for Echoing {
    fn slots(&self) -> Vec<Arc<Slot>> {
        vec![Arc::clone(&self.slot)]
    }

    fn serve(&mut self) -> Next {
        let (echo, last) = (self.echo, &mut self.last);
        let found = self.slot.work(|queue| {
            *last = queue.map(|queue| Arc::clone(&queue.ring));
            let Some(ring) = last.as_ref() else { return false };
            if echo != Echo::OutOfItsSlot {
                ring.memory.touch();
            }
            ring.serve()
        });
        if let Some(ring) = self.last.take().filter(|_| echo == Echo::OutOfItsSlot) {
            ring.memory.touch();
        }
        if found { Next::Again } else { Next::Wait }
    }

    fn rest(&mut self) -> Next {
        let more = self.slot.work(|queue| queue.is_some_and(|queue| queue.ring.ask()));
        if more && self.echo != Echo::NoLastLook { Next::Again } else { Next::Wait }
    }
}

fn pool() -> Arc<Pool> {
    Pool::new("model", PoolOptions { threads: 1, cpus: Vec::new(), poll: Duration::ZERO })
}

fn echoing(echo: Echo) -> Echoing {
    Echoing { slot: Slot::new(), echo, last: None }
}

/// A device of one queue.
struct Device {
    task: Task<Echoing>,
    ring: Arc<Ring>,
    kick: EventFd,
}

impl Device {
    fn start(pool: &Arc<Pool>, echo: Echo) -> Self {
        let (ring, kick) = (Arc::new(Ring::default()), EventFd::new().unwrap());
        let waker = Arc::new(Waker::new().unwrap());
        let mut task = Task::new(echoing(echo), waker, Arc::default(), Arc::clone(pool));
        task.start_queue(0, Queue::new(&ring, &kick)).unwrap();
        Self { task, ring, kick }
    }
}

/// Posts chains, each when the one before was posted, and tells of those it is asked to tell of.
fn drive(ring: &Ring, kick: &EventFd, chains: u16) {
    for _ in 0..chains {
        if ring.post() {
            kick.signal().unwrap();
        }
    }
}

fn check(interruptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut checker = Builder::new();
    checker.preemption_bound = Some(interruptions);
    checker.max_branches = 10_000;
    checker.expect_explicit_explore = true;
    checker.check(move || {
        kernel::boot();
        model();
    });
}

/// While a device rests, sleeps and is woken a driver posts chains.
fn kicks(echo: Echo) {
    check(2, move || {
        let Device { task, ring, kick } = Device::start(&pool(), echo);
        // A task that is dropped ends, which a model that failed cannot wait for.
        let mut task = ManuallyDrop::new(task);
        explore();
        let driver = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || drive(&ring, &kick, 2))
        };
        ring.wait(2);
        stop_exploring();
        driver.join().unwrap();
        task.end().unwrap();
    });
}

#[test]
fn no_kick_is_lost_between_looking_resting_and_sleeping() {
    kicks(Echo::Right);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_last_look_a_kick_is_lost() {
    kicks(Echo::NoLastLook);
}

/// More tasks than threads: each is served, and none at the cost of another's kicks.
#[test]
fn no_kick_is_lost_where_two_devices_share_a_thread() {
    check(1, || {
        let pool = pool();
        let mut devices = [(); 2].map(|()| Device::start(&pool, Echo::Right));
        explore();
        let drivers = devices.each_ref().map(|device| {
            let (ring, kick) = (Arc::clone(&device.ring), device.kick.clone());
            thread::spawn(move || drive(&ring, &kick, 1))
        });
        devices.iter().for_each(|device| device.ring.wait(1));
        stop_exploring();
        drivers.into_iter().for_each(|driver| driver.join().unwrap());
        devices.iter_mut().for_each(|device| device.task.end().unwrap());
    });
}

/// A queue is stopped, and another takes its place, while its device serves it.
fn stops(echo: Echo) {
    check(2, move || {
        let Device { mut task, ring, kick } = Device::start(&pool(), echo);
        explore();
        let driver = {
            let (ring, kick) = (Arc::clone(&ring), kick.clone());
            thread::spawn(move || drive(&ring, &kick, 1))
        };
        task.stop_queue(0).unwrap();
        // It is the client's again.
        ring.memory.touch();
        let again = Arc::new(Ring::default());
        again.post();
        task.start_queue(0, Queue::new(&again, &kick)).unwrap();
        again.wait(1);
        task.stop_queue(0).unwrap();
        task.end().unwrap();
        again.memory.touch();
        driver.join().unwrap();
    });
}

#[test]
fn f34_f38_a_queue_that_was_stopped_is_touched_by_nobody() {
    stops(Echo::Right);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn f34_f38_a_service_that_leaves_its_slot_too_early_is_caught() {
    stops(Echo::OutOfItsSlot);
}

/// A task without `Task`, of which more can be told.
struct Bare {
    shared: Arc<Shared<Echoing>>,
    ring: Arc<Ring>,
    kick: EventFd,
}

impl Bare {
    /// That nobody serves.
    fn new() -> Self {
        let (ring, kick) = (Arc::new(Ring::default()), EventFd::new().unwrap());
        let service = echoing(Echo::Right);
        let shared = Arc::new(Shared::new(&service, Arc::new(Waker::new().unwrap())));
        shared.slots[0].put(Queue::new(&ring, &kick)).unwrap();
        shared.watched.lock().set_queue(0, Some(kick.clone()), None);
        *shared.work.lock() = Some(Work { service: Box::new(service), health: Arc::default() });
        Self { shared, ring, kick }
    }

    fn start(pool: &Arc<Pool>) -> Self {
        let bare = Self::new();
        bare.shared.settle(bare.shared.work.lock().as_ref().unwrap(), pool, false).unwrap();
        bare
    }

    fn place(&self) -> Place {
        self.shared.watched.lock().place.clone().unwrap()
    }

    fn end(self, pool: &Pool) {
        let work = self.shared.work.lock().take();
        let end = self.shared.unsettle(work.as_ref().map(|work| &*work.service), pool);
        end.into_iter().for_each(End::wait);
        self.ring.memory.touch();
    }
}

/// A thread that begins is given up for one of its tasks, and was only late. The other one is served by another.
#[test]
fn f37_a_thread_that_is_given_up_while_it_takes_up_tasks_holds_up_nobody() {
    check(1, || {
        let pool = pool();
        let (late, moved) = (Bare::start(&pool), Bare::start(&pool));
        moved.ring.post();
        explore();
        pool.give_up(&late.place());
        moved.ring.wait(1);
        stop_exploring();
        moved.end(&pool);
        late.end(&pool);
    });
}

/// A thread took an event of a task, which is given to another before the first one gets to it. The driver goes on.
/// `as_who` says which place the first one says the event is of.
fn late_event(as_who: fn(old: u64, new: u64) -> u64) {
    check(2, move || {
        let (pool, task) = (pool(), Bare::new());
        // A thread that does no more than it is made to here.
        let old = Place { host: Host::new(false).unwrap(), id: u64::from(u16::MAX) };
        let settle = |work: &Work<_>| task.shared.watched.lock().settle(&old, &work.health, &*work.service);
        settle(task.shared.work.lock().as_ref().unwrap()).unwrap();
        task.ring.post();
        task.kick.signal().unwrap();
        let events: Vec<_> = old.host.events.wait(EpollTimeout::ZERO).unwrap().collect();
        Arc::clone(&task.shared).relocate(&pool, false);
        task.ring.wait_until_it_rests();
        explore();
        let late = {
            let (shared, new) = (Arc::clone(&task.shared), task.place());
            thread::spawn(move || {
                for (id, what) in events.into_iter().map(unmark) {
                    shared.happened(as_who(id, new.id), what);
                }
            })
        };
        drive(&task.ring, &task.kick, 1);
        task.ring.wait(2);
        stop_exploring();
        late.join().unwrap();
        task.end(&pool);
    });
}

#[test]
fn f37_a_task_that_was_moved_loses_no_kick_to_the_thread_it_had() {
    late_event(|old, _new| old);
}

#[test]
#[should_panic(expected = "deadlock")]
fn f37_a_kick_that_is_taken_by_a_thread_that_has_the_task_no_more_is_lost() {
    late_event(|_old, new| new);
}
