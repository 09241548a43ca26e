//! A whole driver: files, memory, two queues, frames.

use super::abi::*;
use super::memory::{BUFFER_ROOM, Memory};
use super::ring::{Descriptor, Ring};
use super::vfio::{Container, Group};
use super::vhost::Vhost;
use super::{CallResult, Device, DriverError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the virtio-net header with VIRTIO_F_VERSION_1.
pub const HEADER: usize = 12;
/// Entries of the rings, where nothing else is asked for.
pub const QUEUE_SIZE: u16 = 256;
/// How long a frame may take to come back: machines under emulation are slow.
const PATIENCE: Duration = Duration::from_secs(20);
const FEATURES: u64 = VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM;

/// How the device gets at the driver's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// VFIO_IOMMU_MAP_DMA on the container.
    Container,
    /// IOTLB messages on the vhost file.
    Iotlb,
    /// As by the container, and vhost's calls go to the VFIO device file: no vhost file is opened.
    Device,
}

/// What a driver is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How the device gets at its memory.
    pub via: Via,
    /// Features it accepts beside VERSION_1 and ACCESS_PLATFORM.
    pub features: u64,
    /// Entries of its rings, at most 256.
    pub queue_size: u16,
    /// Its memory is private, and thus out of the device's direct reach.
    pub private: bool,
    /// Receive buffers that the device has at a time, at most the entries of a ring.
    pub receive_buffers: u16,
}

impl Options {
    /// Where nothing else is asked for.
    pub const DEFAULT: Self =
        Self { via: Via::Container, features: 0, queue_size: QUEUE_SIZE, private: false, receive_buffers: QUEUE_SIZE };
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A driver of one instance. Files are closed in the order a client of VFIO closes them: device, group, container.
#[derive(Debug)]
pub struct Client {
    /// The vhost file, or what serves as one.
    pub vhost: Vhost,
    /// Group and container, unless IOTLB messages serve.
    pub vfio: Option<(Group, Container)>,
    /// What the device sees.
    pub memory: Arc<Memory>,
    /// Queue 0: frames from the device.
    pub rx: Ring,
    /// Queue 1: frames to the device.
    pub tx: Ring,
    pub(super) options: Options,
}

impl Client {
    /// Opens the files, becomes the owner, and maps the memory; nothing is negotiated yet.
    pub fn open(root: &Path, uuid: &str, options: Options) -> CallResult<Self> {
        let memory = if options.private { Memory::private()? } else { Memory::new()? };
        let client = Self::open_unmapped(root, uuid, options, memory)?;
        client.map_memory()?;
        Ok(client)
    }

    /// Opens the files and becomes the owner; nothing is mapped.
    pub fn open_unmapped(root: &Path, uuid: &str, options: Options, memory: Memory) -> CallResult<Self> {
        let vfio = match options.via {
            Via::Iotlb => None,
            Via::Container | Via::Device => {
                let container = Container::open(root)?;
                container.check()?;
                let group = Group::open(root, uuid)?;
                group.set_container(&container)?;
                container.set_iommu()?;
                Some((group, container))
            }
        };
        Self::assemble(root, uuid, options, memory, vfio)
    }

    /// Opens the files of another instance, puts it into a container that has its IOMMU, and maps its memory there.
    pub fn join(root: &Path, uuid: &str, container: &Container, memory: Memory) -> CallResult<Self> {
        let container = Container(container.0.try_clone().map_err(DriverError::io("dup"))?);
        let group = Group::open(root, uuid)?;
        group.set_container(&container)?;
        let client = Self::assemble(root, uuid, Options::default(), memory, Some((group, container)))?;
        client.map_memory()?;
        Ok(client)
    }

    fn assemble(
        root: &Path,
        uuid: &str,
        options: Options,
        memory: Memory,
        vfio: Option<(Group, Container)>,
    ) -> CallResult<Self> {
        let vhost = match &vfio {
            Some((group, _)) if options.via == Via::Device => Vhost(Device::of(root, group, uuid)?.0),
            _ => Vhost::open(root, uuid)?,
        };
        Self::of(vhost, options, memory, vfio)
    }

    /// Becomes the owner of an open file that takes vhost's calls; its device has memory from elsewhere.
    pub fn on(vhost: Vhost, memory: Memory) -> CallResult<Self> {
        Self::of(vhost, Options::default(), memory, None)
    }

    fn of(vhost: Vhost, options: Options, memory: Memory, vfio: Option<(Group, Container)>) -> CallResult<Self> {
        vhost.set_owner()?;
        let memory = Arc::new(memory);
        let ring = |index| Ring::with_features(Arc::clone(&memory), index, options.queue_size, options.features);
        let (rx, tx) = (ring(0)?, ring(1)?);
        Ok(Self { vhost, vfio, memory, rx, tx, options })
    }

    /// The VFIO device file that serves as its vhost file.
    pub fn device(&self) -> CallResult<Device> {
        self.vhost.0.try_clone().map(Device).map_err(DriverError::io("dup"))
    }

    /// Opens and starts.
    pub fn start(root: &Path, uuid: &str, options: Options) -> CallResult<Self> {
        let mut client = Self::open(root, uuid, options)?;
        client.run()?;
        Ok(client)
    }

    /// From now on its queues are kicked by a store to their doorbells, and never by their eventfds.
    pub fn map_doorbells(&mut self) -> CallResult<()> {
        for ring in [&mut self.rx, &mut self.tx] {
            ring.doorbell = Some(self.vhost.map_doorbell(ring.index)?);
        }
        Ok(())
    }

    /// Maps all of its memory, in one call.
    pub fn map_memory(&self) -> CallResult<()> {
        let (size, address) = (self.memory.size(), self.memory.address());
        match &self.vfio {
            Some((_, container)) => container.map(self.memory.first(), size, address),
            None => {
                self.vhost.set_backend_features(VHOST_BACKEND_F_IOTLB_MSG_V2)?;
                self.vhost.iotlb_update(self.memory.first(), size, address)
            }
        }
    }

    /// Negotiates, programs the queues and sets DRIVER_OK.
    pub fn run(&mut self) -> CallResult<()> {
        self.negotiate()?;
        self.program(&self.rx)?;
        self.program(&self.tx)?;
        self.vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)?;
        self.offer_receive_buffers()
    }

    /// Up to FEATURES_OK, and that it stuck.
    pub fn negotiate(&self) -> CallResult<()> {
        self.vhost.set_status(ACKNOWLEDGE)?;
        self.vhost.set_status(ACKNOWLEDGE | DRIVER)?;
        let (offered, wanted) = (self.vhost.features()?, FEATURES | self.options.features);
        if offered & wanted != wanted {
            return Err(DriverError::Wrong { what: format!("features {wanted:#x} wanted, {offered:#x} offered") });
        }
        self.vhost.set_features(wanted)?;
        let status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
        self.vhost.set_status(status)?;
        match self.vhost.status()? {
            now if now == status => Ok(()),
            now => Err(DriverError::Wrong { what: format!("status {now:#x} after FEATURES_OK") }),
        }
    }

    /// Tells the device of a queue, and enables it.
    pub fn program(&self, ring: &Ring) -> CallResult<()> {
        let (desc, avail, used) = ring.addresses();
        self.vhost.set_vring_num(ring.index, u32::from(ring.size))?;
        self.vhost.set_vring_base(ring.index, ring.vring_base())?;
        self.vhost.set_vring_addr(ring.index, desc, avail, used)?;
        self.vhost.set_vring_fd(VHOST_SET_VRING_KICK, ring.index, &ring.kick)?;
        self.vhost.set_vring_fd(VHOST_SET_VRING_CALL, ring.index, &ring.call)?;
        self.vhost.set_vring_enable(ring.index, true)
    }

    /// Gives the device its receive buffers.
    pub fn offer_receive_buffers(&mut self) -> CallResult<()> {
        for at in 0..self.rx.size.min(self.options.receive_buffers) {
            self.rx.write_descriptor(at, self.receive_buffer(at));
            self.rx.offer(at);
        }
        self.rx.notify()
    }

    /// What leads to the receive buffer of a descriptor.
    pub fn receive_buffer(&self, at: u16) -> Descriptor {
        let len = u32::try_from(BUFFER_ROOM).expect("a page");
        Descriptor { addr: self.memory.iova(self.rx.buffer(at)), len, flags: VIRTQ_DESC_F_WRITE, next: 0 }
    }

    /// Has the device fill the one receive buffer it has, and gives it `descriptor`, under the head that comes back. A
    /// descriptor that the device has already is not the driver's to change.
    pub fn receive_into(&mut self, descriptor: Descriptor) -> CallResult<u16> {
        assert_eq!(self.options.receive_buffers, 1, "others would be filled before");
        self.send(&[0; 60])?;
        let used = self.rx.wait(PATIENCE, "a frame to be received")?;
        let head = u16::try_from(used.id).map_err(|_| DriverError::Wrong { what: format!("{used:?}") })?;
        self.rx.write_descriptor(head, descriptor);
        self.rx.offer(head);
        self.rx.notify()?;
        Ok(head)
    }

    /// Resets the device and begins again with the same memory.
    pub fn restart(&mut self) -> CallResult<()> {
        self.vhost.set_status(0)?;
        self.rx.restart();
        self.tx.restart();
        self.run()
    }

    /// Puts header and frame into the next transmit buffer and makes it available, without a kick.
    pub fn queue(&mut self, frame: &[u8]) {
        assert!(HEADER + frame.len() <= BUFFER_ROOM, "a frame fits a buffer");
        let at = self.tx.next_descriptor();
        let offset = self.tx.buffer(at);
        self.memory.write(offset, &[0; HEADER]);
        self.memory.write(offset + HEADER, frame);
        let len = u32::try_from(HEADER + frame.len()).expect("a page at most");
        self.tx.write_descriptor(at, Descriptor { addr: self.memory.iova(offset), len, flags: 0, next: 0 });
        self.tx.offer(at);
    }

    /// Sends a frame and waits until the device took it.
    pub fn send(&mut self, frame: &[u8]) -> CallResult<()> {
        let head = self.tx.next_descriptor();
        self.queue(frame);
        self.tx.notify()?;
        let used = self.tx.wait(PATIENCE, "the transmitted frame to be used")?;
        if used.id != u32::from(head) || used.len != 0 {
            return Err(DriverError::Wrong { what: format!("sent head {head}, used {used:?}") });
        }
        Ok(())
    }

    /// Takes the next received frame, its buffer given back to the device.
    pub fn receive(&mut self, timeout: Duration) -> CallResult<Vec<u8>> {
        let used = self.rx.wait(timeout, "a frame to be received")?;
        let wrong = || DriverError::Wrong { what: format!("received {used:?}") };
        let head = u16::try_from(used.id).ok().filter(|id| *id < self.rx.size).ok_or_else(wrong)?;
        let len = usize::try_from(used.len).ok().filter(|len| (HEADER..=BUFFER_ROOM).contains(len));
        let mut frame = vec![0; len.ok_or_else(wrong)?];
        self.memory.read(self.rx.buffer(head), &mut frame);
        self.rx.offer(head);
        self.rx.notify()?;
        Ok(frame.split_off(HEADER))
    }

    /// Sends a frame and has it back unchanged.
    pub fn exchange(&mut self, frame: &[u8]) -> CallResult<()> {
        self.send(frame)?;
        let back = self.receive(PATIENCE)?;
        if back == frame {
            return Ok(());
        }
        let at = back.iter().zip(frame).position(|(a, b)| a != b);
        let what = format!("sent {} bytes, {} came back, first difference at {at:?}", frame.len(), back.len());
        Err(DriverError::Wrong { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_laid_out_behind_its_header() {
        // Without a device: what the driver writes is what it reads.
        let memory = Arc::new(Memory::new().unwrap());
        let mut ring = Ring::new(Arc::clone(&memory), 1, 8).unwrap();
        ring.write_descriptor(3, Descriptor { addr: 1, len: 2, flags: 3, next: 4 });
        ring.offer(3);
        let mut bytes = [0; 16];
        memory.read(ring.desc_offset() + 48, &mut bytes);
        assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 4, 0]);
        assert_eq!(memory.load(ring.avail_offset() + 2), 1);
        assert_eq!(memory.load(ring.avail_offset() + 4), 3);
        assert_eq!(ring.take(), None);
    }
}
