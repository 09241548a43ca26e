//! Vendor code runs here: on a thread lent for the length of one call, with a deadline, its panics caught.
//!
//! Threads are made on demand and kept a while. A call that outlives its deadline keeps its thread (nothing can take it
//! back), is counted as stuck, and its caller goes on with an error.

use crate::{HasErrno, Refusal};
use crossbeam_channel::{Receiver, Sender};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;

/// How long a vendor may take for one call, unless said otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a thread without work waits for some before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// How vendor code failed to return.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VendorFault {
    /// The deadline passed. The call may still be running.
    #[error("{call} did not return within {after:?}")]
    Hung {
        /// The operation.
        call: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The code panicked.
    #[error("{call} panicked: {message}")]
    Panicked {
        /// The operation.
        call: &'static str,
        /// What the panic said.
        message: String,
    },
    /// The code said that it failed where it must not.
    #[error("{call} failed: {reason}")]
    Failed {
        /// The operation.
        call: &'static str,
        /// What it said.
        reason: Refusal,
    },
    /// An earlier call hung or panicked.
    #[error("the instance is broken: {0}")]
    Broken(Box<VendorFault>),
    /// The object was discarded.
    #[error("the instance is gone")]
    Gone,
    /// No thread could be had.
    #[error("no thread to run {call} on")]
    NoThread {
        /// The operation.
        call: &'static str,
    },
}

impl HasErrno for VendorFault {
    fn errno(&self) -> Errno {
        match self {
            Self::Hung { .. } => Errno::ETIMEDOUT,
            Self::Panicked { .. } | Self::Broken(_) => Errno::EIO,
            Self::Failed { reason, .. } => reason.errno(),
            Self::Gone => Errno::ENODEV,
            Self::NoThread { .. } => Errno::EAGAIN,
        }
    }
}

struct Pool {
    send: Sender<Job>,
    take: Receiver<Job>,
    idle: AtomicUsize,
    stuck: AtomicUsize,
}

static POOL: LazyLock<Pool> = LazyLock::new(|| {
    let (send, take) = crossbeam_channel::unbounded();
    Pool { send, take, idle: AtomicUsize::new(0), stuck: AtomicUsize::new(0) }
});

/// Calls that outlived their deadline and have not returned since.
pub fn stuck_calls() -> usize {
    POOL.stuck.load(Ordering::Relaxed)
}

/// Runs `work` on a thread of its own and waits for its result, at most for `deadline`.
pub fn run<R: Send + 'static>(
    call: &'static str,
    deadline: Duration,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, VendorFault> {
    let (answer, result) = crossbeam_channel::bounded(1);
    let ended = Arc::new(AtomicBool::new(false));
    let job_ended = Arc::clone(&ended);
    submit(
        call,
        Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(panic.as_ref()));
            // Whoever comes second, the end of the call or the end of the caller's patience, sees the other.
            if job_ended.swap(true, Ordering::AcqRel) {
                POOL.stuck.fetch_sub(1, Ordering::Relaxed);
            }
            // The caller may have gone: then nobody wants the result.
            let _ = answer.send(outcome);
        }),
    )?;
    match result.recv_timeout(deadline) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(message)) => Err(VendorFault::Panicked { call, message }),
        Err(_) => {
            POOL.stuck.fetch_add(1, Ordering::Relaxed);
            if ended.swap(true, Ordering::AcqRel) {
                POOL.stuck.fetch_sub(1, Ordering::Relaxed);
            }
            Err(VendorFault::Hung { call, after: deadline })
        }
    }
}

fn submit(call: &'static str, job: Job) -> Result<(), VendorFault> {
    #[cfg(test)]
    if shortage::here() {
        return Err(VendorFault::NoThread { call });
    }
    let claimed = POOL.idle.fetch_update(Ordering::AcqRel, Ordering::Acquire, |idle| idle.checked_sub(1));
    if claimed.is_ok() {
        return POOL.send.send(job).map_err(|_| VendorFault::NoThread { call });
    }
    let spawned = std::thread::Builder::new().name("vendor".into()).spawn(move || serve(job));
    spawned.map(|_| ()).map_err(|_| VendorFault::NoThread { call })
}

fn serve(first: Job) {
    let mut job = first;
    loop {
        job();
        POOL.idle.fetch_add(1, Ordering::AcqRel);
        job = match POOL.take.recv_timeout(IDLE) {
            Ok(job) => job,
            Err(_) => {
                let left = POOL.idle.fetch_update(Ordering::AcqRel, Ordering::Acquire, |idle| idle.checked_sub(1));
                if left.is_ok() {
                    return;
                }
                // Somebody claimed this thread at the last moment: its job is on the way.
                match POOL.take.recv() {
                    Ok(job) => job,
                    Err(_) => return,
                }
            }
        };
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// A vendor's object, reachable only through calls that are made one at a time, have a deadline and cannot unwind into
/// the caller. After a call hung or panicked every later one answers [`VendorFault::Broken`].
pub struct Guarded<T: ?Sized> {
    inner: Arc<Inner<T>>,
    deadline: Duration,
}

struct Inner<T: ?Sized> {
    broken: OnceLock<VendorFault>,
    /// Held by whoever has a call under way: the time spent waiting for another's call is nobody's hang.
    turn: Mutex<()>,
    value: Mutex<Option<Box<T>>>,
}

impl<T: ?Sized> Clone for Guarded<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), deadline: self.deadline }
    }
}

impl<T: ?Sized + Send + 'static> Guarded<T> {
    /// Guards `value`; each call may take `deadline`.
    pub fn new(value: Box<T>, deadline: Duration) -> Self {
        Self {
            inner: Arc::new(Inner { broken: OnceLock::new(), turn: Mutex::new(()), value: Mutex::new(Some(value)) }),
            deadline,
        }
    }

    /// Runs `work` on the object.
    pub fn call<R: Send + 'static>(
        &self,
        call: &'static str,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, VendorFault> {
        // Not for long: each call before this one ends at its deadline, and then breaks the object for those that wait.
        let _turn = self.inner.turn.lock();
        if let Some(fault) = self.broken() {
            return Err(VendorFault::Broken(Box::new(fault.clone())));
        }
        let inner = Arc::clone(&self.inner);
        let outcome = run(call, self.deadline, move || inner.value.lock().as_deref_mut().map(work));
        if let Err(fault) = &outcome {
            self.break_with(fault.clone());
        }
        outcome?.ok_or(VendorFault::Gone)
    }

    /// Drops the object, as guarded as any other call: later calls answer [`VendorFault::Gone`]. An object that is
    /// stuck in a call is dropped when that call ends.
    pub fn discard(&self) {
        let inner = Arc::clone(&self.inner);
        let dropped = run("drop", self.deadline, move || drop(inner.value.lock().take()));
        if let Err(fault) = dropped {
            tracing::error!(%fault, "a discarded device does not go");
        }
    }

    /// What broke the object, if anything did.
    pub fn broken(&self) -> Option<&VendorFault> {
        self.inner.broken.get()
    }

    /// Declares the object broken.
    pub fn break_with(&self, fault: VendorFault) {
        if !matches!(fault, VendorFault::NoThread { .. }) {
            // The first fault is the one to tell of; a later one changes nothing.
            let _ = self.inner.broken.set(fault);
        }
    }
}

/// A machine without another thread, which a test cannot make of the one it runs on.
#[cfg(test)]
pub(crate) mod shortage {
    use std::cell::Cell;

    thread_local!(static SHORT: Cell<bool> = const { Cell::new(false) });

    pub(super) fn here() -> bool {
        SHORT.get()
    }

    /// Whether calls that this thread makes find no thread to run on.
    pub(crate) fn set(short: bool) {
        SHORT.set(short);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_call_returns_its_result() {
        let guarded = Guarded::new(Box::new(41), DEFAULT_DEADLINE);
        assert_eq!(guarded.call("add", |value| *value + 1), Ok(42));
    }

    #[test]
    fn f37_a_hung_call_ends_at_its_deadline_and_breaks_its_object_only() {
        let (hung, other) = (Guarded::new(Box::new(()), SHORT), Guarded::new(Box::new(()), DEFAULT_DEADLINE));
        let (release, wait) = crossbeam_channel::bounded::<()>(0);
        let begun = Instant::now();
        let fault = hung.call("hang", move |()| wait.recv().is_ok()).unwrap_err();
        assert_eq!(fault, VendorFault::Hung { call: "hang", after: SHORT });
        assert_eq!(fault.errno(), Errno::ETIMEDOUT);
        assert!(begun.elapsed() < DEFAULT_DEADLINE);
        assert_eq!(hung.call("next", |()| ()).unwrap_err().errno(), Errno::EIO);
        assert_eq!(other.call("next", |()| 7), Ok(7));
        drop(release);
    }

    #[test]
    fn calls_that_wait_for_one_another_are_not_taken_for_hung() {
        let guarded = Guarded::new(Box::new(()), SHORT * 10);
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                (0..8).map(|_| scope.spawn(|| guarded.call("slow", |()| std::thread::sleep(SHORT * 2)))).collect();
            for call in calls {
                assert_eq!(call.join().unwrap(), Ok(()));
            }
        });
    }

    #[test]
    fn f37_a_panic_is_an_error_with_its_message() {
        let guarded = Guarded::new(Box::new(()), DEFAULT_DEADLINE);
        let fault = guarded.call("start_queue", |()| panic!("index {} out of range", 3)).unwrap_err();
        assert_eq!(fault.to_string(), "start_queue panicked: index 3 out of range");
        assert!(guarded.broken().is_some());
    }

    #[test]
    fn a_discarded_object_is_dropped_and_gone() {
        let object = Arc::new(());
        let guarded = Guarded::new(Box::new(Arc::clone(&object)), DEFAULT_DEADLINE);
        guarded.discard();
        assert_eq!(Arc::strong_count(&object), 1);
        assert_eq!(guarded.call("next", |_| ()).unwrap_err().errno(), Errno::ENODEV);
    }

    #[test]
    fn threads_are_used_again() {
        let id = || run("id", DEFAULT_DEADLINE, || std::thread::current().id()).unwrap();
        let ids: std::collections::HashSet<_> = (0..100).map(|_| id()).collect();
        assert!(ids.len() < 50, "{} threads for 100 calls in a row", ids.len());
    }
}
