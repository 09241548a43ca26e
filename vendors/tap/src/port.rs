//! Frames between a queue pair and a TAP interface.

use crate::gather::Gather;
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use virtio_mdev_api::Refusal;
use virtio_net::{Delivery, HEADER, Halt, Interest, MAX_FRAME, Next, Outgoing, Port, Receiver, Sent, Statistics};

/// Frames of one burst.
const BURST: usize = 64;
/// What is copied of a frame that the driver sends: all of most frames, since a short copy costs less than a call with
/// parts. The rest of a longer one the kernel takes from the driver's memory.
const COPIED: usize = 2048;

/// A TAP interface as a port uses it: ours, or a client's. No call blocks.
pub trait Frames: AsFd + Send + 'static {
    /// As of its [`Port`].
    const OUTSIDE: bool;
    /// The same.
    const CARRIES: bool;

    /// The queues start; `features` are in effect.
    fn start(&mut self, features: u64) -> Result<(), Refusal>;

    /// Reads a frame with its header of 12 bytes, and says how much that is. EAGAIN: there is none.
    fn read(&self, frame: &mut [u8]) -> Result<usize, Errno>;

    /// Writes a frame with its header of 12 bytes. EAGAIN: not now.
    fn write(&self, frame: &[u8]) -> Result<(), Errno>;

    /// Bytes of the header that the interface does not know of.
    fn hidden(&self) -> usize {
        0
    }

    /// Makes the header of a frame that was read one of what is in effect. `false`: the frame is to be dropped.
    fn adapt(&self, header: &mut [u8; HEADER]) -> bool;

    /// Whether a driver that accepted `features` may send a frame of `len` bytes with this header.
    fn accepts(&self, header: &[u8; HEADER], len: usize, features: u64) -> bool {
        virtio_net::is_valid(header, len, features)
    }

    /// What to wait for.
    fn interest(&self) -> Interest {
        Interest::Both
    }
}

/// What comes in passes through a buffer of our own: how much it is, and for which pair, is not known before.
pub struct TapPort<F> {
    interface: F,
    buffer: Box<[u8]>,
    /// A frame in the buffer that waits for the driver.
    waiting: Option<usize>,
    readable: bool,
}

impl<F: Frames> TapPort<F> {
    /// The port of an interface.
    pub fn new(interface: F) -> Self {
        let buffer = vec![0; HEADER + MAX_FRAME].into_boxed_slice();
        Self { interface, buffer, waiting: None, readable: true }
    }

    /// The length of the next frame.
    fn next(&mut self, statistics: &Statistics) -> Option<usize> {
        if self.waiting.is_some() {
            return self.waiting;
        }
        while self.readable {
            match self.interface.read(&mut self.buffer) {
                Ok(len) if len > HEADER => return Some(len),
                Ok(_) => statistics.rx.errors.add(1),
                Err(Errno::EINTR) => {}
                // EFAULT: the interface is down; it becomes ready when it comes up.
                Err(Errno::EAGAIN | Errno::EFAULT) => self.readable = false,
                Err(_) => {
                    statistics.rx.errors.add(1);
                    self.readable = false;
                }
            }
        }
        None
    }

    /// Gives the frame taken to the interface.
    fn pass(&self, frames: &mut Outgoing<'_, '_>, statistics: &Statistics) -> Sent {
        let mut written = if frames.frame_len() > COPIED { self.write_in_place(frames) } else { Err(Errno::EFAULT) };
        // What cannot be taken from where it is is copied. A driver whose memory is gone is told of it then.
        if written == Err(Errno::EFAULT) {
            if !frames.copy_to(usize::MAX) {
                return Sent::Dropped;
            }
            written = again(|| self.interface.write(frames.frame()));
        }
        match written {
            Ok(()) => Sent::Taken,
            Err(Errno::EAGAIN) => Sent::Busy,
            // EIO: the interface is down. EINVAL: the kernel finds the header wrong.
            Err(_) => {
                statistics.tx.errors.add(1);
                Sent::Dropped
            }
        }
    }

    /// EFAULT: not all of it can be had from where it is.
    fn write_in_place(&self, frames: &Outgoing<'_, '_>) -> Result<(), Errno> {
        let mut gather = Gather::new();
        let head = frames.in_place(|part| gather.add(part)).ok_or(Errno::EFAULT)?;
        again(|| gather.write(&head[self.interface.hidden()..], self.interface.as_fd()))
    }

    fn adapt_header(&mut self) -> bool {
        self.buffer.first_chunk_mut().is_some_and(|header| self.interface.adapt(header))
    }
}

/// A call that a signal interrupts is made again.
fn again(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

impl<F: Frames> Port for TapPort<F> {
    const OUTSIDE: bool = F::OUTSIDE;
    const CARRIES: bool = F::CARRIES;

    fn start(&mut self, features: u64) -> Result<(), Refusal> {
        self.readable = true;
        self.interface.start(features)
    }

    fn accepts(&self, header: &[u8; HEADER], len: usize, features: u64) -> bool {
        self.interface.accepts(header, len, features)
    }

    fn transmit(
        &mut self,
        frames: &mut Outgoing<'_, '_>,
        _driver: &mut Receiver<'_, '_>,
        statistics: &Statistics,
    ) -> Result<(), Halt> {
        while frames.take_some(COPIED, |header, len, features| self.accepts(header, len, features))? {
            let sent = self.pass(frames, statistics);
            frames.done(sent);
        }
        Ok(())
    }

    fn may_receive(&self) -> bool {
        self.readable || self.waiting.is_some()
    }

    fn receive(&mut self, driver: &mut Receiver<'_, '_>, statistics: &Statistics) -> Result<Next, Halt> {
        let mut next = Next::Wait;
        for _ in 0..BURST {
            let Some(len) = self.next(statistics) else { break };
            if !self.adapt_header() {
                self.waiting = None;
                statistics.rx.errors.add(1);
                next = Next::Again;
                continue;
            }
            // Kept until it is delivered, also when the driver's memory is not there yet.
            self.waiting = Some(len);
            match driver.deliver(&mut self.buffer[..len])? {
                Delivery::Delivered | Delivery::Dropped => {
                    self.waiting = None;
                    next = Next::Again;
                }
                Delivery::NoBuffers => break,
            }
        }
        Ok(next)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.interface.as_fd())
    }

    fn interest(&self) -> Interest {
        self.interface.interest()
    }

    fn ready(&mut self) {
        self.readable = true;
    }
}
