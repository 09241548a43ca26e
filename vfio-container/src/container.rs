//! A container: groups that share an IOMMU.

use crate::Home;
use crate::attachment::MemorySource;
use crate::error::VfioError;
use crate::iommu::{Iommu, Version};
use devnode::Broadcast;
use parking_lot::Mutex;
use std::sync::Arc;
use virtio_mdev_api::dma::AddressSpace;

/// As in the kernel, a container lives while its file is open or a group is attached, and loses its IOMMU, with all
/// mappings, when the last group leaves.
#[derive(Default)]
pub(crate) struct Container {
    state: Mutex<State>,
}

/// Quick to change: nothing is done under its lock that waits for anybody.
#[derive(Default)]
struct State {
    /// Number and listeners of each group.
    groups: Vec<(u32, Option<Arc<Broadcast>>)>,
    iommu: Option<Arc<Iommu>>,
}

impl MemorySource for Container {
    fn join(&self, group: u32, trace: Option<Arc<Broadcast>>) -> Result<(), VfioError> {
        self.state.lock().groups.push((group, trace));
        Ok(())
    }

    fn leave(&self, group: u32) {
        let mut state = self.state.lock();
        state.groups.retain(|(number, _)| *number != group);
        let orphan = if state.groups.is_empty() { state.iommu.take() } else { None };
        drop(state);
        if let Some(iommu) = orphan {
            iommu.close();
        }
    }

    fn space(&self) -> Option<Arc<AddressSpace>> {
        self.state.lock().iommu.as_ref().map(|iommu| Arc::clone(iommu.space()))
    }
}

impl Container {
    pub fn set_iommu(&self, version: Version, home: Home) -> Result<(), VfioError> {
        let mut state = self.state.lock();
        if state.groups.is_empty() || state.iommu.is_some() {
            return Err(VfioError::IommuFixed);
        }
        state.iommu = Some(Iommu::new(version, home));
        Ok(())
    }

    pub fn check_settable(&self) -> Result<(), VfioError> {
        let state = self.state.lock();
        if state.groups.is_empty() || state.iommu.is_some() { Err(VfioError::IommuFixed) } else { Ok(()) }
    }

    pub fn iommu(&self) -> Option<Arc<Iommu>> {
        self.state.lock().iommu.clone()
    }

    pub fn listeners(&self) -> Vec<Arc<Broadcast>> {
        self.state.lock().groups.iter().filter_map(|(_, trace)| trace.clone()).collect()
    }
}
