//! The place of a queue, for those who work on it: one at a time.

use crate::PATIENCE;
use crate::queue::Queue;
use crate::service::WorkerError;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// A queue while it runs, nothing while it does not.
#[derive(Debug, Default)]
pub struct Slot(Mutex<Option<Queue>>);

impl Slot {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Works on the queue, if it runs, and tells its driver of what was published. Whoever waited for the slot meanwhile
    /// has it next, so that one who always has work does not keep it.
    pub fn work<R>(&self, work: impl FnOnce(Option<&mut Queue>) -> R) -> R {
        let mut queue = self.0.lock();
        let result = work(queue.as_mut());
        if let Some(queue) = queue.as_mut() {
            queue.interrupt();
        }
        MutexGuard::unlock_fair(queue);
        result
    }

    /// Whether a queue runs whose memory is such that an access may take long.
    pub fn is_slow(&self) -> bool {
        self.0.lock().as_ref().is_some_and(Queue::is_slow)
    }

    /// Has a queue run that nobody serves but those who work on the slot.
    #[cfg(feature = "testing")]
    #[allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
    pub fn run(&self, queue: Queue) {
        self.put(queue).expect("nobody works on the slot");
    }

    /// From now on the queue runs.
    pub(crate) fn put(&self, queue: Queue) -> Result<(), WorkerError> {
        *self.0.try_lock_for(PATIENCE).ok_or(WorkerError::Stuck)? = Some(queue);
        Ok(())
    }

    /// From now on nobody touches the queue's ring or its buffers.
    pub(crate) fn take(&self) -> Result<Option<Queue>, WorkerError> {
        Ok(self.0.try_lock_for(PATIENCE).ok_or(WorkerError::Stuck)?.take())
    }
}
