//! A thread that serves tasks: those that have work get a burst each in turn, the others cost nothing.
//!
//! A task without work is looked at for a while ([`Budget`]) before its drivers are asked for notifications; then it is
//! asleep until a kick, its waker or a back end wakes it. When all are, the thread is.

use crate::budget::Budget;
use crate::pool::Pool;
use crate::service::Next;
use crate::task::Served;
use crate::watch::{ALERT, Naps};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use virtio_mdev_api::notify::EventFd;

/// Which task an event is of; the low bits say what of it.
const TASK: u32 = 16;
const BELL: u64 = u64::MAX;
/// Rounds without work between two looks at the clock. One with work is longer, and counts as several.
const LOOK: u32 = 16;
const ROUND: u32 = 4;
/// A busy thread asks the kernel for events no more often than this.
const POLL: Duration = Duration::from_micros(10);

/// A task whose memory is fast again for so long needs no thread of its own.
const FAST: Duration = Duration::from_millis(200);

/// The mark of events of a task.
pub fn mark(id: u64, what: u16) -> u64 {
    id << TASK | u64::from(what)
}

/// Whether a thread may be kept waiting by the memory of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// It serves one client alone, or is none of ours.
    May,
    /// It serves others too.
    Never,
    /// The same, and it met such memory.
    Refused,
}

thread_local! {
    static WAITING: Cell<Waiting> = const { Cell::new(Waiting::May) };
    static MET: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread serves more than one client.
#[inline]
pub fn is_shared() -> bool {
    WAITING.get() != Waiting::May
}

/// This thread works on memory that may keep it waiting.
pub fn meet_slow() {
    MET.set(true);
}

/// Whether this thread may work on memory that may keep it waiting. Where it may not, it takes note of having been asked.
pub fn may_wait() -> bool {
    let may = WAITING.get() == Waiting::May;
    if !may {
        WAITING.set(Waiting::Refused);
    }
    may
}

/// A thread, as those who give it tasks see it.
pub struct Host {
    /// It serves one task, whose memory may keep it waiting.
    apart: bool,
    pub epoll: Epoll,
    bell: EventFd,
    /// The roster is another than the thread knows.
    changed: AtomicBool,
    pub roster: Mutex<Roster>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("tasks", &self.roster.lock().tasks.len()).finish_non_exhaustive()
    }
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
        let (epoll, bell) = (Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, EventFd::new()?);
        epoll.add(bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        Ok(Arc::new(Self { apart, epoll, bell, changed: AtomicBool::new(false), roster: Mutex::default() }))
    }

    /// The roster was changed: the thread sees to it.
    pub fn ring(&self) {
        self.changed.store(true, Ordering::Release);
        if let Err(errno) = self.bell.signal() {
            tracing::error!(%errno, "cannot wake a thread of queues");
        }
    }
}

/// A task as its thread sees it.
struct Seat {
    id: u64,
    task: Arc<dyn Served>,
    /// Since when there is no work.
    idle: Option<Instant>,
    budget: Budget,
}

/// The thread itself.
pub struct Thread {
    host: Arc<Host>,
    pool: Arc<Pool>,
    /// Looks without work before a sleep take no longer.
    poll: Duration,
    awake: Vec<Seat>,
    asleep: HashMap<u64, Seat>,
    /// Those of the sleeping that may be rung by a store.
    ringing: Vec<u64>,
    naps: Naps,
    /// A moment ago.
    now: Instant,
    met_slow: Instant,
    next_poll: Instant,
    rounds: u32,
}

impl Thread {
    pub fn new(host: Arc<Host>, pool: Arc<Pool>, poll: Duration) -> Self {
        let now = Instant::now();
        Self {
            host,
            pool,
            poll,
            awake: Vec::new(),
            asleep: HashMap::new(),
            ringing: Vec::new(),
            naps: Naps::new(),
            now,
            met_slow: now,
            next_poll: now,
            rounds: 0,
        }
    }

    /// Serves until there is nothing to serve and will not be.
    pub fn run(mut self) {
        Naps::prepare();
        if !self.host.apart {
            WAITING.set(Waiting::Never);
        }
        loop {
            if self.host.changed.load(Ordering::Relaxed) && !self.take_roster() {
                return;
            }
            let waited = if self.awake.is_empty() {
                self.sleep()
            } else {
                let found = self.round();
                self.look(found)
            };
            if let Err(errno) = waited {
                tracing::error!(%errno, "a thread of queues cannot wait for events");
                return;
            }
        }
    }

    /// Takes up tasks that have come, and lets go of those that have gone. `false`: there is none, and none will come.
    fn take_roster(&mut self) -> bool {
        self.host.changed.store(false, Ordering::Relaxed);
        // The lock orders the flag before the look; who changes the roster sets the flag after it.
        let roster = self.host.roster.lock();
        self.awake.retain(|seat| roster.tasks.contains_key(&seat.id));
        self.asleep.retain(|id, _| roster.tasks.contains_key(id));
        for (&id, task) in &roster.tasks {
            if !self.asleep.contains_key(&id) && self.awake.iter().all(|seat| seat.id != id) {
                let (task, budget) = (Arc::clone(task), Budget::new(self.poll));
                // What happened before was told to whoever had it.
                task.taken_up();
                self.awake.push(Seat { id, task, idle: None, budget });
            }
        }
        !(roster.closed && roster.tasks.is_empty())
    }

    /// A burst of every task that is awake. Says whether any had work.
    fn round(&mut self) -> bool {
        let (mut found, mut at) = (false, 0);
        while let Some(seat) = self.awake.get_mut(at) {
            let next = seat.task.serve();
            if WAITING.get() == Waiting::Refused {
                WAITING.set(Waiting::Never);
                let seat = self.awake.swap_remove(at);
                seat.task.relocate(&self.pool, true);
                continue;
            }
            if next == Next::Again {
                if let Some(since) = seat.idle.take() {
                    seat.budget.learn(self.now.saturating_duration_since(since));
                }
                found = true;
                at += 1;
                continue;
            }
            let idle = self.now.saturating_duration_since(*seat.idle.get_or_insert(self.now));
            let rings = idle >= seat.budget.now() && seat.task.is_rung_by_stores();
            let budget = if rings { seat.budget.now().max(ALERT) } else { seat.budget.now() };
            if idle < budget || seat.task.rest() == Next::Again || WAITING.get() == Waiting::Refused {
                at += 1;
                continue;
            }
            let seat = self.awake.swap_remove(at);
            if rings {
                self.naps.restart();
                self.ringing.push(seat.id);
            }
            self.asleep.insert(seat.id, seat);
        }
        found
    }

    /// Now and then: what time is it, and does anything want to be woken?
    fn look(&mut self, found: bool) -> Result<(), Errno> {
        self.rounds += if found { ROUND } else { 1 };
        if self.rounds < LOOK {
            return Ok(());
        }
        self.rounds = 0;
        self.now = Instant::now();
        if found && self.now < self.next_poll {
            return Ok(());
        }
        self.next_poll = self.now + POLL;
        self.come_back();
        self.take_rings();
        self.take_events(EpollTimeout::ZERO)
    }

    /// A task that has a thread of its own needs none any more when its memory does not keep it waiting.
    fn come_back(&mut self) {
        if MET.take() {
            self.met_slow = self.now;
        }
        // It may be the memory of others that it has frames for, which is met now and then.
        if self.host.apart && self.now.saturating_duration_since(self.met_slow) > FAST {
            let fast = self.awake.extract_if(.., |seat| !seat.task.is_slow());
            fast.for_each(|seat| seat.task.relocate(&self.pool, false));
        }
    }

    fn sleep(&mut self) -> Result<(), Errno> {
        if self.ringing.is_empty() {
            self.take_events(EpollTimeout::NONE)?;
        } else {
            self.naps.sleep(&self.host.epoll.0)?;
            self.take_rings();
            self.take_events(EpollTimeout::ZERO)?;
        }
        self.now = Instant::now();
        Ok(())
    }

    fn take_rings(&mut self) {
        let Self { ringing, asleep, awake, .. } = self;
        ringing.retain(|id| {
            let Some(seat) = asleep.get(id) else { return false };
            if seat.task.take_rings() {
                awake.extend(asleep.remove(id));
                return false;
            }
            seat.task.is_rung_by_stores()
        });
    }

    fn take_events(&mut self, patience: EpollTimeout) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); 32];
        let count = match self.host.epoll.wait(&mut events, patience) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        for event in &events[..count] {
            if event.data() == BELL {
                drain(&self.host.bell);
                continue;
            }
            let (id, what) = (event.data() >> TASK, event.data() & ((1 << TASK) - 1));
            let what = u16::try_from(what).unwrap_or(u16::MAX);
            if let Some(seat) = self.asleep.remove(&id) {
                seat.task.happened(what);
                self.ringing.retain(|ringing| *ringing != id);
                self.awake.push(seat);
            } else if let Some(seat) = self.awake.iter().find(|seat| seat.id == id) {
                seat.task.happened(what);
            }
        }
        Ok(())
    }
}

/// Empties an eventfd, so that its writer never meets a full one. What cannot be read is no harm here.
pub fn drain(fd: &EventFd) {
    if let Err(errno) = fd.drain() {
        tracing::debug!(%errno, "eventfd");
    }
}
