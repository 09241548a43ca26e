//! A network card: negotiation (virtio 1.3 §3.1.1), and frames.

use crate::queue::{self, BUFFER, Queue};
use crate::sys::{Memory, ioctl, ioctl_value};
use crate::{Error, Result};
use nix::sys::eventfd::EventFd;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use vhost_abi::command::*;
use vhost_abi::{VringAddr, VringFile, VringState};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1,
};

/// Bytes of `struct virtio_net_hdr_v1`, before every frame. All zeros: no checksum to complete, no segmentation.
const HEADER: usize = 12;
/// An Ethernet type for experiments (IEEE 802), so that we can tell our frames from whatever else is on the wire.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// The queue that receives, and the one that transmits (virtio 1.3 §5.1.2).
const RX: usize = 0;
const TX: usize = 1;
/// ACCESS_PLATFORM: the device sees our memory through its mappings, not as it is.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_ACCESS_PLATFORM;

/// A device, its vhost file open. Closing the file resets it.
#[derive(Debug)]
pub struct Net {
    vhost: File,
    memory: Memory,
    queues: [Queue; 2],
}

impl Net {
    /// Becomes the owner of a device: from here on its rings are this process's alone. The device has to be given the
    /// memory, at [`queue::IOVA`], before it is started.
    pub fn own(vhost: File) -> Result<Self> {
        ioctl_value(&vhost, "VHOST_SET_OWNER", VHOST_SET_OWNER, 0)?;
        let size = NonZeroUsize::new(2 * queue::ROOM).expect("some memory");
        Ok(Self { vhost, memory: Memory::new(size)?, queues: [Queue::new(RX)?, Queue::new(TX)?] })
    }

    /// The vhost file.
    pub fn vhost(&self) -> &File {
        &self.vhost
    }

    /// What the device is to see.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Every status is read back: the device may refuse by not keeping a bit.
    fn set_status(&self, mut status: u8) -> Result<()> {
        let mut now = 0_u8;
        ioctl(&self.vhost, "VHOST_VDPA_SET_STATUS", VHOST_VDPA_SET_STATUS, &mut status)?;
        ioctl(&self.vhost, "VHOST_VDPA_GET_STATUS", VHOST_VDPA_GET_STATUS, &mut now)?;
        if now == status { Ok(()) } else { Err(Error::Wrong(format!("status is {now:#x} after {status:#x} was set"))) }
    }

    /// Negotiates, programs the queues, sets DRIVER_OK, and gives the device its receive buffers.
    pub fn start(&mut self) -> Result<()> {
        let (mut status, mut offered, mut accepted) = (0, 0_u64, FEATURES);
        let mut add = |bits: u32| -> Result<()> {
            status |= u8::try_from(bits).expect("status is a byte");
            self.set_status(status)
        };
        add(0)?;
        add(VIRTIO_CONFIG_S_ACKNOWLEDGE)?;
        add(VIRTIO_CONFIG_S_DRIVER)?;
        ioctl(&self.vhost, "VHOST_GET_FEATURES", VHOST_GET_FEATURES, &mut offered)?;
        if offered & FEATURES != FEATURES {
            return Err(Error::Wrong(format!("the device offers features {offered:#x}, not all of {FEATURES:#x}")));
        }
        ioctl(&self.vhost, "VHOST_SET_FEATURES", VHOST_SET_FEATURES, &mut accepted)?;
        add(VIRTIO_CONFIG_S_FEATURES_OK)?;
        self.program(RX)?;
        self.program(TX)?;
        add(VIRTIO_CONFIG_S_DRIVER_OK)?;
        let rx = &mut self.queues[RX];
        (0..queue::SIZE).for_each(|head| rx.offer(&self.memory, head, buffer_len(), queue::WRITE));
        rx.notify()
    }

    /// Tells the device of a queue, and enables it.
    fn program(&self, number: usize) -> Result<()> {
        let index = u32::try_from(number).expect("two queues");
        let queue = &self.queues[number];
        let [desc, avail, used] = queue.addresses();
        let state = |num| VringState { index, num };
        let file = |event: &EventFd| VringFile { index, fd: event.as_fd().as_raw_fd() };
        let vhost = &self.vhost;
        ioctl(vhost, "VHOST_SET_VRING_NUM", VHOST_SET_VRING_NUM, &mut state(queue::SIZE.into()))?;
        ioctl(vhost, "VHOST_SET_VRING_BASE", VHOST_SET_VRING_BASE, &mut state(0))?;
        let mut addresses = VringAddr { index, flags: 0, desc, used, avail, log: 0 };
        ioctl(vhost, "VHOST_SET_VRING_ADDR", VHOST_SET_VRING_ADDR, &mut addresses)?;
        ioctl(vhost, "VHOST_SET_VRING_KICK", VHOST_SET_VRING_KICK, &mut file(&queue.kick))?;
        ioctl(vhost, "VHOST_SET_VRING_CALL", VHOST_SET_VRING_CALL, &mut file(&queue.call))?;
        ioctl(vhost, "VHOST_VDPA_SET_VRING_ENABLE", VHOST_VDPA_SET_VRING_ENABLE, &mut state(1)).map(drop)
    }

    /// Sends a frame and waits until the device has taken it.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let tx = &mut self.queues[TX];
        let (head, at) = (tx.next(), tx.buffer(tx.next()));
        self.memory.write(at, &[0_u8; HEADER]);
        self.memory.write(at + HEADER, frame);
        tx.offer(&self.memory, head, u32::try_from(HEADER + frame.len()).expect("a frame fits"), 0);
        tx.notify()?;
        match tx.take(&self.memory, "the device has not taken a frame")? {
            (used, _) if used == head => Ok(()),
            (used, _) => Err(Error::Wrong(format!("descriptor {head} was offered, {used} used"))),
        }
    }

    /// The next frame of ours; others are passed over. The buffer goes back to the device.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        loop {
            let rx = &mut self.queues[RX];
            let (head, len) = rx.take(&self.memory, "no frame came back")?;
            let mut frame = vec![0; len];
            self.memory.read(rx.buffer(head), frame.as_mut_slice());
            rx.offer(&self.memory, head, buffer_len(), queue::WRITE);
            rx.notify()?;
            if frame.get(HEADER + 12..HEADER + 14) == Some(&ETHERTYPE) {
                return Ok(frame.split_off(HEADER));
            }
        }
    }

    /// Sends `count` frames, each with contents of its own, and takes every one back from the other side.
    pub fn exchange(&mut self, count: u32) -> Result<()> {
        for number in 0..count {
            let frame = frame(number);
            self.send(&frame)?;
            if self.receive()? != frame {
                return Err(Error::Wrong(format!("frame {number} came back changed")));
            }
        }
        Ok(())
    }

    /// Resets the device: when this returns, it no longer touches the memory.
    pub fn stop(&self) -> Result<()> {
        self.set_status(0)
    }
}

fn buffer_len() -> u32 {
    u32::try_from(BUFFER).expect("a small buffer")
}

/// To everybody, from us, with a payload that is different for every number.
fn frame(number: u32) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(ETHERTYPE);
    let len = 60 + usize::try_from(number).unwrap_or(0) % 40 * 37 - frame.len();
    frame.extend(number.to_le_bytes().into_iter().chain(0..=255).cycle().take(len));
    frame
}
