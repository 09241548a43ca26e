//! Reads that wait for their file, without a thread.
//!
//! A read that finds nothing is put aside with its bytes; when its file is woken it is queued as if it came anew. Only
//! such a wait is indefinite, so only here a signal that does not kill ends a call (EINTR, nothing was taken).

use super::core::Core;
use super::flight::Flight;
use super::gate::Job;
use super::lead;
use crate::wait::WaitQueue;
use crate::wire::Answer;
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::Arc;

/// More reads of one user than this do not wait, they fail.
const MAX_PARKED: usize = 4096;

/// A read that found nothing to read.
pub(crate) struct Wait {
    pub queue: WaitQueue,
    /// The turn at which it looked.
    pub turn: u64,
}

struct Parked {
    queue: WaitQueue,
    job: Job,
}

/// All reads that wait.
#[derive(Default)]
pub(crate) struct Parking(Mutex<Vec<Parked>>);

/// What becomes of a read that would wait.
pub(crate) enum Outcome {
    Parked,
    /// The file was woken since it looked.
    LookAgain,
    Refused(Errno),
}

impl Parking {
    /// Puts a read aside. The thread that served it is free afterwards.
    pub fn park(&self, core: &Core, wait: Wait, bytes: &[u8], flight: &Arc<Flight>) -> Outcome {
        let mut parked = self.0.lock();
        // Under this lock: whoever wakes or interrupts from here on finds it parked.
        if flight.is_interrupted() {
            return Outcome::Refused(Errno::EINTR);
        }
        if !wait.queue.is_still(wait.turn) {
            return Outcome::LookAgain;
        }
        if parked.iter().filter(|parked| parked.job.flight.payer == flight.payer).count() >= MAX_PARKED {
            return Outcome::Refused(Errno::ENOMEM);
        }
        core.gate.lock().park(flight);
        parked.push(Parked { queue: wait.queue, job: Job { bytes: bytes.to_vec(), flight: Arc::clone(flight) } });
        Outcome::Parked
    }

    /// A signal came: a read that waits does so no more. Whether it waited.
    pub fn interrupt(&self, flight: &Arc<Flight>) -> bool {
        let mut parked = self.0.lock();
        flight.set_interrupted();
        let at = parked.iter().position(|parked| Arc::ptr_eq(&parked.job.flight, flight));
        at.map(|at| parked.swap_remove(at)).is_some()
    }

    /// Everything that waits for `queue`, in the order it came.
    fn take(&self, queue: &WaitQueue) -> Vec<Job> {
        self.0.lock().extract_if(.., |parked| parked.queue.is(queue)).map(|parked| parked.job).collect()
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// `queue` was woken: the kernel is told, and reads that wait for it run again.
pub(super) fn wake(core: &Arc<Core>, queue: &WaitQueue) {
    if let Some(kh) = queue.answer() {
        core.notify_poll(kh);
    }
    let jobs = core.parking.take(queue);
    if jobs.is_empty() {
        return;
    }
    core.gate.lock().resume(jobs);
    if let Err(error) = lead::spawn(core) {
        // They run when a thread that works is done.
        tracing::error!(%error, "no thread for reads that waited");
    }
}

/// Ends an interrupted wait.
pub(super) fn interrupted(core: &Core, flight: &Flight) {
    core.answer(flight, &Answer::Error(Errno::EINTR));
    core.flights.done(flight);
}
