//! Ends system calls a client makes block: a thread that is about to write to a client's descriptor says so, and is
//! interrupted by a signal when it has not come back after a while.
//!
//! The price on the fast path is two relaxed atomic stores; the clock is a tick the watchdog itself counts. The watchdog
//! sleeps on its own while nobody is watched for long.
#![allow(unsafe_code)] // UNSAFETY: installing a signal handler and signalling a thread have no safe interface.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use parking_lot::Mutex;
use std::cell::OnceCell;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a watched call may take, in ticks.
const PATIENCE: u64 = 2;
const TICK: Duration = Duration::from_millis(50);
/// A signal nothing else uses: its default is to be ignored, so a stray one does no harm.
const INTERRUPT: Signal = Signal::SIGURG;

/// Ticks since the watchdog started; starts at 1, because 0 in a slot means "not watched".
static NOW: AtomicU64 = AtomicU64::new(1);
static SLOTS: OnceLock<Mutex<Vec<Arc<Slot>>>> = OnceLock::new();

#[derive(Default)]
struct Slot {
    tid: AtomicI32,
    since: AtomicU64,
}

/// The thread's registration; gone from the table when the thread ends.
struct Registration(Arc<Slot>);

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(slots) = SLOTS.get() {
            slots.lock().retain(|slot| !Arc::ptr_eq(slot, &self.0));
        }
    }
}

thread_local! {
    static MINE: OnceCell<Registration> = const { OnceCell::new() };
}

/// Until the guard is dropped, a system call of this thread that blocks longer than about a tenth of a second returns
/// EINTR.
pub fn watch() -> Watched {
    let slot = MINE.with(|mine| Arc::clone(&mine.get_or_init(register).0));
    slot.since.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
    Watched(slot)
}

/// The time a thread is watched.
#[must_use = "the watch ends when this is dropped"]
pub struct Watched(Arc<Slot>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::Relaxed);
    }
}

fn register() -> Registration {
    let slots = SLOTS.get_or_init(|| {
        start();
        Mutex::default()
    });
    let slot = Arc::new(Slot::default());
    slot.tid.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    slots.lock().push(Arc::clone(&slot));
    Registration(slot)
}

extern "C" fn on_interrupt(_signal: i32) {}

fn start() {
    let action = SigAction::new(SigHandler::Handler(on_interrupt), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe in any context; SIGURG has no other handler in this process.
    let installed = unsafe { sigaction(INTERRUPT, &action) };
    if let Err(error) = installed {
        tracing::error!(%error, "no signal handler: a client can make a queue thread block");
        return;
    }
    let spawned = std::thread::Builder::new().name("watchdog".into()).spawn(run);
    if let Err(error) = spawned {
        tracing::error!(%error, "no watchdog: a client can make a queue thread block");
    }
}

fn run() {
    loop {
        std::thread::sleep(TICK);
        let now = NOW.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let Some(slots) = SLOTS.get() else { continue };
        for slot in slots.lock().iter() {
            let since = slot.since.load(Ordering::Relaxed);
            if since != 0 && now.saturating_sub(since) > PATIENCE {
                interrupt(slot.tid.load(Ordering::Relaxed));
            }
        }
    }
}

fn interrupt(tid: i32) {
    let process = nix::unistd::getpid().as_raw();
    // SAFETY: tgkill takes plain numbers; the thread is registered, so it is alive (it leaves the table under the lock
    // that is held here), and the handler of the signal does nothing.
    let sent = unsafe { nix::libc::syscall(nix::libc::SYS_tgkill, process, tid, INTERRUPT as i32) };
    if sent != 0 {
        tracing::warn!(tid, error = %Errno::last(), "could not interrupt a blocked thread");
    }
}
