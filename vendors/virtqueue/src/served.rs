//! A task as a thread sees it: something that is served, and rests.

use crate::end::End;
use crate::health::Health;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::service::{Next, Service, WorkerError};
use crate::slot::Slot;
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};
use crate::waker::Waker;
use crate::watched::{BACKENDS, Watched, is_notifier};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What a thread does with a task.
pub trait Served: Send + Sync {
    /// A burst of it.
    fn serve(&self) -> Next;

    /// Before it is asleep.
    fn rest(&self) -> Next;

    /// The thread has it from now on, by the number `id`: whatever there is may have happened. Nothing comes of it when
    /// another thread has it already.
    fn taken_up(&self, id: u64);

    /// An event about `what`, of which the thread that has it by the number `id` was told. Nothing comes of it when another
    /// one has the task already: what wakes that one is not taken from it.
    fn happened(&self, id: u64, what: u16);

    /// Whether a queue may be rung by a store, which is no event.
    fn is_rung_by_stores(&self) -> bool;

    /// Whether one was, since this was last asked.
    fn take_rings(&self) -> bool;

    /// Whether it works on memory that may keep its thread waiting.
    fn is_slow(&self) -> bool;

    /// Goes to another thread of `pool`, to one of its own if `apart`.
    fn relocate(self: Arc<Self>, pool: &Arc<Pool>, apart: bool);
}

/// What a task and its thread have in common.
pub struct Shared<S> {
    /// `None` while nobody is to serve.
    pub work: Mutex<Option<Work<S>>>,
    pub slots: Vec<Arc<Slot>>,
    pub waker: Arc<Waker>,
    pub watched: Mutex<Watched>,
    pub panicked: AtomicBool,
}

/// A service that is served.
pub struct Work<S> {
    pub service: Box<S>,
    pub health: Arc<Health>,
}

impl<S: Service> Shared<S> {
    /// Of `service`, which nobody serves.
    pub fn new(service: &S, waker: Arc<Waker>) -> Self {
        let slots = service.slots();
        let watched = Mutex::new(Watched::new(slots.len(), Arc::clone(&waker)));
        Self { work: Mutex::default(), slots, waker, watched, panicked: AtomicBool::new(false) }
    }

    /// Finds a thread, one of its own if `apart`, and has it woken by what wakes this task.
    pub fn settle(self: &Arc<Self>, work: &Work<S>, pool: &Arc<Pool>, apart: bool) -> Result<(), WorkerError> {
        let place = pool.admit(Arc::clone(self) as Arc<dyn Served>, apart)?;
        let watched = self.watched.lock().settle(&place, &work.health, &*work.service);
        place.host.ring();
        watched.map_err(WorkerError::Start)
    }

    /// From now on no thread has the task, whose service is `service`; the end of the one it had, if that has no other.
    pub fn unsettle(&self, service: Option<&S>, pool: &Pool) -> Option<End> {
        let place = self.watched.lock().unsettle(service)?;
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

    fn taken_up(&self, id: u64) {
        self.watched.lock().drain_all(id);
        self.with(|service| {
            (0..service.backends().len()).for_each(|number| service.backend_ready(number));
            Next::Again
        });
    }

    fn happened(&self, id: u64, what: u16) {
        if is_notifier(what) {
            return self.watched.lock().drain(id, what);
        }
        // It can be told more often than it is so.
        self.with(|service| {
            service.backend_ready(usize::from(what - BACKENDS));
            Next::Again
        });
    }

    fn is_rung_by_stores(&self) -> bool {
        self.watched.lock().is_rung_by_stores()
    }

    fn take_rings(&self) -> bool {
        self.watched.lock().take_rings()
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
