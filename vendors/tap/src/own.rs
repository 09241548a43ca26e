//! Frames of an interface that is ours.

use crate::port::Frames;
use crate::tun::{OFFLOAD_CSUM, OFFLOAD_ECN, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_USO4, OFFLOAD_USO6, TunQueue};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use virtio_mdev_api::Refusal;
use virtio_net::HEADER;
use virtio_net::features::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
};
use virtio_net::header::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, NUM_BUFFERS};

/// What the kernel leaves to a driver that negotiated it. UDP segmentation it takes for both families or neither.
const OFFERS: [(u64, u32); 5] = [
    (VIRTIO_NET_F_GUEST_CSUM, OFFLOAD_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, OFFLOAD_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, OFFLOAD_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, OFFLOAD_ECN),
    (VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6, OFFLOAD_USO4 | OFFLOAD_USO6),
];

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
    const OUTSIDE: bool = true;
    const CARRIES: bool = false;

    fn start(&mut self, features: u64) -> Result<(), Refusal> {
        let wanted = OFFERS.iter().filter(|(needed, _)| features & needed == *needed);
        let offload = wanted.fold(0, |all, (_, bits)| all | bits);
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
        let has = |needed| self.features & needed == needed;
        let ecn = header[1] & GSO_ECN != 0;
        let gso_in_effect = match header[1] & !GSO_ECN {
            GSO_NONE => !ecn,
            GSO_TCPV4 => has(VIRTIO_NET_F_GUEST_TSO4) && (!ecn || has(VIRTIO_NET_F_GUEST_ECN)),
            GSO_TCPV6 => has(VIRTIO_NET_F_GUEST_TSO6) && (!ecn || has(VIRTIO_NET_F_GUEST_ECN)),
            GSO_UDP_L4 => has(VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6),
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
