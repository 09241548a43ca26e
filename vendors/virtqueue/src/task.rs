//! Some queues that are served together, whether any of them runs or not.

use crate::PATIENCE;
use crate::end::End;
use crate::health::Health;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::served::{Shared, Work};
use crate::service::{Service, WorkerError};
use crate::sync::{EventFd, Ordering};
use crate::waker::Waker;
use std::fmt;
use std::sync::Arc;
use virtio_mdev_api::QueueState;

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

impl<S: Service> Task<S> {
    /// With no queue, served by nobody. Its queues are made with `waker`.
    pub fn new(service: S, waker: Arc<Waker>, health: Arc<Health>, pool: Arc<Pool>) -> Self {
        let shared = Shared::new(&service, waker);
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
        self.shared.watched.lock().set_queue(place, kick, doorbell);
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
        self.shared.watched.lock().set_queue(place, None, None);
        Ok(queue.map(|mut queue| {
            queue.release();
            queue.state()
        }))
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
