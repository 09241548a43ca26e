//! The place of a queue, for those who work on it: one at a time.

use crate::queue::Queue;
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
    /// has it next.
    pub fn work<R>(&self, work: impl FnOnce(Option<&mut Queue>) -> R) -> R {
        let mut queue = self.0.lock();
        let result = work(queue.as_mut());
        if let Some(queue) = queue.as_mut() {
            queue.interrupt();
        }
        MutexGuard::unlock_fair(queue);
        result
    }

    /// Has a queue run that nobody serves but those who work on the slot.
    #[cfg(feature = "testing")]
    pub fn run(&self, queue: Queue) {
        self.put(queue);
    }

    pub(crate) fn put(&self, queue: Queue) {
        *self.0.lock() = Some(queue);
    }

    pub(crate) fn take(&self) -> Option<Queue> {
        self.0.lock().take()
    }
}
