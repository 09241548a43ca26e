//! The driver's memory, as the kernel hands it out: a file a range of IOVAs.

use super::abi::{VDUSE_IOTLB_GET_FD, word};
use crate::driver::sys::{self, Map};
use nix::sys::mman::{MapFlags, ProtFlags};
use std::fs::File;
use std::num::NonZeroUsize;

const READ: u8 = 1;
const WRITE: u8 = 2;

/// What was used so far and is mapped still.
#[derive(Debug, Default)]
pub struct Memory {
    regions: Vec<Region>,
}

#[derive(Debug)]
struct Region {
    start: u64,
    last: u64,
    offset: u64,
    permission: u8,
    map: Map,
}

impl Memory {
    /// Unmaps what touches the range.
    pub fn forget(&mut self, start: u64, last: u64) {
        self.regions.retain(|region| region.last < start || region.start > last);
    }

    /// Copies out; whether all of it is there.
    pub fn read(&mut self, device: &File, iova: u64, into: &mut [u8]) -> bool {
        let found = self.find(device, iova, into.len(), READ);
        found.inspect(|(map, at)| map.read(*at, into)).is_some()
    }

    /// Copies in; whether all of it is there.
    pub fn write(&mut self, device: &File, iova: u64, bytes: &[u8]) -> bool {
        let found = self.find(device, iova, bytes.len(), WRITE);
        found.inspect(|(map, at)| map.write(*at, bytes)).is_some()
    }

    /// Reads an index of a ring.
    pub fn load(&mut self, device: &File, iova: u64) -> Option<u16> {
        self.find(device, iova, 2, READ).map(|(map, at)| map.load(at))
    }

    /// Publishes an index of a ring.
    pub fn store(&mut self, device: &File, iova: u64, value: u16) {
        if let Some((map, at)) = self.find(device, iova, 2, WRITE) {
            map.store(at, value);
        }
    }

    fn find(&mut self, device: &File, iova: u64, len: usize, permission: u8) -> Option<(&Map, usize)> {
        let last = iova.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        let covers = |region: &Region| region.start <= iova && last <= region.last;
        if !self.regions.iter().any(covers) {
            self.regions.push(Region::get(device, iova)?);
        }
        let region = self.regions.iter().find(|region| covers(region))?;
        let at = usize::try_from(region.offset + (iova - region.start)).ok()?;
        (region.permission & permission != 0).then_some((&region.map, at))
    }
}

impl Region {
    fn get(device: &File, iova: u64) -> Option<Self> {
        let mut entry = [0; 32];
        entry[8..16].copy_from_slice(&iova.to_ne_bytes());
        entry[16..24].copy_from_slice(&iova.to_ne_bytes());
        let number = sys::ioctl(device, VDUSE_IOTLB_GET_FD, &mut entry).ok()?;
        let file = sys::own(number);
        let (offset, start, last, permission) = (word(&entry, 0), word(&entry, 8), word(&entry, 16), entry[24]);
        let mut protection = ProtFlags::empty();
        protection.set(ProtFlags::PROT_READ, permission & READ != 0);
        protection.set(ProtFlags::PROT_WRITE, permission & WRITE != 0);
        let end = usize::try_from(offset.checked_add(last - start)?.checked_add(1)?).ok()?;
        let map = Map::of(&file, NonZeroUsize::new(end)?, protection, MapFlags::MAP_SHARED).ok()?;
        Some(Self { start, last, offset, permission, map })
    }
}
