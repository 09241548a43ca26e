//! A guest in the same process, for tests: it drives a network device by its operations and its rings.
#![allow(clippy::missing_panics_doc, reason = "a test that fails panics")]

mod bare;
mod station;

pub use bare::Bare;
pub use station::Station;

use crate::header::{HEADER, NUM_BUFFERS};
use std::sync::Arc;
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::features::VIRTIO_F_RING_PACKED;
use virtio_mdev_api::notify::{CallSlot, EventFd};
use virtio_mdev_api::{Capabilities, QueueStart, QueueState, VirtioMdev};
use virtqueue::testing::{Driver, Ram, map};

/// Receive queue.
pub const RX: u16 = 0;
/// Transmit queue.
pub const TX: u16 = 1;

const MEMORY: usize = 8 << 20;
const TX_RING: u64 = 0x10_0000;
const RX_BUFFERS: u64 = 0x20_0000;
const TX_BUFFERS: u64 = 0x40_0000;

/// Where a queue stands that was never used.
fn initial(features: u64) -> QueueState {
    QueueState::initial(features & VIRTIO_F_RING_PACKED != 0)
}

/// A guest with one network card.
pub struct Guest {
    /// The card.
    pub device: Box<dyn VirtioMdev>,
    /// The receive ring.
    pub rx: Driver,
    /// The transmit ring.
    pub tx: Driver,
    /// Where its memory is mapped.
    pub space: Arc<AddressSpace>,
    /// Kicks by queue.
    pub kicks: [EventFd; 2],
    /// Calls by queue.
    pub calls: [EventFd; 2],
    /// What was negotiated.
    pub features: u64,
    /// Bytes of one receive buffer.
    pub rx_len: u32,
    dirty: Arc<DirtyRecord>,
    states: [QueueState; 2],
}

impl Guest {
    /// A guest with rings of `size` in shared memory, its queues not started.
    pub fn new(device: Box<dyn VirtioMdev>, features: u64, size: u16) -> Self {
        Self::with_ram(&Ram::shared(MEMORY), device, features, size)
    }

    /// The same in private memory: the device reaches it through the client.
    pub fn with_private_memory(device: Box<dyn VirtioMdev>, features: u64, size: u16) -> Self {
        Self::with_ram(&Ram::private(MEMORY), device, features, size)
    }

    fn with_ram(ram: &Ram, mut device: Box<dyn VirtioMdev>, features: u64, size: u16) -> Self {
        let space = AddressSpace::new(Limits::default());
        if device.info().capabilities.contains(Capabilities::OWN_IOMMU) {
            device.dma_map(0, &ram.region(0, 0, MEMORY)).expect("mapped");
        } else {
            map(&space, ram);
        }
        device.set_features(features).expect("features");
        let fds = || [EventFd::new().expect("eventfd"), EventFd::new().expect("eventfd")];
        Self {
            device,
            rx: Driver::with_features(ram.clone(), 0x1000, size, features),
            tx: Driver::with_features(ram.clone(), TX_RING, size, features),
            space,
            kicks: fds(),
            calls: fds(),
            features,
            rx_len: 2048,
            dirty: DirtyRecord::new(),
            states: [initial(features); 2],
        }
    }

    /// Starts one queue where it stood.
    pub fn start_queue(&mut self, index: u16) {
        let at = usize::from(index);
        let driver = if index == RX { &self.rx } else { &self.tx };
        let call = CallSlot::default();
        call.set(Some(self.calls[at].clone()));
        let start = QueueStart {
            config: driver.config(),
            state: self.states[at],
            features: self.features,
            asid: 0,
            space: Arc::clone(&self.space),
            ring_asid: 0,
            ring_space: Arc::clone(&self.space),
            kick: Some(self.kicks[at].clone()),
            doorbell: None,
            call: Arc::new(call),
            err: Arc::default(),
            dirty: Arc::clone(&self.dirty),
        };
        self.device.start_queue(index, start).expect("queue started");
    }

    /// Starts both queues.
    pub fn start(&mut self) {
        self.start_queue(RX);
        self.start_queue(TX);
    }

    /// Stops both queues; they can be started again where they stood.
    pub fn stop(&mut self) {
        for index in [TX, RX] {
            if let Some(state) = self.device.stop_queue(index).expect("the device stops") {
                self.states[usize::from(index)] = state;
            }
        }
    }

    /// What a driver does after DEVICE_NEEDS_RESET: everything anew.
    pub fn reset(&mut self) {
        self.stop();
        self.device.reset();
        self.device.set_features(self.features).expect("features");
        self.rx.reset();
        self.tx.reset();
        self.states = [initial(self.features); 2];
        self.start();
    }

    /// Kicks a queue.
    pub fn kick(&self, index: u16) {
        self.kicks[usize::from(index)].signal().expect("kick");
    }

    /// Posts up to `count` receive buffers, as many as there is room for. Says how many.
    pub fn post(&mut self, count: u16) -> u16 {
        let room = self.rx.size - self.rx.outstanding();
        let count = count.min(room);
        for _ in 0..count {
            let addr = self.rx_buffer(self.rx.next_head());
            self.rx.stage(&[(addr, self.rx_len, true)]);
        }
        self.rx.publish();
        self.kick(RX);
        count
    }

    fn rx_buffer(&self, head: u16) -> u64 {
        RX_BUFFERS + u64::from(head) * u64::from(self.rx_len)
    }

    /// Sends a frame after a header of zeros; `false` when the ring is full.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.send_with(&[0; HEADER], frame)
    }

    /// Sends a frame after `header`.
    pub fn send_with(&mut self, header: &[u8], frame: &[u8]) -> bool {
        while self.tx.take_used().is_some() {}
        if self.tx.outstanding() == self.tx.size {
            return false;
        }
        // Frames larger than a slot run into others, which is fine as long as few are on their way.
        let addr = TX_BUFFERS + 2048 * u64::from(self.tx.next_head());
        let bytes = [header, frame].concat();
        self.tx.ram.write(addr, &bytes);
        self.tx.add(&[(addr, u32::try_from(bytes.len()).expect("a frame"), false)]);
        self.kick(TX);
        true
    }

    /// The next received frame and its header, if there is one.
    pub fn receive(&mut self) -> Option<([u8; HEADER], Vec<u8>)> {
        let mut bytes = self.receive_buffer()?;
        let header: [u8; HEADER] = *bytes.first_chunk().expect("a header");
        let buffers = u16::from_le_bytes([header[NUM_BUFFERS], header[NUM_BUFFERS + 1]]);
        for _ in 1..buffers {
            bytes.extend(self.receive_buffer().expect("all buffers of a frame at once"));
        }
        Some((header, bytes.split_off(HEADER)))
    }

    fn receive_buffer(&mut self) -> Option<Vec<u8>> {
        let (head, len) = self.rx.take_used()?;
        Some(self.rx.ram.read(self.rx_buffer(head), usize::try_from(len).expect("a buffer")))
    }

    /// Waits up to five seconds for a frame.
    pub fn wait(&mut self) -> ([u8; HEADER], Vec<u8>) {
        let begun = std::time::Instant::now();
        loop {
            if let Some(received) = self.receive() {
                return received;
            }
            assert!(begun.elapsed() < std::time::Duration::from_secs(5), "no frame came");
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }
}
