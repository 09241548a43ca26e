//! The keeper: looks after requests that take long, and wakes those that wait.

use super::core::Core;
use super::{lead, park};
use crate::wire::Answer;
use nix::errno::Errno;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon a kill is noticed that follows another signal.
const KILL_TICK: Duration = Duration::from_millis(10);

/// How often threads that a client holds are looked for.
const STUCK_TICK: Duration = Duration::from_millis(500);

pub(super) fn spawn(core: &Arc<Core>) -> io::Result<()> {
    let core = core.clone();
    std::thread::Builder::new().name("devnode-keeper".into()).spawn(move || run(&core)).map(drop)
}

fn run(core: &Arc<Core>) {
    let mut stuck_looked = Instant::now();
    while !core.is_stopping() {
        let watched = core.flights.watched();
        for flight in &watched {
            if flight.is_killed() {
                core.answer(flight, &Answer::Error(Errno::EINTR));
            }
        }
        if stuck_looked.elapsed() >= STUCK_TICK {
            stuck_looked = Instant::now();
            give_up_on_stuck(core);
        }
        for queue in core.bell.wait(if watched.is_empty() { STUCK_TICK } else { KILL_TICK }) {
            park::wake(core, &queue);
        }
    }
}

fn give_up_on_stuck(core: &Arc<Core>) {
    for flight in core.flights.all() {
        let Some(begun) = flight.begun() else { continue };
        if begun.elapsed() < core.config.stuck_after {
            continue;
        }
        let mut gate = core.gate.lock();
        // Under the gate's lock a request that is still in the table and not put aside is still running.
        let replace = core.flights.contains(&flight) && flight.begun().is_some() && gate.give_up(&flight);
        let waiting = !gate.queued().is_empty();
        drop(gate);
        if replace {
            tracing::warn!(tid = flight.tid, uid = flight.payer, opcode = flight.opcode, "a client holds a thread");
        }
        if replace
            && waiting
            && let Err(error) = lead::spawn(core)
        {
            tracing::error!(%error, "no thread in place of one that a client holds");
        }
    }
}
