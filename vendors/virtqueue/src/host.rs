//! A thread, as those who give it tasks see it.

use crate::events::Events;
use crate::served::Served;
use crate::sync::{AtomicBool, EventFd, Mutex, Ordering};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Which task an event is of; the low bits say what of it.
const TASK: u32 = 16;
/// The mark of the bell.
pub const BELL: u64 = u64::MAX;

/// The mark of events of a task.
pub fn mark(id: u64, what: u16) -> u64 {
    id << TASK | u64::from(what)
}

/// The task that a mark is of, and what of it.
pub fn unmark(mark: u64) -> (u64, u16) {
    (mark >> TASK, u16::try_from(mark & ((1 << TASK) - 1)).unwrap_or(u16::MAX))
}

/// A thread.
pub struct Host {
    /// It serves one task, whose memory may keep it waiting.
    pub apart: bool,
    pub events: Events,
    pub bell: EventFd,
    /// The roster is another than the thread knows.
    pub changed: AtomicBool,
    pub roster: Mutex<Roster>,
}

/// What a thread has to serve.
#[derive(Default)]
pub struct Roster {
    pub tasks: BTreeMap<u64, Arc<dyn Served>>,
    /// No task will come any more: the thread ends with the last one.
    pub closed: bool,
}

impl Host {
    /// Without tasks.
    pub fn new(apart: bool) -> Result<Arc<Self>, Errno> {
        let (events, bell) = (Events::new()?, EventFd::new()?);
        events.watch_level(&bell, BELL)?;
        Ok(Arc::new(Self { apart, events, bell, changed: AtomicBool::new(false), roster: Mutex::default() }))
    }

    /// The roster was changed: the thread sees to it.
    pub fn ring(&self) {
        self.changed.store(true, Ordering::Release);
        if let Err(errno) = self.bell.signal() {
            tracing::error!(%errno, "cannot wake a thread of queues");
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("tasks", &self.roster.lock().tasks.len()).finish_non_exhaustive()
    }
}

/// Empties an eventfd, so that its writer never meets a full one. What cannot be read is no harm here.
pub fn drain(fd: &EventFd) {
    if let Err(errno) = fd.drain() {
        tracing::debug!(%errno, "eventfd");
    }
}
