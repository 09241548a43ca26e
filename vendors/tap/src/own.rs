//! Frames of an interface that is ours.

use crate::port::Frames;
use crate::tun::{OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, TunQueue};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use virtio_mdev_api::Refusal;
use virtio_net::HEADER;
use virtio_net::features::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6};

/// Where the header's `num_buffers` is; what is before comes from the interface.
const NUM_BUFFERS: usize = HEADER - 2;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM in the header's first byte, VIRTIO_NET_HDR_GSO_… in its second.
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// Its descriptor never blocks, and what the kernel leaves to the driver is what that negotiated.
pub struct OwnTap {
    queue: TunQueue,
    /// In effect.
    features: u64,
}

impl OwnTap {
    pub fn new(queue: TunQueue) -> Self {
        Self { queue, features: 0 }
    }
}

impl AsFd for OwnTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl Frames for OwnTap {
    fn start(&mut self, features: u64) -> Result<(), Refusal> {
        let wanted = [
            (VIRTIO_NET_F_GUEST_CSUM, OFFLOAD_CSUM),
            (VIRTIO_NET_F_GUEST_TSO4, OFFLOAD_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, OFFLOAD_TSO6),
        ];
        let offload = wanted.iter().filter(|(feature, _)| features & feature != 0).fold(0, |all, (_, bit)| all | bit);
        let set = self.queue.interface().set_offload(offload);
        set.map_err(|errno| Refusal::new(errno, "the interface refuses these offloads"))?;
        self.features = features;
        Ok(())
    }

    fn read(&self, frame: &mut [u8]) -> Result<usize, Errno> {
        nix::unistd::read(&self.queue, frame)
    }

    fn write(&self, frame: &[u8]) -> Result<(), Errno> {
        nix::unistd::write(&self.queue, frame).map(drop)
    }

    /// `false`: the frame was made for a driver that accepted more, and waited here or in the interface while that one
    /// went.
    fn adapt(&self, header: &mut [u8; HEADER]) -> bool {
        let gso_in_effect = match header[1] {
            GSO_NONE => true,
            GSO_TCPV4 => self.features & VIRTIO_NET_F_GUEST_TSO4 != 0,
            GSO_TCPV6 => self.features & VIRTIO_NET_F_GUEST_TSO6 != 0,
            _ => false,
        };
        if self.features & VIRTIO_NET_F_GUEST_CSUM != 0 {
            return gso_in_effect;
        }
        let complete = header[0] & NEEDS_CSUM == 0;
        // Without VIRTIO_NET_F_GUEST_CSUM there is nothing to say (virtio 1.3 §5.1.6.4.1): the kernel has done the work,
        // but notes what it verified.
        header[..NUM_BUFFERS].fill(0);
        complete && gso_in_effect
    }
}
