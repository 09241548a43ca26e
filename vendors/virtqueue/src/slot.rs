//! The place of a queue, for those who work on it: one at a time.

use crate::PATIENCE;
use crate::queue::Queue;
use crate::service::WorkerError;
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};
use crate::waiting;
use std::sync::Arc;
use std::time::Duration;

/// How long a thread that serves others waits for a slot.
const BRIEF: Duration = Duration::from_millis(10);

/// A queue while it runs, nothing while it does not.
#[derive(Debug, Default)]
pub struct Slot {
    queue: Mutex<Option<Queue>>,
    /// Whoever has the slot may keep it for long, because of the memory of the queue.
    slow: AtomicBool,
}

impl Slot {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Works on the queue, if it runs, and tells its driver of what was published. Whoever waited for the slot meanwhile
    /// has it next, so that one who always has work does not keep it. On a thread that serves others a queue whose memory
    /// may keep it waiting is as one that does not run.
    pub fn work<R>(&self, work: impl FnOnce(Option<&mut Queue>) -> R) -> R {
        let Some(mut queue) = self.lock() else { return work(None) };
        let result = work(queue.as_mut());
        if let Some(queue) = queue.as_mut() {
            queue.interrupt();
        }
        MutexGuard::unlock_fair(queue);
        result
    }

    fn lock(&self) -> Option<MutexGuard<'_, Option<Queue>>> {
        if !waiting::is_shared() {
            let queue = self.queue.lock();
            let slow = queue.as_ref().is_some_and(Queue::is_slow);
            self.slow.store(slow, Ordering::Relaxed);
            if slow {
                waiting::meet_slow();
            }
            return Some(queue);
        }
        if self.slow.load(Ordering::Relaxed) && !waiting::may_wait() {
            return None;
        }
        self.queue.try_lock_for(BRIEF)
    }

    /// Whether a queue runs whose memory is such that an access may take long. A slot that somebody has may have one.
    pub fn is_slow(&self) -> bool {
        let Some(queue) = self.queue.try_lock() else { return true };
        let slow = queue.as_ref().is_some_and(Queue::is_slow);
        self.slow.store(slow, Ordering::Relaxed);
        slow
    }

    /// Has a queue run that nobody serves but those who work on the slot.
    #[cfg(feature = "testing")]
    #[allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
    pub fn run(&self, queue: Queue) {
        self.put(queue).expect("nobody works on the slot");
    }

    /// From now on the queue runs.
    pub(crate) fn put(&self, queue: Queue) -> Result<(), WorkerError> {
        *self.queue.try_lock_for(PATIENCE).ok_or(WorkerError::Stuck)? = Some(queue);
        Ok(())
    }

    /// From now on nobody touches the queue's ring or its buffers.
    pub(crate) fn take(&self) -> Result<Option<Queue>, WorkerError> {
        Ok(self.queue.try_lock_for(PATIENCE).ok_or(WorkerError::Stuck)?.take())
    }
}
