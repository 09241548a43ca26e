//! A thread that serves tasks: those that have work get a burst each in turn, the others cost nothing.
//!
//! A task without work is looked at for a while ([`Budget`]) before its drivers are asked for notifications; then it is
//! asleep until a kick, its waker or a back end wakes it. When all are, the thread is.

use crate::budget::Budget;
use crate::host::{BELL, Host, drain, unmark};
use crate::pool::Pool;
use crate::served::Served;
use crate::service::Next;
use crate::sync::{Instant, Ordering};
use crate::waiting;
use crate::watch::{ALERT, Naps};
use crate::watched::is_notifier;
use nix::errno::Errno;
use nix::sys::epoll::EpollTimeout;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Rounds without work between two looks at the clock. One with work is longer, and counts as several.
const LOOK: u32 = 16;
const ROUND: u32 = 4;
/// A busy thread asks the kernel for events no more often than this.
const POLL: Duration = Duration::from_micros(10);

/// A task whose memory is fast again for so long needs no thread of its own.
const FAST: Duration = Duration::from_millis(200);

/// A task as its thread sees it.
struct Seat {
    id: u64,
    task: Arc<dyn Served>,
    /// Since when there is no work.
    idle: Option<Instant>,
    budget: Budget,
    /// What told of something, and is to be emptied.
    full: Vec<u16>,
}

impl Seat {
    fn new(id: u64, task: Arc<dyn Served>, poll: Duration) -> Self {
        Self { id, task, idle: None, budget: Budget::new(poll), full: Vec::new() }
    }

    /// It was told of `what`. A notifier is emptied when there is time: it tells of whatever is written to it, emptied or not,
    /// and who wrote to it waits for something else to be done.
    fn tell(&mut self, what: u16) {
        if !is_notifier(what) {
            self.task.happened(self.id, what);
        } else if !self.full.contains(&what) {
            self.full.push(what);
        }
    }

    /// Empties what told of something. `true`: something was, and what it told of has to be looked for once more.
    fn empty(&mut self) -> bool {
        let Self { id, task, full, .. } = self;
        full.drain(..).map(|what| task.happened(*id, what)).count() > 0
    }
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
    /// A moment ago, unless the thread has slept since and only looked for work.
    now: Instant,
    has_slept: bool,
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
            has_slept: false,
            met_slow: now,
            next_poll: now,
            rounds: 0,
        }
    }

    /// Serves until there is nothing to serve and will not be.
    pub fn run(mut self) {
        Naps::prepare();
        if !self.host.apart {
            waiting::share();
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
        let known = |id| self.asleep.contains_key(id) || self.awake.iter().any(|seat| seat.id == *id);
        let come = roster.tasks.iter().filter(|(id, _)| !known(id));
        let come: Vec<_> = come.map(|(&id, task)| Seat::new(id, Arc::clone(task), self.poll)).collect();
        let over = roster.closed && roster.tasks.is_empty();
        // Who moves a task to another thread has the task, and then wants the roster.
        drop(roster);
        // What happened before was told to whoever had it.
        come.iter().for_each(|seat| seat.task.taken_up(seat.id));
        self.awake.extend(come);
        !over
    }

    /// A burst of every task that is awake. Says whether any had work.
    fn round(&mut self) -> bool {
        let (mut found, mut at) = (false, 0);
        while let Some(seat) = self.awake.get_mut(at) {
            let next = seat.task.serve();
            if self.has_slept {
                (self.now, self.has_slept) = (Instant::now(), false);
            }
            if waiting::was_refused() {
                waiting::forget_refusal();
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
            if idle < budget || seat.empty() || seat.task.rest() == Next::Again || waiting::was_refused() {
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
        if waiting::met_slow() {
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
            self.naps.sleep(&self.host.events)?;
            self.take_rings();
            self.take_events(EpollTimeout::ZERO)?;
        }
        self.has_slept = true;
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
        for mark in self.host.events.wait(patience)? {
            if mark == BELL {
                drain(&self.host.bell);
                continue;
            }
            let (id, what) = unmark(mark);
            if let Some(mut seat) = self.asleep.remove(&id) {
                seat.tell(what);
                self.ringing.retain(|ringing| *ringing != id);
                self.awake.push(seat);
            } else if let Some(seat) = self.awake.iter_mut().find(|seat| seat.id == id) {
                seat.tell(what);
            }
        }
        Ok(())
    }
}
