//! Requests under way.
//!
//! Each is answered once: whoever claims it first sends the answer, the worker when it is done, or whoever learns
//! that the caller was killed. A killed caller waits for its answer and cannot die before.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A request that was read and is not yet done.
#[derive(Debug)]
pub(crate) struct Flight {
    pub unique: u64,
    pub opcode: u32,
    pub tid: i32,
    /// The user whose bounds it counts against.
    pub payer: u32,
    answered: AtomicBool,
    /// A signal came for the caller.
    interrupted: AtomicBool,
    /// When a thread took it up; none while it is queued or waits for its file.
    begun: Mutex<Option<Instant>>,
    /// Given up on: its thread no longer counts as one of those that serve.
    pub stuck: AtomicBool,
}

impl Flight {
    pub fn new(unique: u64, opcode: u32, tid: i32, payer: u32) -> Self {
        Self {
            unique,
            opcode,
            tid,
            payer,
            answered: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            begun: Mutex::new(None),
            stuck: AtomicBool::new(false),
        }
    }

    /// The right to answer: true once.
    pub fn claim(&self) -> bool {
        !self.answered.swap(true, Ordering::AcqRel)
    }

    /// Whether the answer was sent or is being sent: the caller may be gone.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    pub fn set_interrupted(&self) {
        self.interrupted.store(true, Ordering::Release);
    }

    /// No thread works on it any more, for now.
    pub fn pause(&self) {
        *self.begun.lock() = None;
    }

    pub fn begin(&self) {
        *self.begun.lock() = Some(Instant::now());
    }

    pub fn begun(&self) -> Option<Instant> {
        *self.begun.lock()
    }

    /// Whether SIGKILL is pending for the caller. `/proc/<tid>/status` takes no lock that a client can hold.
    pub fn is_killed(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/status", self.tid)).is_ok_and(|status| sigkill_pending(&status))
    }
}

fn sigkill_pending(status: &str) -> bool {
    /// SIGKILL is signal 9.
    const SIGKILL: u64 = 1 << 8;
    status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .any(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & SIGKILL != 0))
}

/// Interrupts that came before their request are few; older ones than this belong to requests long done.
const EARLY: usize = 256;

/// All requests under way.
#[derive(Default)]
pub(crate) struct Flights(Mutex<Table>);

#[derive(Default)]
struct Table {
    flights: HashMap<u64, Arc<Flight>>,
    /// Interrupts whose request is not known (yet).
    early: VecDeque<u64>,
    /// Interrupted, and the caller was not killed when looked at last.
    watched: Vec<Arc<Flight>>,
}

impl Table {
    fn has(&self, flight: &Flight) -> bool {
        self.flights.get(&flight.unique).is_some_and(|found| std::ptr::eq(&raw const **found, flight))
    }
}

impl Flights {
    /// Enters a request. True when its interrupt was read before it.
    pub fn register(&self, flight: &Arc<Flight>) -> bool {
        let mut table = self.0.lock();
        table.flights.insert(flight.unique, flight.clone());
        let early = table.early.iter().position(|unique| *unique == flight.unique);
        early.is_some_and(|index| table.early.remove(index).is_some())
    }

    /// The request an interrupt is about; one that is not there (yet) is remembered.
    pub fn interrupted(&self, unique: u64) -> Option<Arc<Flight>> {
        let mut table = self.0.lock();
        let flight = table.flights.get(&unique).cloned();
        if flight.is_none() {
            if table.early.len() == EARLY {
                table.early.pop_front();
            }
            table.early.push_back(unique);
        }
        flight
    }

    /// Keeps an eye on an interrupted request: the kernel tells of its first signal only, and a SIGKILL may follow.
    pub fn watch(&self, flight: Arc<Flight>) {
        self.0.lock().watched.push(flight);
    }

    /// The watched requests that are not answered yet.
    pub fn watched(&self) -> Vec<Arc<Flight>> {
        let mut table = self.0.lock();
        table.watched.retain(|flight| !flight.is_answered());
        table.watched.clone()
    }

    /// Forgets a request. Its number may belong to another by now: it was free from the answer on.
    pub fn done(&self, flight: &Flight) {
        let mut table = self.0.lock();
        if table.has(flight) {
            table.flights.remove(&flight.unique);
        }
    }

    pub fn contains(&self, flight: &Flight) -> bool {
        self.0.lock().has(flight)
    }

    pub fn all(&self) -> Vec<Arc<Flight>> {
        self.0.lock().flights.values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.0.lock().flights.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b5_a_kill_is_told_from_other_signals() {
        assert!(sigkill_pending("Name:\tx\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(sigkill_pending("SigPnd:\t0000000000000000\nShdPnd:\t0000000000002100\n"));
        assert!(!sigkill_pending("SigPnd:\t0000000000002000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000100\n"));
    }

    #[test]
    fn b3_an_interrupt_read_before_its_request_is_not_lost() {
        let flights = Flights::default();
        assert!(flights.interrupted(40).is_none());
        let flight = Arc::new(Flight::new(40, 39, 1, 0));
        assert!(flights.register(&flight));
        assert!(flights.interrupted(40).is_some());
        flights.done(&flight);
        assert!(!flights.register(&Arc::new(Flight::new(42, 39, 1, 0))));
    }

    #[test]
    fn a_request_that_is_done_leaves_the_next_one_of_its_number() {
        let flights = Flights::default();
        let [old, new] = [(); 2].map(|()| Arc::new(Flight::new(40, 15, 1, 0)));
        flights.register(&old);
        flights.register(&new);
        flights.done(&old);
        assert!(flights.contains(&new) && !flights.contains(&old));
        assert!(flights.interrupted(40).is_some());
    }

    #[test]
    fn unknown_interrupts_do_not_pile_up() {
        let flights = Flights::default();
        for unique in 0..10_000 {
            flights.interrupted(unique);
        }
        assert_eq!(flights.0.lock().early.len(), EARLY);
    }

    #[test]
    fn b5_a_request_is_answered_once() {
        let flight = Flight::new(1, 39, 1, 0);
        assert!(flight.claim());
        assert!(flight.is_answered());
        assert!(!flight.claim());
    }
}
