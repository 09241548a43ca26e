//! A small driver of a network card: one queue pair, memory by IOTLB messages.

use super::abi::*;
use super::ask::{PATIENCE, QUIET, call, memory, owned, plain_features, within};
use super::device::{Device, Message, Subject};
use super::report::{Ended, Outcome, fail, skip};
use super::ring::{self, BUFFER, Ring};
use super::sys::Shared;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Receive and transmit.
pub const RX: u32 = 0;
pub const TX: u32 = 1;
/// Bytes of the virtio-net header with VIRTIO_F_VERSION_1 (virtio 1.3 §5.1.6.1).
pub const HEADER: usize = 12;
/// The control queue of a driver that does not take VIRTIO_NET_F_MQ (virtio 1.3 §5.1.2).
pub const CONTROL: u32 = 2;
/// VIRTIO_NET_OK.
const COMMAND_DONE: u8 = 0;
/// IEEE 802 local experimental.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// A frame and its header; each number has another.
pub fn frame(number: u32) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame.extend(ETHERTYPE);
    frame.extend(number.to_be_bytes());
    frame.extend((0..42 + number % 900).map(|at| u8::try_from((at ^ number) & 0xff).unwrap_or(0)));
    frame
}

/// A network card that runs. It is reset when dropped.
pub struct Driver {
    pub device: Device,
    pub rx: Ring,
    pub tx: Ring,
    pub memory: Arc<Shared>,
    /// Where the device sees it.
    pub iova: u64,
    /// The features it accepts.
    pub features: u64,
    /// The backend features it acknowledged: all that are offered.
    pub backend: u64,
    sent: u32,
}

impl Driver {
    /// Brings a network card up; skips what is none.
    pub fn start(subject: &Subject) -> Result<Self, Ended> {
        let mut driver = Self::unmapped(subject)?;
        driver.map(0..driver.memory.bytes(), READ | WRITE)?;
        driver.bring_up()?;
        Ok(driver)
    }

    /// A network card that has no memory yet, and that nothing was said to.
    pub fn unmapped(subject: &Subject) -> Result<Self, Ended> {
        let device = owned(subject)?;
        let id = call("VHOST_VDPA_GET_DEVICE_ID", device.number(VHOST_VDPA_GET_DEVICE_ID))?;
        if id != u64::from(NET) {
            return skip(format!("device id {id}: frames are for network cards"));
        }
        let (memory, iova) = memory(&device)?;
        let limit = call("VHOST_VDPA_GET_VRING_NUM", device.number(VHOST_VDPA_GET_VRING_NUM))?;
        let Some(size) = u16::try_from(limit).unwrap_or(u16::MAX).min(ring::SIZE).checked_ilog2() else {
            return fail("rings of no entries");
        };
        let size = 1 << size;
        let ring = |queue| Ring::new(Arc::clone(&memory), iova, queue, size);
        let (rx, tx) = (call("eventfd", ring(0))?, call("eventfd", ring(1))?);
        let backend = call("VHOST_GET_BACKEND_FEATURES", device.number(VHOST_GET_BACKEND_FEATURES))?;
        call("VHOST_SET_BACKEND_FEATURES", device.set_backend_features(backend))?;
        let features = plain_features(&device)?;
        Ok(Self { device, rx, tx, memory, iova, features, backend, sent: 0 })
    }

    /// Demands backend features, or skips.
    pub fn demand(&self, backend: u64, name: &str) -> Result<(), Ended> {
        if self.backend & backend == backend { Ok(()) } else { skip(format!("{name} is not offered")) }
    }

    /// Gives the device a part of the memory.
    pub fn map(&self, part: Range<usize>, permission: u8) -> Result<(), Ended> {
        self.map_into(0, part, permission)
    }

    /// The same in another address space.
    pub fn map_into(&self, asid: u32, part: Range<usize>, permission: u8) -> Result<(), Ended> {
        let offset = part.start as u64;
        let update = Message {
            asid,
            request: IOTLB_UPDATE,
            iova: self.iova + offset,
            size: part.len() as u64,
            address: self.memory.address() + offset,
            permission,
            ..Message::default()
        };
        call("IOTLB UPDATE", self.device.write(&update.bytes())).map(drop)
    }

    /// From reset to DRIVER_OK, with receive buffers posted.
    pub fn bring_up(&mut self) -> Result<(), Ended> {
        self.negotiate()?;
        self.go()
    }

    /// From FEATURES_OK to DRIVER_OK, with receive buffers posted.
    pub fn go(&mut self) -> Result<(), Ended> {
        self.set_up(RX, &self.rx)?;
        self.set_up(TX, &self.tx)?;
        self.enable(RX)?;
        self.enable(TX)?;
        self.run()
    }

    /// From reset to FEATURES_OK.
    pub fn negotiate(&self) -> Result<(), Ended> {
        for status in [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER] {
            call("VHOST_VDPA_SET_STATUS", self.device.set_status(status))?;
        }
        call("VHOST_SET_FEATURES", self.device.set_features(self.features))?;
        call("FEATURES_OK", self.device.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK))
    }

    /// Tells the device of a queue, which begins at its beginning.
    pub fn set_up(&self, index: u32, ring: &Ring) -> Result<(), Ended> {
        let device = &self.device;
        let [desc, avail, used] = ring.addresses();
        call("VHOST_SET_VRING_NUM", device.vring(VHOST_SET_VRING_NUM, index, ring.size.into()))?;
        call("VHOST_SET_VRING_BASE", device.vring(VHOST_SET_VRING_BASE, index, 0))?;
        call("VHOST_SET_VRING_ADDR", device.set_vring_addr(index, desc, avail, used))?;
        call("VHOST_SET_VRING_KICK", device.set_event(VHOST_SET_VRING_KICK, index, &ring.kick))?;
        call("VHOST_SET_VRING_CALL", device.set_event(VHOST_SET_VRING_CALL, index, &ring.call))
    }

    /// Enables a queue.
    pub fn enable(&self, index: u32) -> Result<(), Ended> {
        let enabled = self.device.vring(VHOST_VDPA_SET_VRING_ENABLE, index, 1);
        call("VHOST_VDPA_SET_VRING_ENABLE", enabled).map(drop)
    }

    /// Posts receive buffers, and sets DRIVER_OK.
    pub fn run(&mut self) -> Result<(), Ended> {
        (0..self.rx.size).for_each(|at| self.rx.post(at));
        call("DRIVER_OK", self.device.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK))?;
        call("kick", self.rx.kick.write(1)).map(drop)
    }

    /// Brings a card with a control queue up, all of whose memory is mapped. `spaces` is called at FEATURES_OK.
    pub fn bring_up_with_control(&mut self, spaces: impl FnOnce(&Self) -> Result<(), Ended>) -> Result<Ring, Ended> {
        let ring = call("eventfd", Ring::new(Arc::clone(&self.memory), self.iova, 2, self.tx.size))?;
        self.negotiate()?;
        spaces(self)?;
        for (index, ring) in [(CONTROL, &ring), (RX, &self.rx), (TX, &self.tx)] {
            self.set_up(index, ring)?;
            self.enable(index)?;
        }
        self.run()?;
        Ok(ring)
    }

    /// Has a command done by the control queue.
    pub fn command(&self, ring: &mut Ring, bytes: &[u8]) -> Result<(), Ended> {
        let before = ring.used();
        ring.ask(bytes);
        call("kick", ring.kick.write(1))?;
        if !within(PATIENCE, || ring.used() != before) {
            return fail(format!("a command was not answered; {}", self.words()));
        }
        match ring.answer() {
            COMMAND_DONE => Ok(()),
            other => fail(format!("a command was answered with {other}")),
        }
    }

    /// Stops the device where it stands.
    pub fn suspend(&self) -> Result<(), Ended> {
        call("VHOST_VDPA_SUSPEND", self.device.order(VHOST_VDPA_SUSPEND))
    }

    /// Resets the device and brings it up again. What was mapped stays where the device says so.
    pub fn restart(&mut self) -> Result<(), Ended> {
        call("reset", self.device.set_status(0))?;
        if self.backend & BACKEND_PERSIST == 0 {
            self.remap()?;
        }
        self.renew()?;
        self.bring_up()
    }

    /// Unmaps whatever is mapped, and maps all of the memory.
    pub fn remap(&self) -> Result<(), Ended> {
        call("INVALIDATE", self.device.message(IOTLB_INVALIDATE, 0, u64::MAX, 0))?;
        self.map(0..self.memory.bytes(), READ | WRITE)
    }

    /// Forgets both rings, and makes new ones in the same place.
    fn renew(&mut self) -> Result<(), Ended> {
        let ring = |queue, size| call("eventfd", Ring::new(Arc::clone(&self.memory), self.iova, queue, size));
        (self.rx, self.tx) = (ring(0, self.rx.size)?, ring(1, self.tx.size)?);
        Ok(())
    }

    /// Makes a frame of 60 bytes and more available, and kicks; the frame with its header.
    pub fn send(&mut self) -> Result<Vec<u8>, Ended> {
        let frame = self.offer();
        call("kick", self.tx.kick.write(1))?;
        Ok(frame)
    }

    /// The same without a kick.
    pub fn offer(&mut self) -> Vec<u8> {
        self.sent += 1;
        let frame = frame(self.sent);
        self.tx.send(self.tx.available % self.tx.size, &frame);
        frame
    }

    /// Waits until the device is done with all that was sent; each transmit's descriptor and used length.
    pub fn sent(&mut self) -> Result<Vec<(u32, u32)>, Ended> {
        let tx = &mut self.tx;
        if !within(PATIENCE, || tx.used() == tx.available) {
            let (used, available) = (tx.used(), tx.available);
            return fail(format!("{used} of {available} frames taken after {PATIENCE:?}; {}", self.words()));
        }
        let outstanding = usize::from(tx.available.wrapping_sub(tx.taken));
        Ok(std::iter::from_fn(|| tx.take()).take(outstanding).collect())
    }

    /// The next of our frames that came back, with its used length; others are dropped. The buffer is posted anew.
    pub fn receive(&mut self, time: Duration) -> Option<(Vec<u8>, u32)> {
        let begun = Instant::now();
        loop {
            let left = time.saturating_sub(begun.elapsed());
            if !within(left, || self.rx.used() != self.rx.taken) {
                return None;
            }
            let (id, len) = self.rx.take()?;
            let at = u16::try_from(id).ok().filter(|at| *at < self.rx.size)?;
            let bytes = self.rx.contents(at);
            self.rx.post(at);
            let _ = self.rx.kick.write(1);
            if bytes[HEADER + 12..].starts_with(&ETHERTYPE) {
                return Some((bytes, len.min(u32::try_from(BUFFER).unwrap_or(u32::MAX))));
            }
        }
    }

    /// Whether frames come that were not sent here.
    pub fn is_sent_to(&mut self) -> bool {
        self.receive(QUIET).is_some()
    }

    /// Whether what is sent comes back.
    pub fn loops(&mut self) -> Result<bool, Ended> {
        self.send()?;
        self.sent()?;
        Ok(self.receive(QUIET).is_some())
    }

    /// Sends a frame and has the device be done with it.
    pub fn exchange(&mut self) -> Result<(), Ended> {
        self.send()?;
        self.sent()?;
        Ok(())
    }

    /// The status in words.
    pub fn words(&self) -> String {
        match self.device.status() {
            Ok(status) if status & NEEDS_RESET != 0 => format!("status {status:#x}, which is DEVICE_NEEDS_RESET"),
            Ok(status) => format!("status {status:#x}"),
            Err(errno) => format!("VHOST_VDPA_GET_STATUS: {errno:?}"),
        }
    }

    /// Demands that the device still runs.
    pub fn healthy(&self) -> Outcome {
        let running = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        if self.device.status() == Ok(running) { Ok(self.words()) } else { fail(self.words()) }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Closing resets as well; a device that does neither is told of by the rule about closing.
        let _ = self.device.set_status(0);
    }
}
