//! The loop of a thread: lead, hand over, work, and again.

use super::core::Core;
use super::flight::Flight;
use super::gate::{Admission, Job};
use super::park::Outcome;
use super::{quick, work};
use crate::wire::abi::{MAX_WRITE, op};
use crate::wire::{Answer, Op, Request, decode};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The largest request: a write with its headers. The kernel asks for room for a page of headers.
const BUFFER: usize = MAX_WRITE as usize + 4096;

/// Threads that may wait to lead; more go.
const MAX_IDLE: usize = 4;

/// Starts one more thread.
pub(super) fn spawn(core: &Arc<Core>) -> io::Result<()> {
    let mut threads = core.threads.lock();
    let shared = core.clone();
    std::thread::Builder::new().name("devnode".into()).spawn(move || {
        run(&shared);
        let mut threads = shared.threads.lock();
        *threads -= 1;
        shared.ended.notify_all();
    })?;
    *threads += 1;
    Ok(())
}

/// How a term as leader ended.
enum Next {
    /// With a request to work on, of so many bytes in the buffer.
    Work(Arc<Flight>, usize),
    /// There is nothing more to do for this thread.
    Leave,
}

fn run(core: &Arc<Core>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        loop {
            let job = core.gate.lock().next();
            let Some(Job { bytes, flight }) = job else { break };
            execute(core, &bytes, &flight);
        }
        match lead(core, &mut buffer) {
            Next::Work(flight, len) => execute(core, &buffer[..len], &flight),
            Next::Leave => return,
        }
    }
}

fn execute(core: &Core, bytes: &[u8], flight: &Arc<Flight>) {
    flight.begin();
    // A caller that was killed while its request waited has its answer; a release has nobody who could be killed.
    while !flight.is_answered() {
        let wait = match decode(bytes) {
            Ok(request) => work::work(core, &request, flight),
            Err(_) => {
                core.answer(flight, &Answer::Error(Errno::EIO));
                None
            }
        };
        let Some(wait) = wait else { break };
        match core.parking.park(core, wait, bytes, flight) {
            Outcome::Parked => return,
            Outcome::LookAgain => {}
            Outcome::Refused(errno) => drop(core.answer(flight, &Answer::Error(errno))),
        }
    }
    // Both under the gate's lock: the keeper must not give up on what has just ended.
    let mut gate = core.gate.lock();
    core.flights.done(flight);
    gate.done(flight);
}

fn lead(core: &Arc<Core>, buffer: &mut [u8]) -> Next {
    if core.waiting.fetch_add(1, Ordering::AcqRel) >= MAX_IDLE {
        core.waiting.fetch_sub(1, Ordering::AcqRel);
        return Next::Leave;
    }
    let leader = core.leader.lock();
    core.waiting.fetch_sub(1, Ordering::AcqRel);
    loop {
        let Some(len) = read(core, buffer) else { return Next::Leave };
        let request = match decode(&buffer[..len]) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(%error, len, "not a request");
                if let Some(unique) = error.unique {
                    core.send(unique, 0, &Answer::Error(Errno::EIO));
                }
                continue;
            }
        };
        if let Op::Interrupt { unique } = request.op {
            if let Some(flight) = core.flights.interrupted(unique) {
                core.interrupt(flight);
            }
            continue;
        }
        if let Some(answer) = quick::answer(core, &request) {
            core.send(request.unique, request.opcode, &answer);
            continue;
        }
        let flight = enter(core, &request);
        let admission = core.gate.lock().admit(&flight, &buffer[..len]);
        match admission {
            Admission::Run => {}
            Admission::Wait => continue,
            Admission::Refuse => {
                core.answer(&flight, &Answer::Error(Errno::ENOMEM));
                core.flights.done(&flight);
                continue;
            }
        }
        if core.waiting.load(Ordering::Acquire) == 0
            && let Err(error) = spawn(core)
        {
            // Better to serve slowly than not at all: others wait until this one is done.
            tracing::error!(%error, "no thread to lead");
            execute(core, &buffer[..len], &flight);
            continue;
        }
        drop(leader);
        return Next::Work(flight, len);
    }
}

/// Enters a request in the table of those under way.
fn enter(core: &Core, request: &Request<'_>) -> Arc<Flight> {
    let payer = if request.opcode == op::RELEASE { 0 } else { request.uid };
    let flight = Arc::new(Flight::new(request.unique, request.opcode, request.tid, payer));
    if let Op::Release { fh } = request.op {
        work::release_begins(core, fh);
    }
    if core.flights.register(&flight) {
        core.interrupt(flight.clone());
    }
    flight
}

/// Reads one request: its length. None when the server stops.
fn read(core: &Core, buffer: &mut [u8]) -> Option<usize> {
    loop {
        if core.is_stopping() {
            return None;
        }
        match nix::unistd::read(&core.fuse, buffer) {
            Ok(len) => {
                core.read.fetch_add(1, Ordering::Relaxed);
                return Some(len);
            }
            Err(Errno::EAGAIN) => {
                let mut fds = [
                    PollFd::new(core.fuse.as_fd(), PollFlags::POLLIN),
                    PollFd::new(core.stop.as_fd(), PollFlags::POLLIN),
                ];
                // Whatever it says, the next read tells more.
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            // ENOENT: a request was taken back while it was read.
            Err(Errno::EINTR | Errno::ENOENT) => {}
            Err(Errno::ENODEV) => {
                tracing::info!("unmounted");
                core.stop();
                return None;
            }
            Err(error) => {
                tracing::error!(%error, "/dev/fuse cannot be read");
                core.stop();
                return None;
            }
        }
    }
}
