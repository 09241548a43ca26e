//! A guest with several queue pairs and a control queue.

use crate::header;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::notify::{CallSlot, EventFd};
use virtio_mdev_api::{QueueStart, Status, VirtioMdev};
use virtqueue::testing::{Driver, Ram, map};

const SIZE: u16 = 16;
/// Memory of one queue: its ring, and then a buffer for each of its entries.
const STRIDE: u64 = 0x2_0000;
const BUFFERS: u64 = 0x8000;
const BUFFER: u32 = 2048;
const PATIENCE: Duration = Duration::from_secs(5);

/// A guest whose network card has several queue pairs.
pub struct Station {
    /// The card.
    pub device: Box<dyn VirtioMdev>,
    /// Its rings, by queue.
    pub rings: Vec<Driver>,
    /// Its interrupts, by queue.
    pub calls: Vec<EventFd>,
    kicks: Vec<EventFd>,
    features: u64,
    space: Arc<AddressSpace>,
    dirty: Arc<DirtyRecord>,
}

impl Station {
    /// A guest whose queues all run, without receive buffers.
    pub fn start(mut device: Box<dyn VirtioMdev>, features: u64) -> Self {
        let queues = u64::try_from(device.info().queues.len()).expect("few queues");
        let ram = Ram::shared(usize::try_from(queues * STRIDE).expect("little memory"));
        let space = AddressSpace::new(Limits::default());
        map(&space, &ram);
        device.set_features(features).expect("features");
        let mut station = Self {
            device,
            rings: (0..queues)
                .map(|queue| Driver::with_features(ram.clone(), queue * STRIDE, SIZE, features))
                .collect(),
            calls: (0..queues).map(|_| EventFd::new().expect("eventfd")).collect(),
            kicks: (0..queues).map(|_| EventFd::new().expect("eventfd")).collect(),
            features,
            space,
            dirty: DirtyRecord::new(),
        };
        station.run();
        station
    }

    /// Starts all queues as new ones.
    fn run(&mut self) {
        for (index, (ring, kick)) in (0..).zip(self.rings.iter().zip(&self.kicks)) {
            let call = CallSlot::default();
            call.set(Some(self.calls[usize::from(index)].clone()));
            let start = QueueStart {
                config: ring.config(),
                state: super::initial(self.features),
                features: self.features,
                asid: 0,
                space: Arc::clone(&self.space),
                ring_asid: 0,
                ring_space: Arc::clone(&self.space),
                kick: Some(kick.clone()),
                doorbell: None,
                call: Arc::new(call),
                err: Arc::default(),
                dirty: Arc::clone(&self.dirty),
            };
            self.device.start_queue(index, start).expect("queue started");
        }
        self.device.status_changed(Status::DRIVER_OK);
    }

    /// Stops all queues and resets the device.
    pub fn reset(&mut self) {
        for index in (0..).take(self.rings.len()) {
            self.device.stop_queue(index).expect("the device stops");
        }
        self.device.reset();
    }

    /// What a driver does after a reset: everything anew.
    pub fn restart(&mut self) {
        self.reset();
        self.rings.iter_mut().for_each(Driver::reset);
        self.device.set_features(self.features).expect("features");
        self.run();
    }

    /// Kicks a queue.
    pub fn kick(&self, queue: usize) {
        self.kicks[queue].signal().expect("kick");
    }

    fn buffer(queue: usize, head: u16) -> u64 {
        queue as u64 * STRIDE + BUFFERS + u64::from(head) * u64::from(BUFFER)
    }

    /// Posts a receive buffer on a pair.
    pub fn post(&mut self, pair: usize) {
        self.post_some(pair, BUFFER);
    }

    /// Posts a receive buffer of so many bytes.
    pub fn post_some(&mut self, pair: usize, len: u32) {
        let ring = &mut self.rings[2 * pair];
        let addr = Self::buffer(2 * pair, ring.next_head());
        ring.add(&[(addr, len, true)]);
        self.kick(2 * pair);
    }

    /// Sends a frame on a pair. No more than a ring of them may be under way.
    pub fn send(&mut self, pair: usize, frame: &[u8]) {
        let ring = &mut self.rings[2 * pair + 1];
        while ring.take_used().is_some() {}
        let addr = Self::buffer(2 * pair + 1, ring.next_head());
        let bytes = [&vec![0; header::len(self.features)][..], frame].concat();
        ring.ram.write(addr, &bytes);
        ring.add(&[(addr, u32::try_from(bytes.len()).expect("a frame"), false)]);
        self.kick(2 * pair + 1);
    }

    /// The next frame a pair received, if there is one.
    pub fn receive(&mut self, pair: usize) -> Option<Vec<u8>> {
        self.receive_buffer(pair).map(|bytes| bytes[header::len(self.features)..].to_vec())
    }

    /// What the next buffer that a pair received has, the header included.
    pub fn receive_buffer(&mut self, pair: usize) -> Option<Vec<u8>> {
        let ring = &mut self.rings[2 * pair];
        let (head, len) = ring.take_used()?;
        Some(ring.ram.read(Self::buffer(2 * pair, head), usize::try_from(len).expect("a frame")))
    }

    /// Waits up to five seconds for a frame on a pair.
    pub fn wait(&mut self, pair: usize) -> Vec<u8> {
        self.wait_buffer(pair)[header::len(self.features)..].to_vec()
    }

    /// Waits as long for a buffer on a pair.
    pub fn wait_buffer(&mut self, pair: usize) -> Vec<u8> {
        let begun = Instant::now();
        loop {
            if let Some(bytes) = self.receive_buffer(pair) {
                return bytes;
            }
            assert!(begun.elapsed() < PATIENCE, "no frame came on pair {pair}");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Gives a command, class and number first, to a queue that takes them; the answer.
    pub fn command(&mut self, queue: usize, command: &[u8]) -> u8 {
        self.ask(queue, command, 1)[0]
    }

    /// The same with room for so many bytes of an answer, of which there is at least one.
    pub fn ask(&mut self, queue: usize, command: &[u8], room: u32) -> Vec<u8> {
        let buffer = Self::buffer(queue, 0);
        let ack = buffer + u64::from(BUFFER) * u64::from(SIZE) - u64::from(room);
        let ring = &mut self.rings[queue];
        ring.ram.write(buffer, command);
        ring.ram.write(ack, &[0xff]);
        let ack_buffer = (ack, room, true);
        let len = u32::try_from(command.len()).expect("a command");
        if len == 0 {
            ring.add(&[ack_buffer])
        } else {
            ring.add(&[(buffer, len, false), ack_buffer])
        };
        self.kick(queue);
        let begun = Instant::now();
        loop {
            let ring = &mut self.rings[queue];
            if let Some((_, written)) = ring.take_used() {
                assert!((1..=room).contains(&written), "{written} bytes of {room}");
                return ring.ram.read(ack, usize::try_from(written).expect("an answer"));
            }
            assert!(begun.elapsed() < PATIENCE, "no answer to {command:02x?}");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
