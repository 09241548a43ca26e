//! The thread of a device: started with its first queue, joined with its last.
//!
//! It sleeps until a driver kicks, the back end is ready, memory comes or control wants something; where a driver rings by
//! a store, it looks now and then. A client that makes
//! it block holds up its own device alone; whoever waits for the thread does so for a bounded time.

use crate::health::Health;
use crate::queue::Queue;
use crate::slot::Slot;
use crate::waker::Waker;
use crate::watch;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;
use virtio_mdev_api::doorbell::Doorbell;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{HasErrno, QueueState};

/// How long control waits for the thread: less than a vendor's call may take.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// What an event is about: a kick by the place of its queue, then the back ends, then the waker.
const BACKENDS: u64 = 1 << 16;
const WAKER: u64 = 1 << 32;

/// What a device does on its thread.
pub trait Service: Send + 'static {
    /// The places of its queues.
    fn slots(&self) -> Vec<Arc<Slot>>;

    /// Does what can be done now, at most about one burst of it; [`Next::Wait`] when there was nothing.
    fn serve(&mut self) -> Next;

    /// Nobody will serve until something happens: asks drivers for the notifications that are needed. [`Next::Again`] when
    /// something has come meanwhile.
    fn rest(&mut self) -> Next;

    /// What to watch besides the queues, and what for.
    fn backends(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        Vec::new()
    }

    /// Back end `number`, as they were listed, may have become ready. Told once for each change, not as long as it lasts.
    fn backend_ready(&mut self, _number: usize) {}
}

/// What of a back end a service waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// That it can be read.
    Input,
    /// That it can be written.
    Output,
    /// Either.
    Both,
}

impl Interest {
    fn events(self) -> EpollFlags {
        match self {
            Self::Input => EpollFlags::EPOLLIN,
            Self::Output => EpollFlags::EPOLLOUT,
            Self::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        }
    }
}

/// What a service wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is more to do.
    Again,
    /// Nothing, until something happens.
    Wait,
}

/// The thread did not do what it was asked in time, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WorkerError {
    /// It is stuck, in all likelihood in memory of its client.
    #[error("the device's thread did not answer within {PATIENCE:?}")]
    Stuck,
    /// It panicked.
    #[error("the device's thread is gone")]
    Gone,
    /// It could not be had.
    #[error("no thread for the device: {0}")]
    Start(Errno),
}

impl HasErrno for WorkerError {
    fn errno(&self) -> Errno {
        match self {
            Self::Stuck => Errno::ETIMEDOUT,
            Self::Gone => Errno::EIO,
            Self::Start(errno) => *errno,
        }
    }
}

enum Control<S> {
    Start(usize, Box<Queue>, Sender<()>),
    Stop(usize, Sender<Option<Box<Queue>>>),
    Kick(usize, Option<EventFd>),
    End(Sender<S>),
}

/// Control of a device's thread.
#[derive(Debug)]
pub struct Worker<S> {
    control: Sender<Control<S>>,
    waker: Arc<Waker>,
    /// `None` once it was joined.
    thread: Option<JoinHandle<()>>,
}

impl<S> Worker<S> {
    fn ask<R>(&self, command: impl FnOnce(Sender<R>) -> Control<S>) -> Result<R, WorkerError> {
        let (answer, result) = bounded(1);
        self.control.send(command(answer)).map_err(|_| WorkerError::Gone)?;
        self.waker.wake();
        result.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => WorkerError::Stuck,
            RecvTimeoutError::Disconnected => WorkerError::Gone,
        })
    }

    fn end_thread(&mut self) -> Result<S, WorkerError> {
        let thread = self.thread.take().ok_or(WorkerError::Gone)?;
        let service = self.ask(Control::End)?;
        thread.join().map_err(|_| WorkerError::Gone)?;
        Ok(service)
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        // A thread that was joined is not asked again; one that is stuck ends when it can.
        if let Err(error @ WorkerError::Stuck) = self.end_thread() {
            tracing::warn!(%error, "left behind");
        }
    }
}

impl<S: Service> Worker<S> {
    /// Starts the thread called `name` (as far as 15 bytes go). Its queues share `waker`. On failure the service comes
    /// back.
    pub fn spawn(name: &str, service: S, waker: Arc<Waker>, health: Arc<Health>) -> Result<Self, (WorkerError, S)> {
        let epoll = match watched(&service, &waker) {
            Ok(epoll) => epoll,
            Err(errno) => return Err((WorkerError::Start(errno), service)),
        };
        let (control, commands) = unbounded();
        // The service goes to the thread by way of a channel, so that it is not lost when there is no thread.
        let (hand_over, take) = bounded::<S>(1);
        let own_waker = Arc::clone(&waker);
        let spawned = std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
            let Ok(service) = take.recv() else { return };
            let _watch = PanicWatch(health);
            let slots = service.slots();
            Thread { service, slots, epoll, waker: own_waker, commands }.run();
        });
        match spawned {
            Ok(thread) => {
                // The thread waits for it.
                let _ = hand_over.send(service);
                Ok(Self { control, waker, thread: Some(thread) })
            }
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw);
                Err((WorkerError::Start(errno), service))
            }
        }
    }

    /// Puts a running queue into slot `place`; returns when the thread has it.
    pub fn start_queue(&self, place: usize, queue: Queue) -> Result<(), WorkerError> {
        self.ask(|answer| Control::Start(place, Box::new(queue), answer))
    }

    /// Stops the queue in slot `place` and says where it stood. When this returns without error nobody touches its ring or
    /// its buffers.
    pub fn stop_queue(&self, place: usize) -> Result<Option<QueueState>, WorkerError> {
        let stopped = self.ask(|answer| Control::Stop(place, answer))?;
        Ok(stopped.map(|queue| queue.state()))
    }

    /// Replaces the kick of the queue in slot `place`. The ring is looked at once.
    pub fn set_kick(&self, place: usize, kick: Option<EventFd>) {
        // A thread that is gone needs no kick.
        let _ = self.control.send(Control::Kick(place, kick));
        self.waker.wake();
    }

    /// Ends the thread and gives the service back.
    pub fn end(mut self) -> Result<S, WorkerError> {
        self.end_thread()
    }
}

fn watched(service: &impl Service, waker: &Waker) -> Result<Epoll, Errno> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(waker.fd().as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKER))?;
    for (number, (backend, interest)) in (BACKENDS..WAKER).zip(service.backends()) {
        epoll.add(backend, EpollEvent::new(interest.events() | EpollFlags::EPOLLET, number))?;
    }
    Ok(epoll)
}

/// Tells of a panic on the thread: the device is no more.
struct PanicWatch(Arc<Health>);

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fault(None, "the device's thread panicked");
        }
    }
}

struct Thread<S> {
    service: S,
    slots: Vec<Arc<Slot>>,
    epoll: Epoll,
    waker: Arc<Waker>,
    commands: Receiver<Control<S>>,
}

impl<S: Service> Thread<S> {
    fn run(mut self) {
        loop {
            // Control first: it must not wait for a queue that always has work.
            loop {
                match self.commands.try_recv() {
                    Ok(Control::End(answer)) => {
                        // Whoever asked may have given up; then the service ends here.
                        let _ = answer.send(self.service);
                        return;
                    }
                    Ok(command) => self.obey(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if self.service.serve() == Next::Again || self.service.rest() == Next::Again || self.resume() {
                continue;
            }
            if let Err(errno) = self.sleep() {
                tracing::error!(%errno, "a device's thread cannot sleep");
                return;
            }
        }
    }

    /// Whether memory came that a queue waited for.
    fn resume(&self) -> bool {
        // Of each, not only of the first: each has to be asked before a sleep.
        let resumed = |slot: &&Arc<Slot>| slot.work(|queue| queue.is_some_and(Queue::resume));
        self.slots.iter().filter(resumed).count() > 0
    }

    fn obey(&mut self, command: Control<S>) {
        match command {
            Control::Start(place, queue, answer) => {
                if queue.doorbell().is_some() {
                    watch::prepare();
                }
                self.watch_kick(place, &queue);
                self.slots[place].put(*queue);
                let _ = answer.send(());
            }
            Control::Stop(place, answer) => {
                let queue = self.slots[place].take();
                if let Some(kick) = queue.as_ref().and_then(Queue::kick) {
                    self.forget_kick(kick);
                }
                let _ = answer.send(queue.map(Box::new));
            }
            Control::Kick(place, kick) => self.slots[place].work(|queue| {
                let Some(queue) = queue else { return };
                if let Some(old) = queue.replace_kick(kick) {
                    self.forget_kick(&old);
                }
                self.watch_kick(place, queue);
            }),
            Control::End(_) => unreachable!("handled where the thread ends"),
        }
    }

    /// Edges, not levels: a client whose eventfd cannot be emptied (EFD_SEMAPHORE) does not keep this thread busy.
    fn watch_kick(&self, place: usize, queue: &Queue) {
        let Some(kick) = queue.kick() else { return };
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, place as u64);
        if let Err(errno) = self.epoll.add(kick, event) {
            tracing::warn!(%errno, queue = queue.index(), "cannot wait for the kicks of a queue");
        }
    }

    fn forget_kick(&self, kick: &EventFd) {
        if let Err(errno) = self.epoll.delete(kick) {
            tracing::debug!(%errno, "a kick was not waited for");
        }
    }

    fn have_doorbells(&self) -> bool {
        self.slots.iter().any(|slot| slot.work(|queue| queue.is_some_and(|queue| queue.doorbell().is_some())))
    }

    /// Whether a queue was rung since this was last asked.
    fn take_rings(&self) -> bool {
        // Of each, not only of the first that was rung.
        let rung = |slot: &&Arc<Slot>| {
            slot.work(|queue| queue.and_then(|queue| queue.doorbell().map(Doorbell::take)).unwrap_or(false))
        };
        self.slots.iter().filter(rung).count() > 0
    }

    fn sleep(&mut self) -> Result<(), Errno> {
        let mut patience = EpollTimeout::NONE;
        if self.have_doorbells() {
            watch::wait(&self.epoll.0, || self.take_rings())?;
            patience = EpollTimeout::ZERO;
        }
        let mut events = [EpollEvent::empty(); 16];
        let count = match self.epoll.wait(&mut events, patience) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        for event in &events[..count] {
            match event.data() {
                WAKER => drain(self.waker.fd()),
                place @ ..BACKENDS => {
                    let slot = usize::try_from(place).ok().and_then(|place| self.slots.get(place));
                    let kick = slot.and_then(|slot| slot.work(|queue| queue.and_then(|queue| queue.kick().cloned())));
                    kick.iter().for_each(drain);
                }
                backend => self.service.backend_ready(usize::try_from(backend - BACKENDS).unwrap_or(usize::MAX)),
            }
        }
        Ok(())
    }
}

/// Empties an eventfd, so that its writer never meets a full one. What cannot be read is no harm here.
fn drain(fd: &EventFd) {
    if let Err(errno) = fd.drain() {
        tracing::debug!(%errno, "eventfd");
    }
}
