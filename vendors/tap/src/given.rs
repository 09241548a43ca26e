//! Frames of an interface that a client gave: its descriptor, and what it is set to, stay the client's.

use crate::port::Frames;
use crate::tun;
use nix::errno::Errno;
use rustix::io::{Errno as IoErrno, ReadWriteFlags, preadv2, pwritev2};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use thiserror::Error;
use virtio_mdev_api::{HasErrno, Refusal};
use virtio_net::{HEADER, Interest};

/// Major and minor number of `/dev/net/tun`.
const TUN: (u32, u32) = (10, 200);

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// From the interface to the driver.
    Receive,
    /// From the driver to the interface.
    Transmit,
}

/// Why a descriptor cannot be used as an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GivenError {
    /// Another kind of file. What a kernel says of any descriptor that is no back end.
    #[error("the descriptor is no TAP interface")]
    NotTap,
    /// It was never made an interface, or the interface is gone.
    #[error("the descriptor is attached to no interface")]
    Detached,
    /// Its frames are not those of the features: `wanted` bytes of virtio-net header before Ethernet.
    #[error("frames of the interface do not begin with {wanted} bytes of virtio-net header and an Ethernet header")]
    Framing {
        /// Bytes of header.
        wanted: usize,
    },
}

impl HasErrno for GivenError {
    fn errno(&self) -> Errno {
        match self {
            Self::NotTap => Errno::ENOTSOCK,
            Self::Detached => Errno::EBADFD,
            Self::Framing { .. } => Errno::EINVAL,
        }
    }
}

/// One way of a client's TAP interface. Whether its descriptor blocks is the client's to say, so every call says
/// RWF_NOWAIT.
#[derive(Debug)]
pub struct GivenTap {
    fd: OwnedFd,
    half: Half,
    /// Bytes of the driver's header that the interface does not know of.
    hidden: usize,
}

impl GivenTap {
    /// Takes a client's descriptor for frames of one way. Frames of the interface begin with the driver's header, or, if
    /// `bare`, have none.
    pub fn adopt(fd: OwnedFd, half: Half, bare: bool) -> Result<Self, GivenError> {
        // Only of this device is it known that it answers at once.
        if tun::character_device(fd.as_fd()) != Some(TUN) {
            return Err(GivenError::NotTap);
        }
        let kind = tun::kind(fd.as_fd()).map_err(|_| GivenError::Detached)?;
        if !kind.tap {
            return Err(GivenError::NotTap);
        }
        let wanted = if bare { 0 } else { HEADER };
        if kind.packet_information || kind.header != wanted {
            return Err(GivenError::Framing { wanted });
        }
        Ok(Self { fd, half, hidden: HEADER - wanted })
    }
}

impl AsFd for GivenTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Frames for GivenTap {
    /// The client has the control queue.
    const OUTSIDE: bool = false;
    /// Offloads are between the driver, the client and the interface: none of their features comes here.
    const CARRIES: bool = true;

    /// Which offloads were negotiated the client tells the interface itself (TUNSETOFFLOAD).
    fn start(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn read(&self, frame: &mut [u8]) -> Result<usize, Errno> {
        if self.half == Half::Transmit {
            return Err(Errno::EAGAIN);
        }
        let (hidden, frame) = frame.split_at_mut(self.hidden);
        hidden.fill(0);
        let read = preadv2(&self.fd, &mut [IoSliceMut::new(frame)], u64::MAX, ReadWriteFlags::NOWAIT);
        read.map(|len| hidden.len() + len).map_err(errno)
    }

    fn write(&self, frame: &[u8]) -> Result<(), Errno> {
        let written = pwritev2(&self.fd, &[IoSlice::new(&frame[self.hidden..])], u64::MAX, ReadWriteFlags::NOWAIT);
        written.map(drop).map_err(errno)
    }

    fn hidden(&self) -> usize {
        self.hidden
    }

    fn adapt(&self, _header: &mut [u8; HEADER]) -> bool {
        true
    }

    /// The kernel checks the header; what the driver may ask for is known to the client alone.
    fn accepts(&self, _header: &[u8; HEADER], _len: usize, _features: u64) -> bool {
        true
    }

    fn interest(&self) -> Interest {
        match self.half {
            Half::Receive => Interest::Input,
            Half::Transmit => Interest::Output,
        }
    }
}

fn errno(error: IoErrno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unattached;
    use libc::{IFF_NO_PI, IFF_TAP, IFF_TUN, IFF_VNET_HDR};
    use nix::fcntl::{OFlag, open};
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::stat::Mode;

    /// An interface in a network of this thread's own, which needs root.
    fn interface(flags: i32, header: i32) -> OwnedFd {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        crate::testing::interface("given0", flags, header)
    }

    fn refused(fd: OwnedFd, bare: bool) -> GivenError {
        GivenTap::adopt(fd, Half::Receive, bare).unwrap_err()
    }

    #[test]
    fn f27_what_is_no_tap_interface_is_no_back_end() {
        let (pipe, _) = nix::unistd::pipe().unwrap();
        let null = open("/dev/null", OFlag::O_RDWR, Mode::empty()).unwrap();
        for fd in [pipe, null, interface(IFF_TUN | IFF_NO_PI, 12)] {
            assert_eq!(refused(fd, true).errno(), Errno::ENOTSOCK);
        }
        assert_eq!(refused(unattached(), false).errno(), Errno::EBADFD);
    }

    #[test]
    fn an_interface_with_other_framing_is_refused() {
        let short = interface(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, 10);
        assert_eq!(refused(short, false), GivenError::Framing { wanted: 12 });
        assert_eq!(refused(interface(IFF_TAP | IFF_NO_PI, 12), false), GivenError::Framing { wanted: 12 });
        let with_header = interface(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, 12);
        assert_eq!(refused(with_header, true), GivenError::Framing { wanted: 0 });
    }

    #[test]
    fn b2_a_descriptor_that_blocks_is_read_without_waiting() {
        let tap = GivenTap::adopt(interface(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, 12), Half::Receive, false).unwrap();
        let mut frame = [0; 2048];
        let outcome = tap.read(&mut frame);
        // An interface that is down says EFAULT or EAGAIN, by the kernel's version; neither waits.
        assert!(matches!(outcome, Err(Errno::EAGAIN | Errno::EFAULT)), "{outcome:?}");
        assert_eq!(tap.write(&frame[..60]), Err(Errno::EIO), "it is down");
    }
}
