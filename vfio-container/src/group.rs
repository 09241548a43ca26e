//! `/dev/vfio/<n>`: the group of one instance.

use crate::attachment::{Attached, Attachment, GroupHold, MemorySource};
use crate::door::{DeviceSeat, Door as DeviceDoor, ThroughGroup};
use crate::error::VfioError;
use crate::usage::{DeviceUse, Usage};
use crate::{Client, DeviceFile, GroupFile, Home, VfioDevice};
use devnode::{Broadcast, Caller, DeviceNode, OpenFile, OpenFlags, Releases};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dma::AddressSpace;

type DetachHandler = Box<dyn Fn() + Send + Sync>;

/// The IOMMU group of one instance, and the node `/dev/vfio/<n>`. One user at a time: who opened the node, or who bound
/// the device's own node to an iommufd.
///
/// It is where the device's memory comes from, a container or an IOAS, for all who ask.
pub struct Group {
    number: u32,
    device_name: String,
    state: Mutex<State>,
    /// Held by whoever takes the memory from the group, until its source has let go of it.
    leaving: Mutex<()>,
    on_detach: Mutex<Vec<Arc<DetachHandler>>>,
    usage: Usage,
    releases: Releases,
    trace: Mutex<Option<Arc<Broadcast>>>,
}

#[derive(Default)]
struct State {
    open: Option<Seat>,
    opened: u64,
    /// Set until the source has let go: nobody attaches the group anew before.
    attached: Option<Arc<Attached>>,
    removed: bool,
}

/// Who uses the group.
#[derive(Clone, Copy)]
struct Seat {
    id: u64,
    door: Door,
    /// Files of the device that this user opened: the last of them ends his turn where he has closed his own.
    devices: usize,
    closed: bool,
}

/// Through which file a group is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Its own.
    Group,
    /// That of its device, bound to an iommufd.
    Device,
}

impl State {
    fn check_free(&self, door: Door) -> Result<(), VfioError> {
        match self.open {
            _ if self.removed => Err(VfioError::Gone),
            Some(seat) if (seat.door, door) == (Door::Device, Door::Device) => Err(VfioError::BoundElsewhere),
            Some(_) => Err(VfioError::InUse),
            None => Ok(()),
        }
    }
}

impl Group {
    /// Group `number` of the device called `device_name` (its UUID).
    pub fn new(number: u32, device_name: String) -> Arc<Self> {
        Arc::new(Self {
            number,
            device_name,
            state: Mutex::default(),
            leaving: Mutex::default(),
            on_detach: Mutex::default(),
            usage: Usage::default(),
            releases: Releases::default(),
            trace: Mutex::default(),
        })
    }

    /// The number that names the node.
    pub fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn device_name(&self) -> &str {
        &self.device_name
    }

    /// Who hears of every call on the group, and on a container it is attached to.
    pub fn set_trace(&self, trace: Arc<Broadcast>) {
        *self.trace.lock() = Some(trace);
    }

    pub(crate) fn trace(&self) -> Option<Arc<Broadcast>> {
        self.trace.lock().clone()
    }

    /// Calls `handler`, which may ask the group whatever it likes but neither attach nor detach it, whenever the group has
    /// lost its memory: by UNSET_CONTAINER, by DETACH_IOMMUFD_PT or an attach to other memory, by a close, or by
    /// [`remove`](Self::remove). The memory is unmapped, if it is, after it returns.
    pub fn on_detach(&self, handler: DetachHandler) {
        self.on_detach.lock().push(Arc::new(handler));
    }

    /// The group's place in a container or an IOAS, if `client` runs in the address space that attached it: its proof that
    /// it holds that. Looks into the client; call it with no lock held.
    pub fn attachment(&self, client: &dyn Client) -> Option<Attachment> {
        let attached = self.state.lock().attached.clone().filter(|attached| !attached.has_ended())?;
        client.lives_in(attached.home()).then_some(Attachment(attached))
    }

    /// The same for the address space `home`. Looks into it.
    pub fn attachment_of(&self, home: &Home) -> Option<Attachment> {
        let attached = self.state.lock().attached.clone().filter(|attached| !attached.has_ended())?;
        attached.home().same(home).then_some(Attachment(attached))
    }

    /// Whether `client` runs in the address space that attached the group.
    pub fn attached_by(&self, client: &dyn Client) -> bool {
        self.attachment(client).is_some()
    }

    /// The memory the group is attached to, if `client` runs in the address space that attached it. A container has some
    /// once it has its IOMMU.
    pub fn space_for(&self, client: &dyn Client) -> Option<Arc<AddressSpace>> {
        self.attachment(client)?.0.space()
    }

    /// Whether somebody has the group open, or its device bound.
    pub fn is_open(&self) -> bool {
        self.state.lock().open.is_some()
    }

    /// Keeps the group in its container: UNSET_CONTAINER is EBUSY while the hold lives. `None` when it is in none, or
    /// when the container has no IOMMU.
    ///
    /// A close of the group's file, or its removal, ends the attachment all the same; so does DETACH_IOMMUFD_PT.
    pub fn hold(&self) -> Option<GroupHold> {
        self.state.lock().attached.as_ref().and_then(Attached::hold)
    }

    /// Keeps the group where it is by `attachment`. `None` when that is over, or when there is no memory.
    pub fn hold_in(&self, attachment: &Attachment) -> Option<GroupHold> {
        let state = self.state.lock();
        let attached = state.attached.as_ref().filter(|attached| Arc::ptr_eq(attached, &attachment.0))?;
        attached.hold()
    }

    /// The device of the group, as its driver supplies it. Until [`remove`](Self::remove) the group keeps it.
    pub fn set_device(&self, device: Arc<dyn VfioDevice>) {
        self.usage.supply(device);
    }

    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The releases under way on the files of the group, of its device, and of whatever else keeps the device in use.
    pub fn releases(&self) -> &Releases {
        &self.releases
    }

    /// Process and user of who opened the device that is open.
    pub fn device_holder(&self) -> Option<(i32, u32)> {
        self.usage.holder()
    }

    /// The instance is gone: the device loses its memory, and every later call answers ENODEV.
    pub fn remove(&self) {
        self.state.lock().removed = true;
        self.usage.end();
        self.detach(|_| true);
    }

    /// Opens the group: EBUSY while it is open, or its device is bound to an iommufd.
    pub fn open_file(self: Arc<Self>) -> Result<Arc<GroupFile>, Errno> {
        let id = self.sit(Door::Group).map_err(|error| error.errno())?;
        Ok(Arc::new(GroupFile::new(self, id)))
    }

    /// Takes the group for a file of its device: EBUSY while the group is open, EINVAL while another such file has it.
    pub(crate) fn take_for_device(&self) -> Result<u64, VfioError> {
        self.sit(Door::Device)
    }

    /// Whether [`take_for_device`](Self::take_for_device) would be refused now.
    pub(crate) fn check_free_for_device(&self) -> Result<(), VfioError> {
        self.state.lock().check_free(Door::Device)
    }

    fn sit(&self, door: Door) -> Result<u64, VfioError> {
        let mut state = self.state.lock();
        state.check_free(door)?;
        state.opened += 1;
        let id = state.opened;
        state.open = Some(Seat { id, door, devices: 0, closed: false });
        Ok(id)
    }

    /// Opens the device for user `id`. `client` has the group open, and need not be who attached it. As in the kernel the
    /// group stays open, and where it is attached, until the device is closed.
    pub(crate) fn open_device(self: &Arc<Self>, id: u64, client: &dyn Client) -> Result<Arc<DeviceFile>, VfioError> {
        let (hold, seat) = self.with_open(id, |state| {
            let hold = state.attached.as_ref().and_then(Attached::hold).ok_or(VfioError::NoIommu)?;
            if let Some(seat) = &mut state.open {
                seat.devices += 1;
            }
            Ok((hold, DeviceSeat::new(Arc::clone(self), id)))
        })?;
        let holder = (hold.home().pid(), client.uid());
        let device = DeviceUse::begin(self, Some(Arc::clone(hold.space())), holder)?;
        let door = DeviceDoor::Group(ThroughGroup::new(device, hold, seat));
        // Handles of all devices are files of one node, which can show one thing only.
        Ok(DeviceFile::new(Arc::clone(self), door, None))
    }

    /// A device file that user `id` opened is closed.
    pub(crate) fn device_closed(&self, id: u64) {
        let ends = {
            let mut state = self.state.lock();
            let Some(seat) = state.open.as_mut().filter(|seat| seat.id == id) else { return };
            seat.devices -= 1;
            seat.closed && seat.devices == 0
        };
        if ends {
            self.close(id);
        }
    }

    /// User `id` is done.
    pub(crate) fn close(&self, id: u64) {
        {
            let mut state = self.state.lock();
            let Some(seat) = state.open.as_mut().filter(|seat| seat.id == id) else { return };
            seat.closed = true;
            if seat.devices != 0 {
                return;
            }
            // From here on no call attaches it again, and until the device let go nobody else opens it.
        }
        self.detach(|_| true);
        self.state.lock().open = None;
    }

    pub(crate) fn check_open(&self, id: u64) -> Result<bool, VfioError> {
        self.with_open(id, |state| Ok(state.attached.as_ref().is_some_and(|attached| !attached.has_ended())))
    }

    fn with_open<T>(&self, id: u64, work: impl FnOnce(&mut State) -> Result<T, VfioError>) -> Result<T, VfioError> {
        let mut state = self.state.lock();
        match state.open {
            _ if state.removed => Err(VfioError::Gone),
            Some(seat) if seat.id == id && !seat.closed => work(&mut state),
            _ => Err(VfioError::Closed),
        }
    }

    pub(crate) fn attach(&self, id: u64, source: Arc<dyn MemorySource>, home: Home) -> Result<(), VfioError> {
        let trace = self.trace();
        self.with_open(id, |state| {
            if state.attached.is_some() {
                return Err(VfioError::Attached);
            }
            source.join(self.number, trace)?;
            state.attached = Some(Attached::new(source, home));
            Ok(())
        })
    }

    /// Attaches the group for user `id` in place of where it is attached. What it cannot be attached to leaves it there.
    pub(crate) fn reattach(&self, id: u64, source: Arc<dyn MemorySource>, home: Home) -> Result<(), VfioError> {
        let _leaving = self.leaving.lock();
        let now = self.with_open(id, |state| Ok(state.attached.clone()))?;
        if now.is_some_and(|now| Arc::ptr_eq(now.source(), &source)) {
            return Ok(());
        }
        source.join(self.number, self.trace())?;
        self.let_go(|_| true);
        let attached = Attached::new(Arc::clone(&source), home);
        let placed = self.with_open(id, |state| {
            state.attached = Some(attached);
            Ok(())
        });
        if placed.is_err() {
            source.leave(self.number);
            return placed;
        }
        let given = self.usage.set_memory(source.space());
        if given.is_err() {
            self.let_go(|_| true);
        }
        given
    }

    /// User `id` takes the memory from the device, in use or not.
    pub(crate) fn detach_for(&self, id: u64) -> Result<(), VfioError> {
        self.with_open(id, |_| Ok(()))?;
        self.detach(|_| true);
        Ok(())
    }

    /// UNSET_CONTAINER.
    pub(crate) fn unset(&self, id: u64) -> Result<(), VfioError> {
        let leaving = self.with_open(id, |state| {
            let attached = state.attached.as_ref().filter(|attached| !attached.has_ended());
            let attached = attached.ok_or(VfioError::NotAttached)?;
            if attached.is_held() {
                return Err(VfioError::InUse);
            }
            // Under the lock: a hold that comes now finds the attachment ended.
            attached.end();
            Ok(Arc::clone(attached))
        })?;
        // Not whatever is attached by then: another thread may attach the group anew once it is free.
        self.detach(|attached| Arc::ptr_eq(attached, &leaving));
        Ok(())
    }

    pub(crate) fn has_iommu(&self, id: u64) -> Result<bool, VfioError> {
        self.with_open(id, |state| Ok(state.attached.as_ref().is_some_and(|attached| attached.space().is_some())))
    }

    /// Ends the attachment, if it is the one that is meant, and returns when its source has let go.
    fn detach(&self, is_meant: impl FnOnce(&Arc<Attached>) -> bool) {
        let _leaving = self.leaving.lock();
        self.let_go(is_meant);
    }

    fn let_go(&self, is_meant: impl FnOnce(&Arc<Attached>) -> bool) {
        let Some(attached) = self.state.lock().attached.clone().filter(is_meant) else { return };
        attached.end();
        if let Err(error) = self.usage.set_memory(None) {
            tracing::warn!(device = self.device_name, %error, "keeps memory that may be unmapped now");
        }
        let handlers = self.on_detach.lock().clone();
        handlers.iter().for_each(|handler| handler());
        attached.source().leave(self.number);
        self.state.lock().attached = None;
    }
}

impl DeviceNode for Group {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(self.open_file()?)
    }

    fn releases(&self) -> Releases {
        self.releases.clone()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("number", &self.number).field("device", &self.device_name).finish_non_exhaustive()
    }
}
