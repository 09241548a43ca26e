//! TAP interfaces: the ioctls of `/dev/net/tun` and of network interfaces.
#![allow(unsafe_code)] // UNSAFETY: ioctls take raw pointers, and `struct ifreq` has a union.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, FileType, StatxFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Names of interfaces are shorter than this (IFNAMSIZ).
pub const NAME_SIZE: usize = 16;

/// The kernel may hand over packets with partial checksums; the others: and segments larger than the MTU.
pub const OFFLOAD_CSUM: u32 = 1;
/// Of TCP over IPv4.
pub const OFFLOAD_TSO4: u32 = 2;
/// Of TCP over IPv6.
pub const OFFLOAD_TSO6: u32 = 4;
pub const OFFLOAD_ECN: u32 = 8;
/// Since Linux 6.2.
pub const OFFLOAD_USO4: u32 = 0x20;
pub const OFFLOAD_USO6: u32 = 0x40;

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_iff, nix::request_code_write!(b'T', 202, 4), libc::ifreq);
    nix::ioctl_read_bad!(get_iff, nix::request_code_read!(b'T', 210, 4), libc::ifreq);
    nix::ioctl_read_bad!(get_header_size, nix::request_code_read!(b'T', 215, 4), libc::c_int);
    nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, 4));
    nix::ioctl_write_ptr_bad!(set_header_size, nix::request_code_write!(b'T', 216, 4), libc::c_int);
    nix::ioctl_write_ptr_bad!(set_header_le, nix::request_code_write!(b'T', 220, 4), libc::c_int);
    nix::ioctl_write_ptr_bad!(set_carrier, nix::request_code_write!(b'T', 226, 4), libc::c_int);
    nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, libc::ifreq);
}

/// Makes a descriptor of `/dev/net/tun` one of interface `name`.
pub fn attach(fd: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> Result<(), Errno> {
    let mut request = request(name)?;
    // The bits are those of a `short` the kernel takes as unsigned.
    request.ifr_ifru.ifru_flags = i16::from_ne_bytes(u16::try_from(flags).map_err(|_| Errno::EINVAL)?.to_ne_bytes());
    // SAFETY: the pointer is to a whole `ifreq`, which the call reads and writes.
    unsafe { ioctl::set_iff(fd.as_raw_fd(), &raw const request) }.map(drop)
}

/// Sets the bytes of virtio-net header before a frame.
pub fn set_header_size(fd: BorrowedFd<'_>, bytes: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the pointer is to an int, which the call reads.
    unsafe { ioctl::set_header_size(fd.as_raw_fd(), &raw const bytes) }.map(drop)
}

/// What an interface was made as.
pub struct Kind {
    /// Frames are Ethernet frames.
    pub tap: bool,
    /// They begin with a `struct tun_pi`.
    pub packet_information: bool,
    /// Bytes of virtio-net header before them.
    pub header: usize,
}

/// What the descriptor of an interface is set to; EBADFD when it has none.
pub fn kind(fd: BorrowedFd<'_>) -> Result<Kind, Errno> {
    let mut request = request("")?;
    // SAFETY: the pointer is to a whole `ifreq`, which the call fills.
    unsafe { ioctl::get_iff(fd.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the call filled the flags, and any bits are a valid `short`.
    let flags = i32::from(u16::from_ne_bytes(unsafe { request.ifr_ifru.ifru_flags }.to_ne_bytes()));
    let mut header: libc::c_int = 0;
    // SAFETY: the pointer is to an int, which the call fills.
    unsafe { ioctl::get_header_size(fd.as_raw_fd(), &raw mut header) }?;
    Ok(Kind {
        tap: flags & libc::IFF_TAP != 0,
        packet_information: flags & libc::IFF_NO_PI == 0,
        header: if flags & libc::IFF_VNET_HDR == 0 { 0 } else { usize::try_from(header).unwrap_or(0) },
    })
}

/// Major and minor number, if it is a character device.
pub fn character_device(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
    let is_character_device = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::CharacterDevice;
    is_character_device.then_some((stat.stx_rdev_major, stat.stx_rdev_minor))
}

/// A TAP interface whose frames begin with a little-endian virtio-net header of 12 bytes. It disappears when dropped.
///
/// The kernel spreads frames over its queues by flow, and keeps a flow on the queue that answers it.
#[derive(Debug)]
pub struct Tun {
    /// One descriptor a queue; any is good for what concerns the whole interface.
    queues: Vec<OwnedFd>,
    name: String,
}

/// A queue of an interface, which lives as long as one of them.
#[derive(Debug, Clone)]
pub struct TunQueue {
    tun: Arc<Tun>,
    index: usize,
}

impl Tun {
    /// Creates interface `name` with so many queues; EBUSY when there is one. A `%d` in the name of an interface with
    /// one queue becomes the first free number.
    pub fn create(name: &str, queues: u16) -> Result<Self, Errno> {
        let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let first = open_queue(name, several | libc::IFF_TUN_EXCL)?;
        let others = (1..queues).map(|_| open_queue(name, several));
        let queues = std::iter::once(Ok(first)).chain(others).collect::<Result<_, _>>()?;
        Ok(Self { queues, name: name.to_owned() })
    }

    /// Its queues.
    pub fn queues(self: &Arc<Self>) -> impl Iterator<Item = TunQueue> {
        (0..self.queues.len()).map(|index| TunQueue { tun: Arc::clone(self), index })
    }

    fn any(&self) -> &OwnedFd {
        &self.queues[0]
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel may leave to whoever reads frames (`OFFLOAD_…`).
    pub fn set_offload(&self, offload: u32) -> Result<(), Errno> {
        let offload = libc::c_int::try_from(offload).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the argument is a plain number.
        unsafe { ioctl::set_offload(self.any().as_raw_fd(), offload) }.map(|_| ())
    }

    /// Whether the interface has a carrier.
    pub fn set_carrier(&self, carrier: bool) -> Result<(), Errno> {
        let carrier = libc::c_int::from(carrier);
        // SAFETY: the pointer is to an int, which the call reads.
        unsafe { ioctl::set_carrier(self.any().as_raw_fd(), &raw const carrier) }.map(|_| ())
    }

    /// Sets the MTU and brings the interface up.
    pub fn bring_up(&self, mtu: u16) -> Result<(), Errno> {
        let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_mtu = i32::from(mtu);
        // SAFETY: the pointer is to a whole `ifreq`, which the call reads.
        unsafe { ioctl::set_mtu(control.as_raw_fd(), &raw const request) }?;
        // SAFETY: the pointer is to a whole `ifreq`, which the call reads and writes.
        unsafe { ioctl::get_flags(control.as_raw_fd(), &raw mut request) }?;
        let up = i16::try_from(libc::IFF_UP).unwrap_or(1);
        // SAFETY: the call before filled the flags, and any bits are a valid `short`.
        request.ifr_ifru.ifru_flags = unsafe { request.ifr_ifru.ifru_flags } | up;
        // SAFETY: the pointer is to a whole `ifreq`, which the call reads.
        unsafe { ioctl::set_flags(control.as_raw_fd(), &raw const request) }.map(|_| ())
    }
}

impl TunQueue {
    /// The interface.
    pub fn interface(&self) -> &Tun {
        &self.tun
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tun.queues[self.index].as_fd()
    }
}

/// Opens a queue of the interface with these flags, besides those of all.
fn open_queue(name: &str, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    let fd = open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())?;
    attach(fd.as_fd(), name, flags | libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
    set_header_size(fd.as_fd(), HEADER_SIZE)?;
    // SAFETY: the pointer is to an int, which the call reads.
    unsafe { ioctl::set_header_le(fd.as_raw_fd(), &raw const ONE) }?;
    Ok(fd)
}

const HEADER_SIZE: libc::c_int = 12;
static ONE: libc::c_int = 1;

fn request(name: &str) -> Result<libc::ifreq, Errno> {
    if name.len() >= NAME_SIZE {
        return Err(Errno::EINVAL);
    }
    // SAFETY: all bytes of an `ifreq` may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    Ok(request)
}
