//! Waiting for an open file to become readable: in `poll(2)` and its like, or in a blocking `read(2)`.

use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

bitflags::bitflags! {
    /// What `poll(2)` finds, and what it asks for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct PollEvents: u32 {
        /// `POLLIN | POLLRDNORM`: a read does not wait.
        const IN = 0x41;
        /// `POLLOUT | POLLWRNORM`: a write does not wait.
        const OUT = 0x104;
        /// `POLLERR`: told whether it was asked for or not.
        const ERR = 0x8;
        /// `POLLHUP`: told whether it was asked for or not.
        const HUP = 0x10;
    }
}

/// Those who wait for one open file. Cheap to clone; clones are one queue.
#[derive(Clone, Default)]
pub struct WaitQueue(Arc<Waiters>);

#[derive(Default)]
struct Waiters {
    /// How often it was woken: who looked before the last time looks again before it waits.
    turn: AtomicU64,
    /// The bell was rung and not yet answered.
    rung: AtomicBool,
    /// The kernel's number for the file, while somebody polls it.
    polled: Mutex<Option<u64>>,
    /// Who tells the kernel; nobody before the first wait.
    bell: OnceLock<Weak<Bell>>,
}

impl WaitQueue {
    /// A queue nobody waits in.
    pub fn new() -> Self {
        Self::default()
    }

    /// The file's condition changed: everybody looks again. To be called **after** the change. Never blocks on a client
    /// and asks nothing of the kernel itself, so a device's thread may call it.
    pub fn wake(&self) {
        self.0.turn.fetch_add(1, Ordering::SeqCst);
        let Some(bell) = self.0.bell.get().and_then(Weak::upgrade) else { return };
        if !self.0.rung.swap(true, Ordering::AcqRel) {
            bell.ring(self.clone());
        }
    }

    /// Which turn it is, for somebody who looks at the file next and may then wait. `bell` wakes him.
    pub(crate) fn turn(&self, bell: &Arc<Bell>) -> u64 {
        self.0.bell.get_or_init(|| Arc::downgrade(bell));
        self.0.turn.load(Ordering::SeqCst)
    }

    /// Whether nobody was woken since `turn`.
    pub(crate) fn is_still(&self, turn: u64) -> bool {
        self.0.turn.load(Ordering::SeqCst) == turn
    }

    /// The kernel wants to be told of the next change of the file it calls `kh`.
    pub(crate) fn polled(&self, kh: u64) {
        *self.0.polled.lock() = Some(kh);
    }

    /// The bell is answered now: whom in the kernel to tell.
    pub(crate) fn answer(&self) -> Option<u64> {
        // Not a plain store: what whoever rang changed before is seen from here on.
        self.0.rung.swap(false, Ordering::AcqRel);
        self.0.polled.lock().take()
    }

    pub(crate) fn is(&self, other: &WaitQueue) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Wakes the keeper of a server.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<Rung>,
    bell: Condvar,
}

/// What the keeper has to look at.
#[derive(Default)]
struct Rung {
    queues: Vec<WaitQueue>,
    nudged: bool,
}

impl Bell {
    fn ring(&self, queue: WaitQueue) {
        self.rung.lock().queues.push(queue);
        self.bell.notify_one();
    }

    /// Something else changed.
    pub fn nudge(&self) {
        self.rung.lock().nudged = true;
        self.bell.notify_one();
    }

    /// Waits until it is rung or nudged, no longer than `limit`, and says which queues were woken.
    pub fn wait(&self, limit: Duration) -> Vec<WaitQueue> {
        let mut rung = self.rung.lock();
        if rung.queues.is_empty() && !rung.nudged {
            self.bell.wait_for(&mut rung, limit);
        }
        std::mem::take(&mut *rung).queues
    }
}

impl std::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitQueue").field("turn", &self.0.turn).finish_non_exhaustive()
    }
}
