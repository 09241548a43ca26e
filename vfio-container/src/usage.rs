//! A device while files of it are open.

use crate::error::VfioError;
use crate::migration::{DmaLog, Machine};
use crate::{DeviceShape, Group, VfioDevice};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::sync::Arc;
use virtio_mdev_api::Refusal;
use virtio_mdev_api::dma::AddressSpace;
use virtio_mdev_api::doorbell::Doorbells;

/// The device of a group, as its driver supplied it.
pub(crate) struct Supplied {
    pub device: Arc<dyn VfioDevice>,
    pub shape: DeviceShape,
    /// Its migration state.
    pub machine: Machine,
    /// The pages it writes, while somebody wants to know.
    pub log: DmaLog,
    /// Of each index that cannot be resized: how many interrupts were set up, from the first.
    enabled: Mutex<Vec<u32>>,
}

impl Supplied {
    pub fn new(device: Arc<dyn VfioDevice>) -> Arc<Self> {
        let shape = device.shape();
        let enabled = Mutex::new(vec![0; shape.irqs.len()]);
        Arc::new(Self { device, shape, machine: Machine::default(), log: DmaLog::default(), enabled })
    }

    /// How many interrupts of index `at` were set up.
    pub fn enabled(&self, at: usize) -> u32 {
        self.enabled.lock().get(at).copied().unwrap_or(0)
    }

    pub fn set_enabled(&self, at: usize, count: u32) {
        if let Some(enabled) = self.enabled.lock().get_mut(at) {
            *enabled = count;
        }
    }

    fn open(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        self.device.open()?;
        self.device.set_memory(memory).inspect_err(|_| self.device.close())
    }

    /// VFIO_DEVICE_RESET.
    pub fn reset(&self) -> Result<(), VfioError> {
        Ok(self.machine.reset(|| self.device.reset())?)
    }

    fn let_go(&self) {
        self.log.stop();
        if let Err(error) = self.device.set_memory(None) {
            tracing::warn!(%error, "a device keeps memory that is unmapped now");
        }
        let closed: Result<(), Infallible> = self.machine.reset(|| {
            self.device.close();
            Ok(())
        });
        let Ok(()) = closed;
        self.enabled.lock().fill(0);
    }
}

/// Who has files of a device open.
#[derive(Default)]
pub(crate) struct Usage {
    /// Held while the device is opened for the first file or closed after the last one: one is over before the next
    /// begins.
    state: Mutex<State>,
    /// Process and user of who opened the first. Apart from the state: a device that is being opened or closed tells of
    /// it, and whoever hears that asks who it is.
    holder: Mutex<Option<(i32, u32)>>,
}

#[derive(Default)]
struct State {
    supplied: Option<Arc<Supplied>>,
    files: usize,
}

impl Usage {
    pub fn supply(&self, device: Arc<dyn VfioDevice>) {
        self.state.lock().supplied = Some(Supplied::new(device));
    }

    /// Who opened the first of its files.
    pub fn holder(&self) -> Option<(i32, u32)> {
        *self.holder.lock()
    }

    /// What a file of the device's own node shows to those who map it.
    pub fn doorbells(&self) -> Option<Arc<Doorbells>> {
        let supplied = self.state.lock().supplied.clone()?;
        supplied.device.doorbells()
    }

    /// The device is gone: it loses its memory, and files of it that are open have none.
    pub fn end(&self) {
        let mut state = self.state.lock();
        let supplied = state.supplied.take();
        let was_used = std::mem::take(&mut *state).files != 0;
        *self.holder.lock() = None;
        if let Some(supplied) = supplied.filter(|_| was_used) {
            supplied.let_go();
            supplied.machine.end();
        }
    }

    /// The device, if it is open, works in `memory` from now on.
    pub fn set_memory(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), VfioError> {
        let state = self.state.lock();
        match &state.supplied {
            Some(supplied) if state.files != 0 => Ok(supplied.device.set_memory(memory)?),
            _ => Ok(()),
        }
    }

    fn begin(&self, memory: Option<Arc<AddressSpace>>, holder: (i32, u32)) -> Result<Arc<Supplied>, VfioError> {
        let mut state = self.state.lock();
        let supplied = state.supplied.clone().ok_or(VfioError::Gone)?;
        if state.files == 0 {
            *self.holder.lock() = Some(holder);
            if let Err(refusal) = supplied.open(memory) {
                *self.holder.lock() = None;
                return Err(refusal.into());
            }
        }
        state.files += 1;
        Ok(supplied)
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        let Some(supplied) = state.supplied.clone() else { return };
        state.files -= 1;
        if state.files == 0 {
            *self.holder.lock() = None;
            supplied.let_go();
        }
    }
}

/// One file's share in the use of a device, which is open from the first of these to the last.
#[must_use = "the device is closed when this is dropped"]
pub(crate) struct DeviceUse {
    group: Arc<Group>,
    supplied: Arc<Supplied>,
}

impl DeviceUse {
    /// Opens the device of `group` for a client of the given process and user. Where it is open it keeps the memory it has.
    pub fn begin(group: &Arc<Group>, memory: Option<Arc<AddressSpace>>, holder: (i32, u32)) -> Result<Self, VfioError> {
        let supplied = group.usage().begin(memory, holder)?;
        Ok(Self { group: Arc::clone(group), supplied })
    }

    pub fn supplied(&self) -> &Arc<Supplied> {
        &self.supplied
    }
}

impl Drop for DeviceUse {
    fn drop(&mut self) {
        self.group.usage().leave();
    }
}
