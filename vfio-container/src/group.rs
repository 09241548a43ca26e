//! `/dev/vfio/<n>`: the group of one instance.

mod device;
mod memory;

use crate::GroupFile;
use crate::attachment::Attached;
use crate::error::VfioError;
use crate::usage::Usage;
use devnode::{Broadcast, Caller, DeviceNode, OpenFile, OpenFlags, Releases};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use virtio_mdev_api::HasErrno;

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

    /// Whether somebody has the group open, or its device bound.
    pub fn is_open(&self) -> bool {
        self.state.lock().open.is_some()
    }

    /// The releases under way on the files of the group, of its device, and of whatever else keeps the device in use.
    pub fn releases(&self) -> &Releases {
        &self.releases
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
