//! The threads of a parent: who serves which task.
//!
//! Threads start with the tasks they are for and end with them. A task goes to the thread with the fewest, and stays; one
//! whose memory may keep a thread waiting has a thread of its own as long as that is so.

use crate::end::End;
use crate::host::Host;
use crate::served::Served;
use crate::service::WorkerError;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::thread::Thread;
use nix::errno::Errno;
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use std::sync::Arc;
use std::time::Duration;

/// How the tasks of a parent are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOptions {
    /// Most threads; at least one.
    pub threads: usize,
    /// Where they run, one after the other and then from the beginning; anywhere when there is none.
    pub cpus: Vec<usize>,
    /// How long a task without work is looked at before its thread sleeps, at most.
    pub poll: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { threads: 1, cpus: Vec::new(), poll: Duration::from_micros(50) }
    }
}

impl PoolOptions {
    /// The first of the processors that this process may not run on.
    pub fn unusable_cpu(&self) -> Result<Option<usize>, Errno> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        Ok(self.cpus.iter().copied().find(|cpu| !allowed.is_set(*cpu).unwrap_or(false)))
    }
}

/// Threads that serve tasks.
#[derive(Debug)]
pub struct Pool {
    name: String,
    options: PoolOptions,
    running: Mutex<Vec<Running>>,
    next_id: AtomicU64,
}

/// A thread that takes tasks.
#[derive(Debug)]
struct Running {
    host: Arc<Host>,
    /// Which of those there may be; `None` for one that serves a single task, apart from the others.
    number: Option<usize>,
    end: End,
}

/// Where a task is served.
#[derive(Debug, Clone)]
pub struct Place {
    pub host: Arc<Host>,
    pub id: u64,
}

impl Pool {
    /// No thread runs yet. Those that will are called `name` and a number.
    pub fn new(name: &str, options: PoolOptions) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), options, running: Mutex::default(), next_id: AtomicU64::new(0) })
    }

    /// Gives a task to a thread, to one of its own if `apart`. The thread takes it up when it is rung.
    pub(crate) fn admit(self: &Arc<Self>, task: Arc<dyn Served>, apart: bool) -> Result<Place, WorkerError> {
        let mut running = self.running.lock();
        let mut numbers = (0..self.options.threads.max(1)).map(Some);
        let missing = numbers.find(|number| running.iter().all(|other| other.number != *number));
        let host = match if apart { Some(None) } else { missing } {
            Some(number) => {
                let thread = self.spawn(number)?;
                let host = Arc::clone(&thread.host);
                running.push(thread);
                host
            }
            None => {
                let shared = running.iter().filter(|thread| thread.number.is_some());
                let least = shared.min_by_key(|thread| thread.host.roster.lock().tasks.len());
                Arc::clone(&least.ok_or(WorkerError::Gone)?.host)
            }
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        host.roster.lock().tasks.insert(id, task);
        Ok(Place { host, id })
    }

    /// Takes a task from its thread. A thread that was left with none ends, which the caller may wait
    /// for.
    pub(crate) fn dismiss(&self, place: &Place) -> Option<End> {
        let mut running = self.running.lock();
        let mut roster = place.host.roster.lock();
        roster.tasks.remove(&place.id);
        let mut end = None;
        if roster.tasks.is_empty() {
            roster.closed = true;
            let at = running.iter().position(|thread| Arc::ptr_eq(&thread.host, &place.host));
            end = at.map(|at| running.swap_remove(at).end);
        }
        drop(roster);
        place.host.ring();
        end
    }

    /// The thread is stuck in the task at `place`: the others go to other threads, and so do those that come.
    pub(crate) fn give_up(self: &Arc<Self>, place: &Place) {
        let tasks: Vec<_> = {
            let mut running = self.running.lock();
            running.retain(|thread| !Arc::ptr_eq(&thread.host, &place.host));
            let mut roster = place.host.roster.lock();
            roster.closed = true;
            roster.tasks.iter().filter(|(id, _)| **id != place.id).map(|(_, task)| Arc::clone(task)).collect()
        };
        tracing::warn!(pool = self.name, tasks = tasks.len(), "a thread is stuck; its other tasks go to another");
        tasks.iter().for_each(|task| Arc::clone(task).relocate(self, false));
    }

    fn spawn(self: &Arc<Self>, number: Option<usize>) -> Result<Running, WorkerError> {
        let host = Host::new(number.is_none()).map_err(WorkerError::Start)?;
        let thread = Thread::new(Arc::clone(&host), Arc::clone(self), self.options.poll);
        // One that is apart may be anywhere among them.
        let cpus = match number {
            Some(number) if !self.options.cpus.is_empty() => vec![self.options.cpus[number % self.options.cpus.len()]],
            _ => self.options.cpus.clone(),
        };
        let word = number.map_or_else(|| "slow".to_owned(), |number| number.to_string());
        let name = format!("{}/{word}", self.name.chars().take(10).collect::<String>());
        let end = End::of(name, cpus, move || thread.run()).map_err(WorkerError::Start)?;
        Ok(Running { host, number, end })
    }
}
