//! A virtio instance as a VFIO device: doorbells, configuration space, interrupts, and vhost's ioctls.

use crate::error::VhostError;
use crate::node::pid_of;
use crate::{VhostFile, VhostMdev};
use devnode::{Ioctl, IoctlReply};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use vfio_container::{
    Client, DeviceShape, IrqAction, IrqChange, IrqData, IrqShape, Migratable, RegionShape, VfioDevice,
};
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::AddressSpace;
use virtio_mdev_api::doorbell::{DOORBELL_SIZE, Doorbells};
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::vfio::flags::{VFIO_DEVICE_FLAGS_PLATFORM, VFIO_IRQ_INFO_EVENTFD};
use virtio_mdev_api::{HasErrno, Refusal, Session, SessionError};

/// The type byte of vhost's ioctls.
const VHOST_TYPE: u8 = 0xaf;

/// The region of doorbells: a page a queue. Whatever is written to a page kicks its queue.
const DOORBELLS: u32 = 0;
/// The region that is configuration space.
const CONFIG: u32 = 1;
/// Bytes from one doorbell to the next.
const DOORBELL_STRIDE: u64 = DOORBELL_SIZE as u64;

/// The interrupts of the queues, one each.
const QUEUE_IRQS: u32 = 0;
/// The configuration interrupt.
const CONFIG_IRQ: u32 = 1;

/// What the driver supplies to the VFIO device file of its instance.
///
/// Queues are set up and started by vhost's ioctls on the file. The first of them takes the place of whoever opens the vhost
/// node, until the last device file is closed.
#[derive(Debug)]
pub struct VirtioDevice {
    node: Arc<VhostMdev>,
    /// The open vhost file. Held while it is opened: calls of one client wait for each other there.
    seat: Mutex<Option<Arc<VhostFile>>>,
    /// What files of the device's own node show, as long as there are any.
    doorbells: Mutex<Weak<Doorbells>>,
}

impl VirtioDevice {
    /// The device behind a vhost node.
    pub fn new(node: Arc<VhostMdev>) -> Self {
        Self { node, seat: Mutex::default(), doorbells: Mutex::default() }
    }

    pub(crate) fn session(&self) -> &Session {
        self.node.session()
    }

    fn queues(&self) -> u32 {
        u32::try_from(self.session().info().queues.len()).unwrap_or(u32::MAX)
    }

    fn seat(&self, client: &dyn Client) -> Result<Arc<VhostFile>, Errno> {
        self.seat_of(pid_of(client), client.uid())
    }

    /// The vhost file of the device file, where nobody has the vhost node open: a device that came from elsewhere is
    /// continued, and must not be reset when it is first called.
    pub(crate) fn take_seat(&self) -> Result<(), Refusal> {
        let (pid, uid) = self.node.group().device_holder().unwrap_or_default();
        match self.seat_of(pid, uid) {
            Ok(_) => Ok(()),
            // Its driver goes on by the vhost node.
            Err(Errno::EBUSY) => Ok(()),
            Err(errno) => Err(Refusal::new(errno, "the device cannot be driven")),
        }
    }

    /// A device that was stopped goes on in the memory of whoever drives it.
    pub(crate) fn give_memory(&self) -> Result<(), Refusal> {
        let Some(file) = self.node.file() else { return Ok(()) };
        let is_seat = self.seat.lock().as_ref().is_some_and(|seat| Arc::ptr_eq(seat, &file));
        Ok(file.give_memory(is_seat)?)
    }

    fn seat_of(&self, pid: i32, uid: u32) -> Result<Arc<VhostFile>, Errno> {
        let mut seat = self.seat.lock();
        if let Some(file) = &*seat {
            return Ok(Arc::clone(file));
        }
        let doorbells = self.doorbells.lock().upgrade();
        // Who had the node and closed it just now is none in the way.
        let open = || Ok(self.node.open_for(pid, uid, doorbells.clone())?);
        let opened = self.node.group().releases().retry(open);
        let file = opened.map_err(|error: VhostError| error.errno())?;
        Ok(Arc::clone(seat.insert(file)))
    }

    /// Whom the interrupts of `index` from the first go to.
    fn set_events(&self, index: u32, start: u32, events: Vec<Option<EventFd>>) -> Result<(), SessionError> {
        for (at, event) in (start..).zip(events) {
            match index {
                QUEUE_IRQS => self.session().set_irq(at, event)?,
                _ => self.session().set_config_irq(event),
            }
        }
        Ok(())
    }

    fn trigger(&self, index: u32, start: u32, which: impl IntoIterator<Item = bool>) -> Result<(), SessionError> {
        for (at, _) in (start..).zip(which).filter(|&(_, fires)| fires) {
            match index {
                QUEUE_IRQS => self.session().trigger(at)?,
                _ => self.session().trigger_config()?,
            }
        }
        Ok(())
    }

    /// The interrupts of `index` go to nobody.
    fn take_down(&self, index: u32) -> Result<(), SessionError> {
        let count = if index == QUEUE_IRQS { self.queues() } else { 1 };
        self.set_events(index, 0, vec![None; usize::try_from(count).unwrap_or(0)])
    }
}

impl VfioDevice for VirtioDevice {
    fn shape(&self) -> DeviceShape {
        let config = u64::from(self.session().info().config_size);
        let doorbells = u64::from(self.queues()) * DOORBELL_STRIDE;
        let irqs = |count| IrqShape { count, flags: VFIO_IRQ_INFO_EVENTFD };
        DeviceShape {
            flags: VFIO_DEVICE_FLAGS_PLATFORM,
            resettable: true,
            regions: vec![
                RegionShape { size: doorbells, readable: false, writable: true },
                RegionShape { size: config, readable: true, writable: true },
            ],
            irqs: vec![irqs(self.queues()), irqs(1)],
        }
    }

    fn open(&self) -> Result<(), Refusal> {
        self.node.tell(true);
        Ok(())
    }

    fn close(&self) {
        let seat = self.seat.lock().take();
        seat.inspect(|file| self.node.close(file));
        for index in [QUEUE_IRQS, CONFIG_IRQ] {
            if let Err(error) = self.take_down(index) {
                tracing::warn!(instance = self.session().link().name(), %error, "keeps interrupts of a closed file");
            }
        }
        // Whoever has the device next finds it at work.
        if self.session().is_frozen()
            && let Err(refusal) = self.reset()
        {
            tracing::warn!(instance = self.session().link().name(), %refusal, "stays stopped");
        }
        self.node.tell(false);
    }

    /// Memory is given when queues start, to a client that proves to hold it: here it is only taken away.
    fn set_memory(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        let seat = self.seat.lock().clone();
        if let Some(file) = seat.filter(|_| memory.is_none()) {
            file.lose_container();
        }
        Ok(())
    }

    fn doorbells(&self) -> Option<Arc<Doorbells>> {
        let mut shown = self.doorbells.lock();
        if let Some(doorbells) = shown.upgrade() {
            return Some(doorbells);
        }
        match self.node.new_doorbells() {
            Ok(made) => {
                *shown = made.as_ref().map(Arc::downgrade).unwrap_or_default();
                made
            }
            Err(error) => {
                tracing::warn!(instance = self.session().link().name(), %error, "cannot be mapped");
                None
            }
        }
    }

    fn read(&self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        debug_assert_eq!(region, CONFIG, "doorbells cannot be read");
        let (offset, len) = config_range(offset, out.len())?;
        out.copy_from_slice(&self.session().read_config(offset, len)?);
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        if region != DOORBELLS {
            let (offset, _) = config_range(offset, data.len())?;
            return Ok(self.session().write_config(offset, data.to_vec())?);
        }
        let end = offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        for queue in offset / DOORBELL_STRIDE..end.div_ceil(DOORBELL_STRIDE) {
            self.session().kick(u32::try_from(queue).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }

    fn set_irqs(&self, change: IrqChange) -> Result<(), Refusal> {
        let IrqChange { index, start, action, data } = change;
        // Without eventfds there is no other action: no index can be masked.
        debug_assert_eq!(action, IrqAction::Trigger, "nothing can be masked");
        match data {
            IrqData::EventFd(events) => self.set_events(index, start, events)?,
            IrqData::Bool(which) => self.trigger(index, start, which)?,
            IrqData::None(0) => self.take_down(index)?,
            IrqData::None(count) => self.trigger(index, start, (0..count).map(|_| true))?,
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), Refusal> {
        self.node.reset()?;
        Ok(self.session().thaw()?)
    }

    fn migration(&self) -> Option<&dyn Migratable> {
        Some(self)
    }

    fn dirty(&self) -> Option<&Arc<DirtyRecord>> {
        Some(self.session().dirty())
    }

    fn ioctl(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        if call.type_byte() != VHOST_TYPE {
            return Err(Errno::ENOTTY);
        }
        self.seat(client)?.serve(client, call)
    }
}

/// What is within the region, as configuration space takes it.
fn config_range(offset: u64, len: usize) -> Result<(u32, u32), SessionError> {
    match (u32::try_from(offset), u32::try_from(len)) {
        (Ok(offset), Ok(len)) => Ok((offset, len)),
        _ => Err(SessionError::ConfigRange { offset: u32::MAX, len: u32::MAX }),
    }
}
