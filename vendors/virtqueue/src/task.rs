//! What serves some queues, whether any of them runs or not.

use crate::health::Health;
use crate::queue::Queue;
use crate::waker::Waker;
use crate::worker::{Service, Worker, WorkerError};
use std::sync::Arc;
use virtio_mdev_api::QueueState;
use virtio_mdev_api::notify::EventFd;

/// A service, on a thread of its own while it has something to do.
#[derive(Debug)]
pub struct Task<S> {
    waker: Arc<Waker>,
    health: Arc<Health>,
    run: Run<S>,
}

#[derive(Debug)]
enum Run<S> {
    Idle(Box<S>),
    Running(Worker<S>),
    /// The thread is lost, and the service with it.
    Lost,
}

impl<S: Service> Task<S> {
    /// With no queue. Its queues are made with `waker`.
    pub fn new(service: S, waker: Arc<Waker>, health: Arc<Health>) -> Self {
        Self { waker, health, run: Run::Idle(Box::new(service)) }
    }

    /// Wakes who serves.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    /// The service, while nobody serves.
    pub fn service(&mut self) -> Option<&mut S> {
        match &mut self.run {
            Run::Idle(service) => Some(service),
            Run::Running(_) | Run::Lost => None,
        }
    }

    /// From now on it is served, also without a queue.
    pub fn run(&mut self) -> Result<(), WorkerError> {
        self.worker().map(drop)
    }

    fn worker(&mut self) -> Result<&Worker<S>, WorkerError> {
        self.run = match std::mem::replace(&mut self.run, Run::Lost) {
            Run::Idle(service) => {
                let (waker, health) = (Arc::clone(&self.waker), Arc::clone(&self.health));
                match Worker::spawn(self.health.link().name(), *service, waker, health) {
                    Ok(worker) => Run::Running(worker),
                    Err((error, service)) => {
                        self.run = Run::Idle(Box::new(service));
                        return Err(error);
                    }
                }
            }
            other => other,
        };
        match &self.run {
            Run::Running(worker) => Ok(worker),
            Run::Idle(_) | Run::Lost => Err(WorkerError::Gone),
        }
    }

    /// Puts a running queue into slot `place`.
    pub fn start_queue(&mut self, place: usize, queue: Queue) -> Result<(), WorkerError> {
        self.worker()?.start_queue(place, queue)
    }

    /// Stops the queue in slot `place` and says where it stood. When this returns without error nobody touches its ring or
    /// its buffers.
    pub fn stop_queue(&mut self, place: usize) -> Result<Option<QueueState>, WorkerError> {
        match &self.run {
            Run::Running(worker) => worker.stop_queue(place),
            Run::Idle(_) | Run::Lost => Ok(None),
        }
    }

    /// Replaces the kick of the queue in slot `place`. The ring is looked at once.
    pub fn set_kick(&mut self, place: usize, kick: Option<EventFd>) {
        if let Run::Running(worker) = &self.run {
            worker.set_kick(place, kick);
        }
    }

    /// From now on nobody serves. None of its queues is running.
    pub fn end(&mut self) -> Result<(), WorkerError> {
        self.run = match std::mem::replace(&mut self.run, Run::Lost) {
            Run::Running(worker) => Run::Idle(Box::new(worker.end()?)),
            other => other,
        };
        Ok(())
    }
}
