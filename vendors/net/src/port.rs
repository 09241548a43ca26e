//! What is behind a queue pair.

use crate::header::{HEADER, is_valid};
use crate::mac::Mac;
use crate::outgoing::Outgoing;
use crate::receiver::Receiver;
use crate::stats::Statistics;
use std::os::fd::BorrowedFd;
use virtio_mdev_api::{AttributeSpec, Refusal};
use virtqueue::{Halt, Interest, Next};

/// What became of a frame from the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// It was passed on.
    Taken,
    /// Not now: it stays in the driver's ring and is offered again.
    Busy,
    /// It cannot be passed on. The port has counted it.
    Dropped,
}

/// The back end of one queue pair. It is called by one thread at a time, within bursts: it must not block.
pub trait Port: Send + 'static {
    /// Whether [`transmit`](Self::transmit) gives frames back to the driver they come from. Where it does not, it is called
    /// without a lane, and its `driver` has no buffers: it may then deliver to lanes of other devices, to one at a time.
    const RETURNS: bool = false;

    /// Whether what its driver is given comes from outside, so that the driver chooses among it: by its receive modes, its
    /// filter tables, and how it wants frames spread over its queues.
    const OUTSIDE: bool = false;

    /// Whether what headers may say was negotiated by others: whatever they say is passed on, by features of no such kind too.
    const CARRIES: bool = false;

    /// The queues start; `features` are in effect.
    fn start(&mut self, features: u64) -> Result<(), Refusal>;

    /// Whether a driver that accepted `features` may send a frame of `len` bytes with this header. A port asks less only
    /// if it knows what was negotiated better, or hands the header to somebody who checks it.
    fn accepts(&self, header: &[u8; HEADER], len: usize, features: u64) -> bool {
        is_valid(header, len, features)
    }

    /// Takes the frames of a burst from the driver, or as many as can be had now. `driver` is the way back.
    ///
    /// Each is given to [`send`](Self::send), unless a port has a better way for several in a row.
    fn transmit(
        &mut self,
        frames: &mut Outgoing<'_, '_>,
        driver: &mut Receiver<'_, '_>,
        statistics: &Statistics,
    ) -> Result<(), Halt> {
        while frames.take(|header, len, features| self.accepts(header, len, features))? {
            let sent = self.send(frames.frame(), driver, statistics)?;
            frames.done(sent);
        }
        Ok(())
    }

    /// A frame from the driver: a checked header of 12 bytes, and at least an Ethernet header. The port may overwrite
    /// it.
    fn send(
        &mut self,
        _frame: &mut [u8],
        _driver: &mut Receiver<'_, '_>,
        _statistics: &Statistics,
    ) -> Result<Sent, Halt> {
        Ok(Sent::Dropped)
    }

    /// Whether [`receive`](Self::receive) has something to look for.
    fn may_receive(&self) -> bool {
        false
    }

    /// Delivers what came in, at most about a burst of it; [`Next::Wait`] when there was nothing, or no buffer for it.
    fn receive(&mut self, _driver: &mut Receiver<'_, '_>, _statistics: &Statistics) -> Result<Next, Halt> {
        Ok(Next::Wait)
    }

    /// What becomes ready when something comes in, or when a busy port can go on.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What of [`fd`](Self::fd) to wait for.
    fn interest(&self) -> Interest {
        Interest::Both
    }

    /// [`fd`](Self::fd) may have become ready. Told once for each change.
    fn ready(&mut self) {}
}

/// What a port adds to the attributes of its instance.
pub trait Controls: Send {
    /// The attributes.
    fn attributes(&self) -> Vec<AttributeSpec> {
        Vec::new()
    }

    /// The text of an attribute; `None` when it is none of these.
    fn show(&mut self, _name: &str) -> Option<Result<String, Refusal>> {
        None
    }

    /// Takes a value for an attribute; `None` when it is none of these.
    fn store(&mut self, _name: &str, _value: &str) -> Option<Result<(), Refusal>> {
        None
    }

    /// The operator gave the card another address.
    fn address_changed(&mut self, _mac: Mac) {}
}

impl Controls for () {}
