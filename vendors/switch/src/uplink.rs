//! The way to the host: a TAP interface that is a port of the switch.

use crate::burst::{Burst, Source};
use crate::counters::Counters;
use crate::egress::Room;
use crate::forward::Forwarder;
use crate::hub::{Hub, Joined};
use crate::member::{Exit, Settings};
use crate::port::DELIVERIES;
use crate::table::PortId;
use crate::vlan::Membership;
use nix::errno::Errno;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use tap::{OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, TunQueue, create_interface};
use virtio_mdev_api::{DeviceLink, Refusal};
use virtio_net::{DEFAULT_MTU, Delivery, HEADER, Halt, Interest, MAX_FRAME, Next, Receiver, Sent, Statistics};
use virtqueue::{Health, Pool, Service, Slot, Task, Waker, WorkerError};

/// Frames read in one burst.
const BURST: usize = 64;
/// The VLAN whose frames have no tag at the host.
const NATIVE: u16 = 1;

/// The interface.
pub struct TapUplink {
    queue: TunQueue,
}

impl TapUplink {
    fn new(name: &str) -> Result<Self, Refusal> {
        let tun = Arc::new(create_interface(name, 1, DEFAULT_MTU)?);
        // Whoever gets a frame and does not take it as it is has it done here.
        let offload = tun.set_offload(OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6);
        offload.map_err(|errno| Refusal::new(errno, format!("interface {name} refuses offloads: {}", errno.desc())))?;
        let queue = tun.queues().next();
        let queue = queue.ok_or_else(|| Refusal::new(Errno::ENODEV, format!("interface {name} has no queue")))?;
        Ok(Self { queue })
    }

    /// Gives the host a frame, in two parts; `false`: it does not take it, or not now.
    pub fn write(&self, head: &[u8], rest: &[u8]) -> bool {
        let parts = [IoSlice::new(head), IoSlice::new(rest)];
        loop {
            match nix::sys::uio::writev(&self.queue, &parts) {
                Err(Errno::EINTR) => {}
                written => return written.is_ok(),
            }
        }
    }
}

/// The port, which lives as long as the parent.
pub struct Uplink {
    name: String,
    settings: Arc<Settings>,
    /// Ended first: what comes from the host has nowhere to go then.
    _task: Task<FromHost>,
    _joined: Joined,
}

impl Uplink {
    /// Makes interface `name` a port of the switch, served by a thread of `pool`.
    pub fn new(hub: &Arc<Hub>, name: &str, pool: &Arc<Pool>) -> Result<Self, Refusal> {
        let tap = Arc::new(TapUplink::new(name)?);
        let settings = Arc::new(Settings::new(Membership::uplink(Some(NATIVE)), 0));
        let joined = hub.join(name.to_owned(), Arc::clone(&settings), Exit::Tap(Arc::clone(&tap)));
        let frames =
            Frames { tap, buffer: vec![0; HEADER + MAX_FRAME].into_boxed_slice(), len: 0, readable: true, read: 0 };
        let from = FromHost {
            hub: Arc::clone(hub),
            place: joined.id(),
            frames,
            room: Room::new(),
            statistics: Statistics::default(),
        };
        let waker = Arc::new(Waker::new().map_err(WorkerError::Start)?);
        let mut task = Task::new(from, waker, Health::new(DeviceLink::new(name)), Arc::clone(pool));
        task.run()?;
        Ok(Self { name: name.to_owned(), settings, _task: task, _joined: joined })
    }

    /// The name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was dropped, by reason.
    pub fn counters(&self) -> &Counters {
        &self.settings.counters
    }
}

/// What comes from the host.
struct FromHost {
    hub: Arc<Hub>,
    place: PortId,
    frames: Frames,
    room: Room,
    statistics: Statistics,
}

impl Service for FromHost {
    fn slots(&self) -> Vec<Arc<Slot>> {
        Vec::new()
    }

    fn serve(&mut self) -> Next {
        let topology = self.hub.topology();
        let Some(from) = topology.member(self.place) else { return Next::Wait };
        let forwarder = Forwarder { hub: &self.hub, topology: &topology, from, now: self.hub.now() };
        self.frames.read = 0;
        let (statistics, room) = (&self.statistics, &mut self.room);
        let mut burst = Burst { forwarder, statistics, lane: 0, room, left: DELIVERIES };
        // The interface halts nobody.
        let _ = burst.run(&mut self.frames);
        if self.frames.read > 0 { Next::Again } else { Next::Wait }
    }

    fn rest(&mut self) -> Next {
        if self.frames.readable { Next::Again } else { Next::Wait }
    }

    fn backends(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        vec![(self.frames.tap.queue.as_fd(), Interest::Input)]
    }

    fn backend_ready(&mut self, _number: usize) {
        self.frames.readable = true;
    }
}

/// Frames of the interface, one at a time. They pass through a buffer of our own, so that no system call can meet the memory
/// of a client.
struct Frames {
    tap: Arc<TapUplink>,
    buffer: Box<[u8]>,
    len: usize,
    /// There may be another.
    readable: bool,
    /// In this burst.
    read: usize,
}

impl Source for Frames {
    fn next(&mut self) -> Result<bool, Halt> {
        while self.readable && self.read < BURST {
            match nix::unistd::read(&self.tap.queue, &mut self.buffer) {
                Ok(len) => {
                    (self.len, self.read) = (len, self.read + 1);
                    return Ok(true);
                }
                Err(Errno::EINTR) => {}
                // None, or the interface is down; it becomes ready when there is one.
                Err(_) => self.readable = false,
            }
        }
        Ok(false)
    }

    fn frame(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }

    fn len(&self) -> usize {
        self.len
    }

    fn copy_to(&mut self, _: usize) -> bool {
        true
    }

    fn give_to(&mut self, driver: &mut Receiver<'_, '_>, head: &mut [u8], from: usize) -> Result<Delivery, Halt> {
        driver.deliver_parts(head, self.buffer[..self.len].get(from..).unwrap_or(&[]))
    }

    fn done(&mut self, _: Sent) {}
}
