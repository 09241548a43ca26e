//! Some queues that are served together, whether any of them runs or not.

use crate::PATIENCE;
use crate::health::Health;
use crate::pool::{End, Place, Pool};
use crate::queue::Queue;
use crate::service::{Next, Service, WorkerError};
use crate::slot::Slot;
use crate::thread::{drain, mark};
use crate::waker::Waker;
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use parking_lot::{Mutex, MutexGuard};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_mdev_api::QueueState;
use virtio_mdev_api::doorbell::Doorbell;
use virtio_mdev_api::notify::EventFd;

/// What of a task an event is about: a kick by the place of its queue, then the back ends, then the waker.
const BACKENDS: u16 = 1 << 15;
const WAKER: u16 = u16::MAX;

/// What a thread does with a task.
pub trait Served: Send + Sync {
    /// A burst of it.
    fn serve(&self) -> Next;

    /// Before it is asleep.
    fn rest(&self) -> Next;

    /// The thread has it from now on: whatever there is may have happened.
    fn taken_up(&self);

    /// An event about `what`.
    fn happened(&self, what: u16);

    /// Whether a queue may be rung by a store, which is no event.
    fn is_rung_by_stores(&self) -> bool;

    /// Whether one was, since this was last asked.
    fn take_rings(&self) -> bool;

    /// Whether it works on memory that may keep its thread waiting.
    fn is_slow(&self) -> bool;

    /// Goes to another thread of `pool`, to one of its own if `apart`.
    fn relocate(self: Arc<Self>, pool: &Arc<Pool>, apart: bool);
}

/// A service, and the queues it serves. It has a thread of its pool while it has something to do.
pub struct Task<S: Service> {
    shared: Arc<Shared<S>>,
    health: Arc<Health>,
    pool: Arc<Pool>,
    run: Run<S>,
}

enum Run<S> {
    Idle(Box<S>),
    Running,
    /// The service is lost, with the thread that is stuck in it.
    Lost,
}

struct Shared<S> {
    /// `None` while nobody is to serve.
    work: Mutex<Option<Work<S>>>,
    slots: Vec<Arc<Slot>>,
    waker: Arc<Waker>,
    watched: Mutex<Watched>,
    panicked: AtomicBool,
}

struct Work<S> {
    service: Box<S>,
    health: Arc<Health>,
}

/// What wakes a task.
struct Watched {
    /// Who is woken.
    place: Option<Place>,
    /// By slot.
    kicks: Vec<Option<EventFd>>,
    doorbells: Vec<Option<Doorbell>>,
    /// Of the device, while it is served: a thread that has not noticed yet that it is not keeps nothing of it.
    health: Option<Arc<Health>>,
}

impl<S: Service> Task<S> {
    /// With no queue, served by nobody. Its queues are made with `waker`.
    pub fn new(service: S, waker: Arc<Waker>, health: Arc<Health>, pool: Arc<Pool>) -> Self {
        let slots = service.slots();
        let (kicks, doorbells) = (slots.iter().map(|_| None).collect(), slots.iter().map(|_| None).collect());
        let watched = Mutex::new(Watched { place: None, kicks, doorbells, health: None });
        let shared = Shared { work: Mutex::default(), slots, waker, watched, panicked: AtomicBool::new(false) };
        Self { shared: Arc::new(shared), health, pool, run: Run::Idle(Box::new(service)) }
    }

    /// Wakes who serves.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.shared.waker
    }

    /// The service, while nobody serves.
    pub fn service(&mut self) -> Option<&mut S> {
        match &mut self.run {
            Run::Idle(service) => Some(service),
            Run::Running | Run::Lost => None,
        }
    }

    /// From now on it is served, also without a queue.
    pub fn run(&mut self) -> Result<(), WorkerError> {
        match std::mem::replace(&mut self.run, Run::Running) {
            Run::Running => self.check(),
            Run::Lost => {
                self.run = Run::Lost;
                Err(WorkerError::Gone)
            }
            Run::Idle(service) => {
                let mut work = self.shared.work.lock();
                let served = self.shared.settle(
                    work.insert(Work { service, health: Arc::clone(&self.health) }),
                    &self.pool,
                    false,
                );
                drop(work);
                if served.is_err() {
                    self.end()?;
                }
                served
            }
        }
    }

    fn check(&self) -> Result<(), WorkerError> {
        if self.shared.panicked.load(Ordering::Acquire) { Err(WorkerError::Gone) } else { Ok(()) }
    }

    /// Puts a running queue into slot `place`.
    pub fn start_queue(&mut self, place: usize, queue: Queue) -> Result<(), WorkerError> {
        self.run()?;
        let (kick, doorbell) = (queue.kick().cloned(), queue.doorbell().cloned());
        let put = self.shared.slots[place].put(queue);
        self.give_up_on(put)?;
        let mut watched = self.shared.watched.lock();
        watched.doorbells[place] = doorbell;
        watched.set_kick(place, kick);
        drop(watched);
        // It is looked at, whether it was kicked or not.
        self.shared.waker.wake();
        Ok(())
    }

    /// Stops the queue in slot `place` and says where it stood. When this returns without error nobody touches its ring or
    /// its buffers.
    pub fn stop_queue(&mut self, place: usize) -> Result<Option<QueueState>, WorkerError> {
        self.check()?;
        let taken = self.shared.slots[place].take();
        let queue = self.give_up_on(taken)?;
        let mut watched = self.shared.watched.lock();
        watched.doorbells[place] = None;
        watched.set_kick(place, None);
        Ok(queue.map(|queue| queue.state()))
    }

    /// Replaces the kick of the queue in slot `place`. The ring is looked at once.
    pub fn set_kick(&mut self, place: usize, kick: Option<EventFd>) {
        self.shared.watched.lock().set_kick(place, kick);
        self.shared.waker.wake();
    }

    /// From now on nobody serves. None of its queues is running.
    pub fn end(&mut self) -> Result<(), WorkerError> {
        if !matches!(self.run, Run::Running) {
            return Ok(());
        }
        let work = self.shared.work.try_lock_for(PATIENCE).ok_or(WorkerError::Stuck);
        let work = self.give_up_on(work.map(|mut work| work.take()))?;
        let end = self.shared.unsettle(work.as_ref().map(|work| &*work.service), &self.pool);
        end.into_iter().for_each(End::wait);
        self.run = work.map_or(Run::Lost, |work| Run::Idle(work.service));
        self.check()
    }

    /// A thread that did not do its part in time is stuck in this task.
    fn give_up_on<R>(&self, result: Result<R, WorkerError>) -> Result<R, WorkerError> {
        if matches!(result, Err(WorkerError::Stuck)) {
            let place = self.shared.watched.lock().place.clone();
            place.iter().for_each(|place| self.pool.give_up(place));
        }
        result
    }
}

impl<S: Service> Drop for Task<S> {
    fn drop(&mut self) {
        if !matches!(self.run, Run::Running) {
            return;
        }
        // A thread that is stuck has the service, and lets go of it when it can.
        let work = self.shared.work.try_lock_for(PATIENCE).map(|mut work| work.take());
        if work.is_none() {
            tracing::warn!("left behind by a thread that is stuck");
        }
        let stuck = work.is_none();
        let end = self.shared.unsettle(work.flatten().as_ref().map(|work| &*work.service), &self.pool);
        end.into_iter().filter(|_| !stuck).for_each(End::wait);
    }
}

impl<S: Service> fmt::Debug for Task<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

impl Watched {
    fn is_stopped(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.is_stopped())
    }

    fn set_kick(&mut self, slot: usize, kick: Option<EventFd>) {
        let old = std::mem::replace(&mut self.kicks[slot], kick);
        let Some(place) = &self.place else { return };
        if let Some(old) = old {
            forget(place, old.as_fd());
        }
        self.watch_kick(slot);
    }

    /// Edges, not levels: a client whose eventfd cannot be emptied (EFD_SEMAPHORE) does not keep a thread busy.
    fn watch_kick(&self, slot: usize) {
        let (Some(place), Some(kick)) = (&self.place, &self.kicks[slot]) else { return };
        if let Err(errno) = watch(place, kick.as_fd(), EpollFlags::EPOLLIN, u16::try_from(slot).unwrap_or(WAKER)) {
            tracing::warn!(%errno, slot, "cannot wait for the kicks of a queue");
        }
    }
}

fn watch(place: &Place, fd: BorrowedFd<'_>, events: EpollFlags, what: u16) -> Result<(), Errno> {
    place.host.epoll.add(fd, EpollEvent::new(events | EpollFlags::EPOLLET, mark(place.id, what)))
}

fn forget(place: &Place, fd: BorrowedFd<'_>) {
    if let Err(errno) = place.host.epoll.delete(fd) {
        tracing::debug!(%errno, "was not waited for");
    }
}

impl<S: Service> Shared<S> {
    /// Finds a thread, one of its own if `apart`, and has it woken by what wakes this task.
    fn settle(self: &Arc<Self>, work: &Work<S>, pool: &Arc<Pool>, apart: bool) -> Result<(), WorkerError> {
        let place = pool.admit(Arc::clone(self) as Arc<dyn Served>, apart)?;
        let watched = self.settle_at(work, &place);
        place.host.ring();
        watched.map_err(WorkerError::Start)
    }

    fn settle_at(&self, work: &Work<S>, place: &Place) -> Result<(), Errno> {
        let mut watched = self.watched.lock();
        watched.place = Some(place.clone());
        watched.health = Some(Arc::clone(&work.health));
        (0..watched.kicks.len()).for_each(|slot| watched.watch_kick(slot));
        watch(place, self.waker.fd().as_fd(), EpollFlags::EPOLLIN, WAKER)?;
        for (number, (fd, interest)) in (BACKENDS..WAKER).zip(work.service.backends()) {
            watch(place, fd, interest.events(), number)?;
        }
        Ok(())
    }

    /// From now on no thread has the task, whose service is `service`; the end of the one it had, if that has no other.
    fn unsettle(&self, service: Option<&S>, pool: &Pool) -> Option<End> {
        let place = {
            let mut watched = self.watched.lock();
            watched.health = None;
            let place = watched.place.take()?;
            watched.kicks.iter().flatten().for_each(|kick| forget(&place, kick.as_fd()));
            forget(&place, self.waker.fd().as_fd());
            let backends = service.map_or(Vec::new(), Service::backends);
            backends.into_iter().for_each(|(fd, _)| forget(&place, fd));
            place
        };
        pool.dismiss(&place)
    }

    /// Does it with the service, if there is one to serve with.
    fn with(&self, work: impl FnOnce(&mut S) -> Next) -> Next {
        let mut guard = self.work.lock();
        let Some(now) = guard.as_mut() else { return Next::Wait };
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut now.service)));
        if done.is_err() {
            self.panicked.store(true, Ordering::Release);
            now.health.fault(None, "the device's thread panicked");
            *guard = None;
        }
        MutexGuard::unlock_fair(guard);
        done.unwrap_or(Next::Wait)
    }
}

impl<S: Service> Served for Shared<S> {
    fn serve(&self) -> Next {
        self.with(Service::serve)
    }

    fn rest(&self) -> Next {
        let next = self.with(Service::rest);
        // Of each, not only of the first: each has to be asked before a sleep.
        let resumed = |slot: &&Arc<Slot>| slot.work(|queue| queue.is_some_and(Queue::resume));
        if self.slots.iter().filter(resumed).count() > 0 { Next::Again } else { next }
    }

    fn taken_up(&self) {
        drain(self.waker.fd());
        let kicks = self.watched.lock().kicks.clone();
        kicks.iter().flatten().for_each(drain);
        self.with(|service| {
            (0..service.backends().len()).for_each(|number| service.backend_ready(number));
            Next::Again
        });
    }

    fn happened(&self, what: u16) {
        match what {
            WAKER => drain(self.waker.fd()),
            slot @ ..BACKENDS => {
                let kick = self.watched.lock().kicks.get(usize::from(slot)).cloned().flatten();
                kick.iter().for_each(drain);
            }
            backend => {
                self.with(|service| {
                    service.backend_ready(usize::from(backend - BACKENDS));
                    Next::Again
                });
            }
        }
    }

    fn is_rung_by_stores(&self) -> bool {
        let watched = self.watched.lock();
        watched.doorbells.iter().any(Option::is_some) && !watched.is_stopped()
    }

    fn take_rings(&self) -> bool {
        let watched = self.watched.lock();
        // Of each, not only of the first that was rung.
        let rung = |doorbell: &&Doorbell| doorbell.take();
        watched.doorbells.iter().flatten().filter(rung).count() > 0 && !watched.is_stopped()
    }

    fn is_slow(&self) -> bool {
        self.work.lock().as_ref().is_some_and(|work| work.service.is_slow())
    }

    fn relocate(self: Arc<Self>, pool: &Arc<Pool>, apart: bool) {
        // Until it has moved nobody ends it.
        let work = self.work.lock();
        let Some(work) = work.as_ref() else { return };
        // The thread it had is not waited for.
        drop(self.unsettle(Some(&work.service), pool));
        if let Err(error) = self.settle(work, pool, apart) {
            work.health.fault(None, &error.to_string());
        }
    }
}
