//! The whole walk of a virtio-net client, and frames through it.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::ring::{Desc, Queue, Ring, desc_flag};
use super::{Container, Error, Group, MapFlags, Memory, Result, Vhost, feature, status};

/// The receive queue.
pub const RX: usize = 0;
/// The transmit queue.
pub const TX: usize = 1;
/// `struct virtio_net_hdr` with VERSION_1.
const HEADER: usize = 12;
/// Room for one frame.
const BUFFER: u16 = 2048;
const BUFFER_BYTES: usize = BUFFER as usize;
/// A device answers a kick in microseconds; this is for a machine that is busy with other things, or emulated.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the device is given the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dma {
    /// By MAP_DMA on the VFIO container of its group.
    Container,
    /// By IOTLB messages on its vhost file.
    Iotlb,
}

/// How to start a [`Driver`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How memory is mapped.
    pub dma: Dma,
    /// What is negotiated, of what the device offers.
    pub features: u64,
    /// The size of both rings.
    pub queue_size: u16,
    /// Whether the memory can be mapped by the daemon, or only reached through this process.
    pub shared: bool,
    /// Where the device sees the memory.
    pub iova: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dma: Dma::Container,
            features: feature::VERSION_1 | feature::ACCESS_PLATFORM,
            queue_size: 256,
            shared: true,
            iova: 0x10_0000,
        }
    }
}

/// A frame as it came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The virtio-net header.
    pub header: [u8; HEADER],
    /// What follows it.
    pub payload: Vec<u8>,
}

/// A client of a virtio-net instance with one queue pair.
pub struct Driver {
    /// The two VFIO files, unless IOTLB messages are used. The group goes first when both are closed.
    pub vfio: Option<(Group, Container)>,
    /// The vhost file.
    pub vhost: Vhost,
    /// Rings and buffers.
    pub memory: Memory,
    /// The queues, by [`RX`] and [`TX`].
    pub queues: [Queue; 2],
    /// What was negotiated.
    pub features: u64,
    options: Options,
}

impl Driver {
    /// Opens the files of an instance (container, then group, then vhost file), becomes its owner and maps the memory; rings are not set up yet.
    ///
    /// # Errors
    /// Whatever a step answers.
    pub fn open(root: &Path, uuid: &str, options: Options) -> Result<Self> {
        let ring = Ring::bytes(options.queue_size);
        let buffers = usize::from(options.queue_size) * BUFFER_BYTES;
        let size = (2 * (ring + buffers)).next_multiple_of(4096);
        let memory = if options.shared { Memory::new(size) } else { Memory::private(size) };
        let queues = [RX, TX].map(|index| Queue::new(Ring::new(&memory, index * ring, options.queue_size)));

        let vfio = match options.dma {
            Dma::Container => {
                let container = Container::open(root)?;
                let group = Group::open(root, uuid)?;
                group.set_container(&container)?;
                container.set_iommu(3)?;
                container.map(&memory, 0, size as u64, options.iova, MapFlags::READ_WRITE)?;
                Some((group, container))
            }
            Dma::Iotlb => None,
        };
        let vhost = Vhost::open(root, uuid)?;
        vhost.set_owner()?;
        let offered = vhost.backend_features()?;
        vhost.set_backend_features(offered & super::backend_feature::IOTLB_MSG_V2)?;
        if options.dma == Dma::Iotlb {
            vhost.iotlb_update(&memory, 0, size as u64, options.iova)?;
        }
        Ok(Self { vfio, vhost, memory, queues, features: 0, options })
    }

    /// [`Self::open`] and [`Self::start`].
    ///
    /// # Errors
    /// Whatever a step answers.
    pub fn run(root: &Path, uuid: &str, options: Options) -> Result<Self> {
        let mut driver = Self::open(root, uuid, options)?;
        driver.start()?;
        Ok(driver)
    }

    /// From a reset device to a running one with fresh rings, and receive buffers in all but one slot.
    ///
    /// # Errors
    /// Whatever a step answers; that the device did not take the features.
    ///
    /// # Panics
    /// Never: a ring index is a small number.
    pub fn start(&mut self) -> Result<()> {
        self.negotiate()?;
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let index = u32::try_from(index).expect("one of two");
            queue.clear();
            self.vhost.set_vring_num(index, queue.ring.size().into())?;
            self.vhost.set_vring_base(index, 0)?;
            self.vhost.set_vring_addr(index, queue.ring.addresses(self.options.iova))?;
            self.vhost.set_vring_kick(index, Some(queue.kick.as_fd()))?;
            self.vhost.set_vring_call(index, Some(queue.call.as_fd()))?;
            self.vhost.set_vring_enable(index, true)?;
        }
        self.vhost.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK)?;
        for slot in 0..self.options.queue_size - 1 {
            self.offer_receive_buffer(slot);
        }
        self.queues[RX].kick();
        Ok(())
    }

    /// The first half of [`Self::start`]: reset, features, FEATURES_OK.
    ///
    /// # Errors
    /// Whatever a step answers; that the device did not take the features.
    pub fn negotiate(&mut self) -> Result<()> {
        self.vhost.set_status(0)?;
        self.vhost.set_status(status::ACKNOWLEDGE)?;
        self.vhost.set_status(status::ACKNOWLEDGE | status::DRIVER)?;
        self.features = self.vhost.features()? & self.options.features;
        self.vhost.set_features(self.features)?;
        self.vhost.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK)?;
        if self.vhost.status()? & status::FEATURES_OK == 0 {
            return Err(Error::Device(format!("features {:#x} were offered and then refused", self.features)));
        }
        Ok(())
    }

    /// Where the buffer of a slot lies in the memory.
    #[must_use]
    pub fn buffer_offset(&self, queue: usize, slot: u16) -> usize {
        let size = usize::from(self.options.queue_size);
        2 * Ring::bytes(self.options.queue_size) + (queue * size + usize::from(slot)) * BUFFER_BYTES
    }

    /// Where the device sees an offset of the memory.
    #[must_use]
    pub fn iova(&self, offset: usize) -> u64 {
        self.options.iova + offset as u64
    }

    /// A descriptor of the whole buffer of a slot.
    #[must_use]
    pub fn buffer(&self, queue: usize, slot: u16) -> Desc {
        Desc { addr: self.iova(self.buffer_offset(queue, slot)), len: BUFFER.into(), flags: 0, next: 0 }
    }

    fn offer_receive_buffer(&mut self, slot: u16) {
        let desc = Desc { flags: desc_flag::WRITE, ..self.buffer(RX, slot) };
        self.queues[RX].ring.set_desc(slot, desc);
        self.queues[RX].publish(slot);
    }

    /// Sends a frame of at most 2,036 bytes and waits until the device has used its buffer.
    ///
    /// # Errors
    /// A timeout.
    ///
    /// # Panics
    /// When the payload does not fit a buffer.
    pub fn send(&mut self, payload: &[u8]) -> Result<()> {
        let offset = self.buffer_offset(TX, 0);
        self.memory.write(offset, &[0; HEADER]);
        assert!(payload.len() <= BUFFER_BYTES - HEADER, "a frame of {} bytes", payload.len());
        self.memory.write(offset + HEADER, payload);
        let len = u32::try_from(HEADER + payload.len()).expect("checked");
        let desc = Desc { len, ..self.buffer(TX, 0) };
        self.queues[TX].ring.set_desc(0, desc);
        self.queues[TX].publish(0);
        self.queues[TX].kick();
        match self.queues[TX].wait_used(PATIENCE)? {
            used if used.id == 0 => Ok(()),
            used => Err(Error::Device(format!("the device used {used:?}, which was not offered"))),
        }
    }

    /// The next received frame, out of one buffer; its buffer is offered again.
    ///
    /// # Errors
    /// A timeout, or a used entry that no device may write.
    pub fn receive(&mut self) -> Result<Frame> {
        let used = self.queues[RX].wait_used(PATIENCE)?;
        let lie = || Error::Device(format!("the device used {used:?}, which was not offered"));
        let slot = u16::try_from(used.id).ok().filter(|slot| *slot < self.options.queue_size).ok_or_else(lie)?;
        let len = usize::try_from(used.len).ok().filter(|len| (HEADER..=BUFFER_BYTES).contains(len)).ok_or_else(lie)?;
        let bytes = self.memory.read(self.buffer_offset(RX, slot), len);
        self.offer_receive_buffer(slot);
        self.queues[RX].kick();
        let (header, payload) = bytes.split_first_chunk().ok_or_else(lie)?;
        Ok(Frame { header: *header, payload: payload.to_vec() })
    }

    /// Sends `count` different frames through a loopback instance and checks that each comes back as it went, in order.
    ///
    /// # Errors
    /// Whatever the first deviation is.
    pub fn exchange(&mut self, count: u32) -> Result<()> {
        for n in 0..count {
            let mut payload = vec![0_u8; 60 + usize::try_from(n % 1400).unwrap_or(0)];
            for (at, byte) in payload.iter_mut().enumerate() {
                *byte = n.wrapping_mul(31).wrapping_add(u32::try_from(at).unwrap_or(0)).to_le_bytes()[0];
            }
            // destination and source of the frame, locally administered
            payload[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
            self.send(&payload)?;
            let frame = self.receive()?;
            if frame.payload != payload {
                return Err(Error::Device(format!(
                    "frame {n} of {} bytes came back changed ({} bytes)",
                    payload.len(),
                    frame.payload.len()
                )));
            }
        }
        Ok(())
    }

    /// Waits until the device says DEVICE_NEEDS_RESET.
    ///
    /// # Errors
    /// A timeout, or what GET_STATUS answers.
    pub fn wait_needs_reset(&self, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        while self.vhost.status()? & status::NEEDS_RESET == 0 {
            if Instant::now() > end {
                return Err(Error::Timeout { what: "DEVICE_NEEDS_RESET".to_owned(), within });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
