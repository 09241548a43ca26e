//! A card with a client's calls on one side and terminals on the other, and the thread that waits at these.

use crate::card::{Card, Wanted};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use virtio_mdev_api::Refusal;
use virtio_mdev_api::notify::EventFd;

/// A card whose terminals are served. One without terminals has no thread.
pub struct Served {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    card: Mutex<Card>,
    /// Ends the thread's waiting.
    waker: EventFd,
    ended: AtomicBool,
}

impl Served {
    /// Serves the terminals of `card`, which is called `name`.
    pub fn new(name: &str, card: Card) -> Result<Self, Refusal> {
        let waker = EventFd::new().map_err(|errno| Refusal::new(errno, "no eventfd"))?;
        let terminals = terminals(&card).map_err(|_| Refusal::new(Errno::EMFILE, "no descriptor for a terminal"))?;
        let shared = Arc::new(Shared { card: Mutex::new(card), waker, ended: AtomicBool::new(false) });
        let thread = (!terminals.is_empty()).then(|| {
            let shared = Arc::clone(&shared);
            let name = format!("mtty {}", name.get(..8).unwrap_or(name));
            std::thread::Builder::new().name(name).spawn(move || shared.wait_at(&terminals))
        });
        let thread = thread.transpose().map_err(|_| Refusal::new(Errno::EAGAIN, "no thread for the terminals"))?;
        Ok(Self { shared, thread })
    }

    /// Whether there are any.
    pub fn has_terminals(&self) -> bool {
        self.thread.is_some()
    }

    /// Does something with the card.
    pub fn with<R>(&self, work: impl FnOnce(&mut Card) -> R) -> R {
        let mut card = self.shared.card.lock();
        let result = work(&mut card);
        if self.has_terminals() && card.is_watched_wrongly() {
            self.shared.wake();
        }
        result
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("a serial card's thread panicked");
        }
    }
}

/// The terminals of a card, to be waited at without its lock.
fn terminals(card: &Card) -> io::Result<Vec<OwnedFd>> {
    let terminals = card.ports().iter().filter_map(|port| port.pty());
    terminals.map(|pty| pty.fd().try_clone_to_owned()).collect()
}

impl Shared {
    fn wake(&self) {
        if let Err(errno) = self.waker.signal() {
            tracing::error!(%errno, "cannot wake a serial card's thread");
        }
    }

    /// Waits for what the ports want, and moves it.
    fn wait_at(&self, terminals: &[OwnedFd]) {
        while !self.ended.load(Ordering::Acquire) {
            let wanted = self.card.lock().watch();
            let mut fds = vec![PollFd::new(self.waker.as_fd(), PollFlags::POLLIN)];
            // One that nothing is wanted of is left out: its hang-up would be told without end.
            let waited = terminals.iter().zip(&wanted).filter(|(_, wanted)| **wanted != Wanted::default());
            fds.extend(waited.map(|(terminal, wanted)| PollFd::new(terminal.as_fd(), events(*wanted))));
            if let Err(errno) = poll(&mut fds, PollTimeout::NONE)
                && errno != Errno::EINTR
            {
                tracing::error!(%errno, "a serial card's terminals cannot be waited at");
                return;
            }
            let _ = self.waker.drain();
            self.card.lock().serve_lines();
        }
    }
}

fn events(wanted: Wanted) -> PollFlags {
    let input = if wanted.input { PollFlags::POLLIN } else { PollFlags::empty() };
    input | if wanted.output { PollFlags::POLLOUT } else { PollFlags::empty() }
}
