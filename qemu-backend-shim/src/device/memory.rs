//! Changes of the front end's memory, and what they do to a running device.

use tracing::{debug, warn};

use super::{Device, SentRegion};
use crate::error::Error;
use crate::instance::Instance;
use crate::mapping::{FileId, Mapping};
use crate::memory::{Region, RegionTable};

impl<I: Instance> Device<I> {
    /// SET_MEM_TABLE. Regions that stay as they are keep their mapping, and the device stops only when one goes away.
    pub fn set_memory(&mut self, sent: Vec<SentRegion>) -> Result<(), Error> {
        let mut kept = RegionTable::default();
        let mut new = Vec::new();
        for (region, file, offset) in sent {
            let id = FileId::of(&file, offset)?;
            kept.insert(region, id)?;
            if !self.memory.iter().any(|(old, mapping)| *old == region && mapping.file() == id) {
                new.push((region, Mapping::new(&region, file, offset)?));
            }
        }
        let keeps =
            |region: &Region, mapping: &Mapping| kept.iter().any(|(r, id)| r == region && mapping.file() == *id);
        let old: Vec<_> = self.memory.iter().filter(|(r, mapping)| !keeps(r, mapping)).map(|(r, _)| *r).collect();
        if !old.is_empty() {
            self.stop()?;
        }
        for region in &old {
            self.unmap(region)?;
        }
        for (region, mapping) in new {
            self.map(region, mapping)?;
        }
        self.settle()
    }

    /// ADD_MEM_REG.
    pub fn add_memory(&mut self, (region, file, offset): SentRegion) -> Result<(), Error> {
        self.memory.check(&region)?;
        self.map(region, Mapping::new(&region, file, offset)?)?;
        self.settling |= !self.running && self.is_ready();
        Ok(())
    }

    /// REM_MEM_REG. Front ends move memory by removing and adding it again with the rings running, so the device stays down until that has
    /// [settled](Self::settle).
    pub fn remove_memory(&mut self, region: &Region) -> Result<(), Error> {
        self.settling |= self.running;
        self.stop()?;
        self.unmap(region)
    }

    /// Whether a change of memory is under way.
    pub fn is_settling(&self) -> bool {
        self.settling
    }

    /// The front end has said all it had to say about memory: the device starts again if its rings are mapped.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.settling = false;
        if self.running || !self.is_ready() {
            return Ok(());
        }
        match self.ring_iovas() {
            Ok(_) => self.start_if_ready(),
            Err(e) => {
                warn!("the device stays stopped after a change of memory: {e}");
                Ok(())
            }
        }
    }

    fn map(&mut self, region: Region, mapping: Mapping) -> Result<(), Error> {
        self.instance.map(region.gpa(), region.size(), mapping.vaddr())?;
        debug!(%region, "mapped");
        Ok(self.memory.insert(region, mapping)?)
    }

    fn unmap(&mut self, region: &Region) -> Result<(), Error> {
        let mapping = self.memory.remove(region)?;
        let result = self.instance.unmap(region.gpa(), region.size());
        debug!(%region, "unmapped");
        // only now: the device uses this process's mapping until the call returns
        drop(mapping);
        result
    }
}
