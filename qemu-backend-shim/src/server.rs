//! One front end after the other, until told to stop or the instance is gone.
//!
//! The caller's thread only polls, so a signal is honoured whatever a front end or the daemon does. Requests run on a thread of each connection; a
//! watcher asks every second whether the instance is still there, also while no front end speaks, and listens for the request to let go of it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
// the vhost crate takes handlers within this kind of lock
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, error, info, warn};
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

use crate::backend::Backend;
use crate::device::Device;
use crate::error::Error;
use crate::events::Events;
use crate::features::PROTOCOL_FEATURES;
use crate::instance::Instance;
use crate::sys;
use crate::task::Task;

/// How often the instance is asked whether it is still there.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a front end must be silent for its change of memory to be complete: the messages of one change follow each other within microseconds.
const SETTLE_MS: u8 = 10;
/// How long a connection may take to end once its socket is shut down. Only a daemon that does not answer needs longer.
const END_MS: u16 = 5000;

/// Why [`serve`] returned.
#[derive(Debug)]
pub enum Outcome {
    /// As asked.
    Stopped,
    /// The instance was removed or is about to be, or its daemon died; this is how that showed.
    InstanceGone(Error),
}

enum Event {
    Stop,
    Gone,
    Ready,
}

/// Serves front ends of `device`, of which `events` tell, that connect to `listener`, one at a time (the next one waits in the socket's queue), until `stop` can be read.
///
/// Errors are those that no later front end could be served after.
pub fn serve<I: Instance + 'static>(
    device: Device<I>,
    events: Events,
    listener: &UnixListener,
    stop: BorrowedFd<'_>,
) -> Result<Outcome, Error> {
    match serve_all(device, events, listener, stop) {
        Err(e) if e.is_gone() => Ok(Outcome::InstanceGone(e)),
        result => result,
    }
}

fn serve_all<I: Instance + 'static>(
    device: Device<I>,
    events: Events,
    listener: &UnixListener,
    stop: BorrowedFd<'_>,
) -> Result<Outcome, Error> {
    let backend = Arc::new(Mutex::new(Backend::new(device)));
    let watcher = watch(&backend, events)?;
    loop {
        let mut event = next_event(stop, watcher.end(), listener.as_fd())?;
        if let Event::Ready = event {
            let stream = listener.accept()?.0;
            event = serve_one(stream, &backend, stop, watcher.end())?;
        }
        match event {
            Event::Ready => {}
            Event::Stop => return Ok(Outcome::Stopped),
            Event::Gone => {
                let reason = watcher.join().ok().flatten();
                return Err(reason.unwrap_or(Error::Io(io::Error::other("the watcher panicked"))));
            }
        }
    }
}

/// Serves one connection to its end, which comes early when the process is to stop or the instance is gone.
fn serve_one<I: Instance + 'static>(
    stream: UnixStream,
    backend: &Arc<Mutex<Backend<I>>>,
    stop: BorrowedFd<'_>,
    gone: BorrowedFd<'_>,
) -> Result<Event, Error> {
    info!("front end connected");
    let connection = stream.try_clone()?;
    let shared = Arc::clone(backend);
    let task = Task::spawn("vhost-user", move || connected(&stream, &shared))?;
    let event = next_event(stop, gone, task.end())?;
    if !matches!(event, Event::Ready) {
        // the peer may have closed it already
        let _ = connection.shutdown(std::net::Shutdown::Both);
        if !wait(&[task.end()], END_MS.into())?[0] {
            return Err(Error::NoAnswer);
        }
    }
    let cleared = task.join().unwrap_or_else(|_| {
        error!("the connection's thread panicked; the front end is disconnected");
        backend.clear_poison();
        lock(backend).disconnect()
    });
    cleared.inspect_err(|e| error!("the instance cannot be cleared of its front end: {e}"))?;
    Ok(event)
}

fn connected<I: Instance>(stream: &UnixStream, backend: &Arc<Mutex<Backend<I>>>) -> Result<(), Error> {
    match primed_handler(stream, backend).and_then(|mut handler| requests(&mut handler, stream, backend)) {
        Err(ProtocolError::Disconnected) => info!("front end disconnected"),
        Err(e) => warn!("front end disconnected: {e}"),
        Ok(never) => match never {},
    }
    lock(backend).disconnect()
}

fn requests<I: Instance>(
    handler: &mut BackendReqHandler<Mutex<Backend<I>>>,
    stream: &UnixStream,
    backend: &Mutex<Backend<I>>,
) -> Result<std::convert::Infallible, ProtocolError> {
    loop {
        if lock(backend).device().is_settling() {
            let silent = !wait(&[stream.as_fd()], SETTLE_MS.into()).map_err(ProtocolError::SocketError)?[0];
            if silent {
                lock(backend).device().settle()?;
            }
        }
        handler.handle_request()?;
    }
}

/// A handler that takes SET_VRING_ENABLE from the first message on.
///
/// The vhost crate refuses that request until SET_FEATURES acknowledged VHOST_USER_F_PROTOCOL_FEATURES, and does not answer it. QEMU's network device
/// sends it as soon as the bit is offered, and waits for the answer. So the handler first gets a SET_FEATURES of our own, over a socket pair whose end
/// then gives way to the front end's connection. The [`Backend`] ignores that one.
fn primed_handler<I: Instance>(
    stream: &UnixStream,
    backend: &Arc<Mutex<Backend<I>>>,
) -> Result<BackendReqHandler<Mutex<Backend<I>>>, ProtocolError> {
    const VERSION: u32 = 1;
    let (mut ours, theirs) = UnixStream::pair().map_err(ProtocolError::SocketError)?;
    let mut handler = BackendReqHandler::from_stream(theirs, Arc::clone(backend));
    let header = [u32::from(FrontendReq::SET_FEATURES), VERSION, 8].map(u32::to_ne_bytes);
    let message = [header.as_flattened(), &PROTOCOL_FEATURES.to_ne_bytes()].concat();
    ours.write_all(&message).map_err(ProtocolError::SocketError)?;
    handler.handle_request()?;
    sys::replace_descriptor(stream.as_fd(), &handler).map_err(|e| ProtocolError::SocketError(e.into()))?;
    Ok(handler)
}

/// A thread that ends, with the reason, once the instance is gone; without one when the backend is no longer served.
fn watch<I: Instance + 'static>(
    backend: &Arc<Mutex<Backend<I>>>,
    mut events: Events,
) -> io::Result<Task<Option<Error>>> {
    let backend = Arc::downgrade(backend);
    Task::spawn("watcher", move || {
        while let Some(backend) = backend.upgrade() {
            match lock(&backend).device().check() {
                Err(e) if e.is_gone() => return Some(e),
                Err(e) => debug!("{e}"),
                Ok(()) => {}
            }
            drop(backend);
            if events.removal_requested(WATCH_INTERVAL) {
                return Some(Error::RemovalRequested);
            }
        }
        None
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next_event(stop: BorrowedFd<'_>, gone: BorrowedFd<'_>, ready: BorrowedFd<'_>) -> io::Result<Event> {
    loop {
        match wait(&[stop, gone, ready], PollTimeout::NONE)?[..] {
            [true, ..] => return Ok(Event::Stop),
            [_, true, _] => return Ok(Event::Gone),
            [_, _, true] => return Ok(Event::Ready),
            _ => {}
        }
    }
}

/// Which of `fds` can be read, or have hung up, when one of them can or the time is over.
fn wait(fds: &[BorrowedFd<'_>], timeout: PollTimeout) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => {}
            result => {
                result?;
                return Ok(polled.iter().map(|fd| fd.any().unwrap_or(true)).collect());
            }
        }
    }
}
