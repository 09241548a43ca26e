//! A context: objects by number, and who may change them.

use super::error::IommufdError;
use super::ioas::Ioas;
use super::usage::Usage;
use super::wire::{check_reserved, fetch, respond};
use crate::trace::Trace;
use crate::{Client, Home};
use devnode::Broadcast;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_abi::iommufd::{Destroy, IoasAlloc};

/// What an open `/dev/iommu` stands for. It lives while that is open, or a device is bound to it.
pub(crate) struct Context {
    usage: Arc<Usage>,
    /// Who used it first: whoever opened it may have done so for somebody else.
    home: Mutex<Option<Home>>,
    state: Mutex<State>,
}

/// Quick to change: nothing is done under its lock that waits for anybody.
#[derive(Default)]
pub(super) struct State {
    objects: BTreeMap<u32, Object>,
    /// The IOAS that stands for a container, where there is one.
    pub compat: Option<u32>,
    /// IOMMU_OPTION_RLIMIT_MODE.
    pub accounts_by_process: bool,
}

enum Object {
    Ioas(Arc<Ioas>),
    /// A device that is bound. It goes with its file.
    Device,
}

impl State {
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Gives an object the lowest number that is free, as the kernel does. None is 0.
    fn add(&mut self, object: Object) -> u32 {
        let mut id = 1;
        for &used in self.objects.keys() {
            if used != id {
                break;
            }
            id += 1;
        }
        self.objects.insert(id, object);
        id
    }

    /// The IOAS with number `id` stands for a container from now on.
    pub fn set_compat(&mut self, id: u32) -> Result<(), IommufdError> {
        self.ioas(id).ok_or(IommufdError::NoSuchObject(id))?;
        self.compat = Some(id);
        Ok(())
    }

    fn ioas(&self, id: u32) -> Option<&Arc<Ioas>> {
        match self.objects.get(&id) {
            Some(Object::Ioas(ioas)) => Some(ioas),
            _ => None,
        }
    }
}

impl Context {
    pub fn new(usage: Arc<Usage>) -> Result<Arc<Self>, IommufdError> {
        usage.take_context()?;
        Ok(Arc::new(Self { usage, home: Mutex::default(), state: Mutex::default() }))
    }

    pub fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Objects are for the address space that used the context first, and for no other. Looks into the client.
    pub fn check_home(&self, client: &dyn Client) -> Result<(), IommufdError> {
        let known = self.home.lock().clone();
        let home = match known {
            Some(home) => home,
            None => {
                let home = client.home()?;
                self.home.lock().get_or_insert(home).clone()
            }
        };
        if client.lives_in(&home) { Ok(()) } else { Err(IommufdError::Foreign) }
    }

    /// The IOAS with number `id`.
    pub fn ioas(&self, id: u32) -> Result<Arc<Ioas>, IommufdError> {
        self.state.lock().ioas(id).cloned().ok_or(IommufdError::NoSuchObject(id))
    }

    /// A new IOAS, with its number.
    pub fn add_ioas(&self) -> Result<u32, IommufdError> {
        let ioas = Ioas::new(Arc::clone(&self.usage))?;
        Ok(self.state.lock().add(Object::Ioas(ioas)))
    }

    /// A device is bound: its number.
    pub fn add_device(&self) -> u32 {
        self.state.lock().add(Object::Device)
    }

    /// It is not any more.
    pub fn remove_device(&self, id: u32) {
        self.state.lock().objects.remove(&id);
    }

    /// Who hears of calls: listeners of the devices that are attached.
    pub fn listeners(&self) -> Vec<Arc<Broadcast>> {
        let state = self.state.lock();
        let ioases = state.objects.values().filter_map(|object| match object {
            Object::Ioas(ioas) => Some(ioas),
            Object::Device => None,
        });
        ioases.flat_map(|ioas| ioas.listeners()).collect()
    }

    /// IOMMU_IOAS_ALLOC.
    pub fn ioas_alloc(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let alloc: IoasAlloc = fetch(client, arg)?;
        check_reserved(alloc.flags)?;
        let out_ioas_id = self.add_ioas()?;
        trace.arg("ioas", out_ioas_id);
        let told = respond(client, arg, &IoasAlloc { out_ioas_id, ..alloc });
        if told.is_err() {
            self.remove(out_ioas_id)?;
        }
        told
    }

    /// IOMMU_DESTROY. What an IOAS had mapped is unmapped when this returns.
    pub fn destroy(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let Destroy { id, .. } = fetch(client, arg)?;
        trace.arg("id", id);
        self.remove(id)
    }

    fn remove(&self, id: u32) -> Result<(), IommufdError> {
        let mut state = self.state.lock();
        match state.objects.get(&id) {
            None => return Err(IommufdError::NoSuchObject(id)),
            Some(Object::Ioas(ioas)) if ioas.retire() => {}
            Some(_) => return Err(IommufdError::InUse(id)),
        }
        let removed = state.objects.remove(&id);
        state.compat = state.compat.filter(|&compat| compat != id);
        drop(state);
        // With no lock held: it waits for whoever reads its memory.
        drop(removed);
        Ok(())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.usage.give_context();
    }
}
