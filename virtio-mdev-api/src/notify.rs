//! Notifiers: eventfds that may belong to a client, used so that the client cannot hold us up.
//!
//! The counter and the O_NONBLOCK flag of a client's eventfd are the client's to set. Kicks are therefore read with
//! RWF_NOWAIT; calls are written only after POLLOUT, and a write that blocks all the same (the client filled the
//! counter in between) is interrupted by the [watchdog](crate::watchdog).

use crate::watchdog;
use arc_swap::ArcSwapOption;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use rustix::io::{Errno as IoErrno, ReadWriteFlags, preadv2};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An eventfd, ours or a client's.
#[derive(Debug, Clone)]
pub struct EventFd(Arc<OwnedFd>);

impl EventFd {
    /// A new eventfd of our own, counter 0.
    pub fn new() -> Result<Self, Errno> {
        let flags = nix::sys::eventfd::EfdFlags::EFD_CLOEXEC | nix::sys::eventfd::EfdFlags::EFD_NONBLOCK;
        let fd = nix::sys::eventfd::EventFd::from_value_and_flags(0, flags)?;
        Ok(Self(Arc::new(fd.into())))
    }

    /// Reads and clears the counter without ever blocking; `None` when it was zero.
    pub fn drain(&self) -> Result<Option<u64>, Errno> {
        let mut counter = [0u8; 8];
        let read = preadv2(&*self.0, &mut [IoSliceMut::new(&mut counter)], u64::MAX, ReadWriteFlags::NOWAIT);
        match read {
            Ok(_) => Ok(Some(u64::from_ne_bytes(counter))),
            Err(IoErrno::AGAIN) => Ok(None),
            Err(error) => Err(Errno::from_raw(error.raw_os_error())),
        }
    }

    /// Adds one to the counter. A counter at its maximum already says what there is to say, and is left alone.
    ///
    /// EINTR means the client made the write block and the watchdog ended it.
    pub fn signal(&self) -> Result<(), Errno> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO)?;
        if !fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT)) {
            return Ok(());
        }
        let _watched = watchdog::watch();
        match nix::unistd::write(&*self.0, &1u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl From<OwnedFd> for EventFd {
    /// `fd` must be an eventfd; whoever took it from a client has checked.
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where interrupts of a queue go now. Replaced at any moment, without a queue having to stop.
#[derive(Debug, Default)]
pub struct CallSlot {
    now: ArcSwapOption<EventFd>,
    known: Mutex<Known>,
}

/// Who may be interrupted.
#[derive(Debug, Default)]
struct Known {
    call: Option<EventFd>,
    standing: Option<EventFd>,
}

impl CallSlot {
    /// From now on, interrupts go to `call`.
    pub fn set(&self, call: Option<EventFd>) {
        self.choose(|known| known.call = call);
    }

    /// From now on, interrupts go to `standing` whenever there is no call.
    pub fn set_standing(&self, standing: Option<EventFd>) {
        self.choose(|known| known.standing = standing);
    }

    /// An empty slot with the same standing target.
    pub(crate) fn renewed(&self) -> Self {
        let slot = Self::default();
        slot.set_standing(self.known.lock().standing.clone());
        slot
    }

    fn choose(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock();
        change(&mut known);
        let now = known.call.as_ref().or(known.standing.as_ref());
        self.now.store(now.cloned().map(Arc::new));
    }

    /// Interrupts whoever is to be interrupted; nobody there is success.
    pub fn signal(&self) -> Result<(), Errno> {
        match &*self.now.load() {
            Some(call) => call.signal(),
            None => Ok(()),
        }
    }

    /// Whether somebody is there.
    pub fn is_set(&self) -> bool {
        self.now.load().is_some()
    }

    /// What is in the slot now.
    pub fn get(&self) -> Option<EventFd> {
        self.now.load().as_deref().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocking(initial: u64) -> EventFd {
        let fd = nix::sys::eventfd::EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_CLOEXEC).unwrap();
        if initial > 0 {
            fd.write(initial).unwrap();
        }
        EventFd::from(OwnedFd::from(fd))
    }

    #[test]
    fn b2_draining_a_blocking_eventfd_at_zero_returns() {
        assert_eq!(blocking(0).drain(), Ok(None));
    }

    #[test]
    fn b2_signalling_a_blocking_eventfd_at_its_maximum_returns() {
        let full = blocking(u64::MAX - 1);
        // A write that blocked would be interrupted: EINTR.
        assert_eq!(full.signal(), Ok(()));
    }

    #[test]
    fn b2_a_write_that_blocks_after_the_poll_is_interrupted() {
        let full = blocking(u64::MAX - 1);
        let _watched = watchdog::watch();
        assert_eq!(nix::unistd::write(full.as_fd(), &1u64.to_ne_bytes()), Err(Errno::EINTR));
    }

    #[test]
    fn a_replaced_call_gets_the_next_signal() {
        let (first, second) = (blocking(0), blocking(0));
        let slot = CallSlot::default();
        slot.set(Some(first.clone()));
        slot.signal().unwrap();
        slot.set(Some(second.clone()));
        slot.signal().unwrap();
        assert_eq!((first.drain(), second.drain()), (Ok(Some(1)), Ok(Some(1))));
    }
    #[test]
    fn a_standing_target_is_signalled_while_there_is_no_call() {
        let (standing, call) = (blocking(0), blocking(0));
        let slot = CallSlot::default();
        slot.set_standing(Some(standing.clone()));
        slot.signal().unwrap();
        slot.set(Some(call.clone()));
        slot.signal().unwrap();
        assert_eq!((standing.drain(), call.drain()), (Ok(Some(1)), Ok(Some(1))));
        slot.set(None);
        slot.signal().unwrap();
        assert_eq!((standing.drain(), call.drain()), (Ok(Some(1)), Ok(None)));
        slot.set_standing(None);
        assert!(!slot.is_set());
    }
}
