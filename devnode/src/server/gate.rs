//! How many requests run at a time, in all and for each user.
//!
//! Above the bounds a request waits in its user's queue. A thread that a client holds for long is given up: it no
//! longer counts against the bound of all, so others get a thread in its place, but it still counts against its user.

use super::flight::Flight;
use crate::wire::abi::op;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// More requests of one user than this do not wait, they fail.
const MAX_QUEUE: usize = 4096;

/// Nor do more bytes.
const MAX_QUEUED_BYTES: usize = 16 << 20;

/// More given-up threads than this are not replaced.
const MAX_STUCK: usize = 256;

/// The superuser's clients share one number, so only the bound of all applies to them.
const ROOT: u32 = 0;

/// A request that waits for a thread: its bytes as read.
pub(crate) struct Job {
    pub bytes: Vec<u8>,
    pub flight: Arc<Flight>,
}

#[derive(Default)]
struct User {
    running: usize,
    queue: VecDeque<Job>,
    bytes: usize,
}

pub(crate) struct Gate {
    max: usize,
    max_per_user: usize,
    running: usize,
    stuck: usize,
    users: HashMap<u32, User>,
    /// Users with a queue, in the order in which they get their turn.
    turns: VecDeque<u32>,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It runs now.
    Run,
    /// It is queued, and runs when another one ends.
    Wait,
    /// Its user waits for too much already.
    Refuse,
}

impl Gate {
    pub fn new(max: usize, max_per_user: usize) -> Self {
        Self { max, max_per_user, running: 0, stuck: 0, users: HashMap::new(), turns: VecDeque::new() }
    }

    /// Decides on a request of `bytes`, and queues it if it must wait: in one step, or the last request that runs could
    /// end in between and nobody would ever take the queued one.
    pub fn admit(&mut self, flight: &Arc<Flight>, bytes: &[u8]) -> Admission {
        let free = self.running < self.max;
        let user = self.users.entry(flight.payer).or_default();
        if free && (flight.payer == ROOT || user.running < self.max_per_user) && user.queue.is_empty() {
            user.running += 1;
            self.running += 1;
            return Admission::Run;
        }
        let full = user.queue.len() >= MAX_QUEUE || user.bytes + bytes.len() > MAX_QUEUED_BYTES;
        // A release that is not served keeps its device busy for ever; there are no more of them than open files.
        if full && flight.opcode != op::RELEASE {
            return Admission::Refuse;
        }
        self.queue(Job { bytes: bytes.to_vec(), flight: Arc::clone(flight) });
        Admission::Wait
    }

    /// The next queued request that may run, which then counts as running; users take turns.
    pub fn next(&mut self) -> Option<Job> {
        if self.running >= self.max {
            return None;
        }
        for _ in 0..self.turns.len() {
            let uid = self.turns.pop_front()?;
            let Some(user) = self.users.get_mut(&uid) else { continue };
            if uid != ROOT && user.running >= self.max_per_user {
                self.turns.push_back(uid);
                continue;
            }
            let Some(job) = user.queue.pop_front() else { continue };
            user.bytes -= job.bytes.len();
            if !user.queue.is_empty() {
                self.turns.push_back(uid);
            }
            user.running += 1;
            self.running += 1;
            return Some(job);
        }
        None
    }

    /// A running request waits for its file now, without a thread.
    pub fn park(&mut self, flight: &Flight) {
        self.done(flight);
        flight.pause();
        flight.stuck.store(false, Ordering::Release);
    }

    /// Queues requests that were admitted before and waited for their file.
    pub fn resume(&mut self, jobs: Vec<Job>) {
        jobs.into_iter().for_each(|job| self.queue(job));
    }

    fn queue(&mut self, job: Job) {
        let user = self.users.entry(job.flight.payer).or_default();
        if user.queue.is_empty() {
            self.turns.push_back(job.flight.payer);
        }
        user.bytes += job.bytes.len();
        user.queue.push_back(job);
    }

    /// A running request ended.
    pub fn done(&mut self, flight: &Flight) {
        if flight.stuck.load(Ordering::Acquire) {
            self.stuck -= 1;
        } else {
            self.running -= 1;
        }
        if let Some(user) = self.users.get_mut(&flight.payer) {
            user.running -= 1;
            if user.running == 0 && user.queue.is_empty() {
                self.users.remove(&flight.payer);
            }
        }
    }

    /// Gives up on a running request: whether a thread may take its place.
    pub fn give_up(&mut self, flight: &Flight) -> bool {
        if self.stuck >= MAX_STUCK || flight.stuck.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.stuck += 1;
        self.running -= 1;
        true
    }

    pub fn running(&self) -> usize {
        self.running
    }

    pub fn stuck(&self) -> usize {
        self.stuck
    }

    /// How much waits, by user.
    pub fn queued(&self) -> HashMap<u32, usize> {
        self.users.iter().filter(|(_, user)| !user.queue.is_empty()).map(|(uid, u)| (*uid, u.queue.len())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = &[0; 10];

    fn flight(payer: u32) -> Arc<Flight> {
        Arc::new(Flight::new(1, op::IOCTL, 1, payer))
    }

    #[test]
    fn b1_one_user_cannot_take_all_threads() {
        let mut gate = Gate::new(4, 2);
        let flights: Vec<_> = (0..3).map(|_| flight(7)).collect();
        assert_eq!(gate.admit(&flights[0], BYTES), Admission::Run);
        assert_eq!(gate.admit(&flights[1], BYTES), Admission::Run);
        assert_eq!(gate.admit(&flights[2], BYTES), Admission::Wait);
        assert_eq!(gate.admit(&flight(8), BYTES), Admission::Run);
        assert!(gate.next().is_none(), "user 7 is still at its bound");
        gate.done(&flights[0]);
        assert_eq!(gate.next().unwrap().flight.payer, 7);
        assert!(gate.queued().is_empty());
    }

    #[test]
    fn b1_a_thread_that_is_given_up_is_replaced() {
        let mut gate = Gate::new(1, 1);
        let first = flight(7);
        assert_eq!(gate.admit(&first, BYTES), Admission::Run);
        assert_eq!(gate.admit(&flight(8), BYTES), Admission::Wait);
        assert!(gate.next().is_none());
        assert!(gate.give_up(&first));
        assert!(!gate.give_up(&first));
        let second = gate.next().unwrap();
        assert_eq!((gate.running(), gate.stuck()), (1, 1));
        gate.done(&first);
        gate.done(&second.flight);
        assert_eq!((gate.running(), gate.stuck()), (0, 0));
    }

    #[test]
    fn users_take_turns() {
        let mut gate = Gate::new(1, 1);
        let running = flight(1);
        gate.admit(&running, BYTES);
        for payer in [7, 7, 7, 8] {
            assert_eq!(gate.admit(&flight(payer), BYTES), Admission::Wait);
        }
        let mut order = Vec::new();
        gate.done(&running);
        while let Some(job) = gate.next() {
            order.push(job.flight.payer);
            gate.done(&job.flight);
        }
        assert_eq!(order, [7, 8, 7, 7]);
    }

    #[test]
    fn waiting_requests_are_bounded() {
        let mut gate = Gate::new(0, 1);
        for _ in 0..MAX_QUEUE {
            assert_eq!(gate.admit(&flight(7), BYTES), Admission::Wait);
        }
        assert_eq!(gate.admit(&flight(7), BYTES), Admission::Refuse);
        assert_eq!(gate.admit(&flight(8), &vec![0; MAX_QUEUED_BYTES + 1]), Admission::Refuse);
    }

    #[test]
    fn b4_no_release_is_ever_refused() {
        let mut gate = Gate::new(0, 1);
        for _ in 0..=MAX_QUEUE {
            let release = Arc::new(Flight::new(1, op::RELEASE, 1, ROOT));
            assert_eq!(gate.admit(&release, BYTES), Admission::Wait);
        }
    }

    #[test]
    fn a_request_that_waits_is_taken_by_the_one_that_ends_next() {
        let mut gate = Gate::new(1, 1);
        let (running, waiting) = (flight(7), flight(7));
        gate.admit(&running, BYTES);
        assert_eq!(gate.admit(&waiting, BYTES), Admission::Wait);
        // Nothing between the decision and this end put it into the queue.
        gate.done(&running);
        assert!(gate.next().is_some_and(|job| Arc::ptr_eq(&job.flight, &waiting)));
    }
}
