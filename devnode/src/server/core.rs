//! What the threads of a server share.

use super::backing::Backings;
use super::flight::{Flight, Flights};
use super::gate::Gate;
use super::park::{self, Parking};
use super::{ServerConfig, ServerStats};
use crate::host::Host;
use crate::tree::{Node, Tree};
use crate::wait::Bell;
use crate::wire::abi::{NOTIFY_POLL, NotifyPollWakeupOut, OutHeader};
use crate::wire::{Answer, errno_on_the_wire};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Condvar, Mutex};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use zerocopy::IntoBytes;

pub(crate) struct Core {
    pub tree: Tree,
    pub host: Arc<Host>,
    pub config: ServerConfig,
    pub fuse: Arc<OwnedFd>,
    pub backings: Backings,
    pub stop: EventFd,
    pub stopping: AtomicBool,
    /// Held by the one thread that reads requests.
    pub leader: Mutex<()>,
    /// Requests read by whoever led.
    pub read: AtomicU64,
    /// Threads that wait to lead.
    pub waiting: AtomicUsize,
    pub threads: Mutex<usize>,
    pub ended: Condvar,
    pub flights: Flights,
    pub gate: Mutex<Gate>,
    pub parking: Parking,
    /// Wakes the keeper.
    pub bell: Arc<Bell>,
}

impl Core {
    pub fn new(tree: Tree, fuse: OwnedFd, host: Host, config: ServerConfig) -> io::Result<Self> {
        Ok(Self {
            tree,
            host: Arc::new(host),
            fuse: Arc::new(fuse),
            backings: Backings::default(),
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            stopping: AtomicBool::new(false),
            leader: Mutex::new(()),
            read: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            threads: Mutex::new(0),
            ended: Condvar::new(),
            flights: Flights::default(),
            gate: Mutex::new(Gate::new(config.threads, config.threads_per_user)),
            parking: Parking::default(),
            bell: Arc::default(),
            config,
        })
    }

    /// The node a request is about. A removed one is still found through whoever has it open: the kernel names no open
    /// file when it asks for attributes.
    pub fn node(&self, id: u64) -> Option<Arc<Node>> {
        self.tree.get(id).or_else(|| self.host.handles.open_node(id))
    }

    /// Answers a request under way, unless it has been answered: whether this answer was the one and arrived.
    pub fn answer(&self, flight: &Flight, answer: &Answer) -> bool {
        flight.claim() && self.send(flight.unique, flight.opcode, answer)
    }

    /// Sends an answer. What the kernel refuses is answered again with EIO: without any answer the caller would hang.
    pub fn send(&self, unique: u64, opcode: u32, answer: &Answer) -> bool {
        let (error, data): (i32, &[u8]) = match answer {
            Answer::None => return true,
            Answer::Data(data) => (0, data),
            Answer::Error(errno) => (errno_on_the_wire(*errno, opcode), &[]),
            Answer::NotOffered => (-(Errno::ENOSYS as i32), &[]),
        };
        match self.write(unique, error, data) {
            Ok(()) => error == 0,
            // The caller is gone, or the mount is.
            Err(Errno::ENOENT | Errno::ENODEV | Errno::ENOTCONN) => false,
            Err(refused) => {
                tracing::error!(opcode, error, len = data.len(), %refused, "the kernel refuses an answer");
                if let Err(error) = self.write(unique, -(Errno::EIO as i32), &[]) {
                    tracing::error!(opcode, %error, "a request is left without an answer");
                }
                false
            }
        }
    }

    fn write(&self, unique: u64, error: i32, data: &[u8]) -> Result<(), Errno> {
        let total = size_of::<OutHeader>() + data.len();
        let header = OutHeader { len: u32::try_from(total).map_err(|_| Errno::EINVAL)?, error, unique };
        loop {
            match nix::sys::uio::writev(&self.fuse, &[IoSlice::new(header.as_bytes()), IoSlice::new(data)]) {
                Ok(written) if written == total => return Ok(()),
                Ok(_) => return Err(Errno::EIO),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells the kernel that the file it calls `kh` is to be looked at again.
    pub fn notify_poll(&self, kh: u64) {
        // A message that is no answer has a code in place of an error, and the number 0.
        match self.write(0, NOTIFY_POLL, NotifyPollWakeupOut { kh }.as_bytes()) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV | Errno::ENOTCONN) => {}
            Err(error) => tracing::error!(%error, "who polls a file cannot be woken"),
        }
    }

    /// A signal came for a caller. It is told at once only if it was killed or waits for its file: anything else waits
    /// for the result, as a kernel driver's callers do.
    pub fn interrupt(&self, flight: Arc<Flight>) {
        if self.parking.interrupt(&flight) {
            park::interrupted(self, &flight);
        } else if flight.is_killed() {
            self.answer(&flight, &Answer::Error(Errno::EINTR));
        } else {
            self.flights.watch(flight);
            self.bell.nudge();
        }
    }

    /// Ends all threads.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.stop.write(1);
        self.bell.nudge();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub fn stats(&self) -> ServerStats {
        // Not under the gate's lock, which is taken under that one.
        let waiting = self.parking.len();
        let gate = self.gate.lock();
        ServerStats {
            threads: *self.threads.lock(),
            read: self.read.load(Ordering::Relaxed),
            busy: gate.running(),
            stuck: gate.stuck(),
            queued: gate.queued(),
            requests: self.flights.len(),
            waiting,
            handles: self.host.handles.len(),
            windows: self.host.quotas.windows(),
            descriptors: self.host.quotas.descriptors(),
            address_spaces: self.host.spaces.len(),
        }
    }
}
