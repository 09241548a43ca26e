//! Frames between a queue pair and a TAP interface.

use crate::tun::{OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, Tun};
use nix::errno::Errno;
use nix::unistd::{read, write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use virtio_mdev_api::Refusal;
use virtio_net::features::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6};
use virtio_net::{Delivery, HEADER, Halt, MAX_FRAME, Next, Port, Receiver, Sent, Statistics};

/// Frames of one burst.
const BURST: usize = 64;
/// Where the header's `num_buffers` is; what is before comes from the interface.
const NUM_BUFFERS: usize = HEADER - 2;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM in the header's first byte, VIRTIO_NET_HDR_GSO_… in its second.
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// The descriptor never blocks, and all frames pass through a buffer of our own, so that no system call can meet the
/// client's memory.
pub struct TapPort {
    tun: Arc<Tun>,
    buffer: Box<[u8]>,
    /// A frame in the buffer that waits for the driver.
    waiting: Option<usize>,
    readable: bool,
    /// In effect.
    features: u64,
}

impl TapPort {
    pub fn new(tun: Arc<Tun>) -> Self {
        let buffer = vec![0; HEADER + MAX_FRAME].into_boxed_slice();
        Self { tun, buffer, waiting: None, readable: true, features: 0 }
    }

    /// The length of the next frame.
    fn next(&mut self, statistics: &Statistics) -> Option<usize> {
        if self.waiting.is_some() {
            return self.waiting;
        }
        while self.readable {
            match read(&self.tun, &mut self.buffer) {
                Ok(len) if len > HEADER => return Some(len),
                Ok(_) => statistics.rx_errors.add(1),
                Err(Errno::EINTR) => {}
                // EFAULT: the interface is down; it becomes ready when it comes up.
                Err(Errno::EAGAIN | Errno::EFAULT) => self.readable = false,
                Err(_) => {
                    statistics.rx_errors.add(1);
                    self.readable = false;
                }
            }
        }
        None
    }

    /// Makes the header of the frame in the buffer one of what is in effect. `false`: the frame was made for a driver
    /// that accepted more, and waited here or in the interface while that one went.
    fn adapt_header(&mut self) -> bool {
        let gso_in_effect = match self.buffer[1] {
            GSO_NONE => true,
            GSO_TCPV4 => self.features & VIRTIO_NET_F_GUEST_TSO4 != 0,
            GSO_TCPV6 => self.features & VIRTIO_NET_F_GUEST_TSO6 != 0,
            _ => false,
        };
        if self.features & VIRTIO_NET_F_GUEST_CSUM != 0 {
            return gso_in_effect;
        }
        let complete = self.buffer[0] & NEEDS_CSUM == 0;
        // Without VIRTIO_NET_F_GUEST_CSUM there is nothing to say (virtio 1.3 §5.1.6.4.1): the kernel has done the work,
        // but notes what it verified.
        self.buffer[..NUM_BUFFERS].fill(0);
        complete && gso_in_effect
    }
}

impl Port for TapPort {
    fn start(&mut self, features: u64) -> Result<(), Refusal> {
        let wanted = [
            (VIRTIO_NET_F_GUEST_CSUM, OFFLOAD_CSUM),
            (VIRTIO_NET_F_GUEST_TSO4, OFFLOAD_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, OFFLOAD_TSO6),
        ];
        let offload = wanted.iter().filter(|(feature, _)| features & feature != 0).fold(0, |all, (_, bit)| all | bit);
        self.tun.set_offload(offload).map_err(|errno| Refusal::new(errno, "the interface refuses these offloads"))?;
        self.features = features;
        self.readable = true;
        Ok(())
    }

    fn send(
        &mut self,
        frame: &mut [u8],
        _driver: &mut Receiver<'_, '_>,
        statistics: &Statistics,
    ) -> Result<Sent, Halt> {
        loop {
            return Ok(match write(&self.tun, frame) {
                Ok(_) => Sent::Taken,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Sent::Busy,
                // EIO: the interface is down. EINVAL: the kernel finds the header wrong.
                Err(_) => {
                    statistics.tx_errors.add(1);
                    Sent::Dropped
                }
            });
        }
    }

    fn receive(&mut self, driver: &mut Receiver<'_, '_>, statistics: &Statistics) -> Result<Next, Halt> {
        for _ in 0..BURST {
            let Some(len) = self.next(statistics) else { return Ok(Next::Wait) };
            if !self.adapt_header() {
                self.waiting = None;
                statistics.rx_errors.add(1);
                continue;
            }
            // Kept until it is delivered, also when the driver's memory is not there yet.
            self.waiting = Some(len);
            match driver.deliver(&mut self.buffer[..len])? {
                Delivery::Delivered | Delivery::Dropped => self.waiting = None,
                Delivery::NoBuffers => return Ok(Next::Wait),
            }
        }
        Ok(Next::Again)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tun.as_fd())
    }

    fn ready(&mut self) {
        self.readable = true;
    }
}
