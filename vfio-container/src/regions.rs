//! Regions of a device: where they are in its file, and access to them.

use crate::RegionShape;
use crate::device_info::at;
use crate::door::Access;
use crate::error::VfioError;
use crate::trace::Trace;

/// A region begins at its index, shifted by so many bits, as with vfio-pci.
const INDEX_SHIFT: u32 = 40;

/// Where region `index` begins.
pub(crate) fn offset_of_region(index: u32) -> u64 {
    u64::from(index) << INDEX_SHIFT
}

/// Part of a region: which, from where, how much.
struct Part {
    index: u32,
    from: u64,
    len: usize,
}

impl Part {
    /// What `len` bytes at `offset` of the file are: up to the end of a region, in which they must begin.
    fn find(
        access: &Access,
        offset: u64,
        len: usize,
        trace: &mut Trace,
        may: impl FnOnce(&RegionShape) -> bool,
    ) -> Result<Self, VfioError> {
        let index = u32::try_from(offset >> INDEX_SHIFT).unwrap_or(u32::MAX);
        let from = offset & ((1 << INDEX_SHIFT) - 1);
        trace.arg("region", index);
        trace.arg("offset", from);
        trace.arg("len", len);
        let region = at(&access.supplied.shape.regions, index)?;
        if !may(region) {
            return Err(VfioError::RegionAccess { index });
        }
        let room = region.size.checked_sub(from).filter(|&room| room != 0);
        let room = room.ok_or(VfioError::BeyondRegion { index, from, size: region.size })?;
        Ok(Self { index, from, len: len.min(usize::try_from(room).unwrap_or(usize::MAX)) })
    }
}

pub(crate) fn read(access: &Access, offset: u64, len: usize, trace: &mut Trace) -> Result<Vec<u8>, VfioError> {
    let part = Part::find(access, offset, len, trace, |region| region.readable)?;
    let mut data = vec![0; part.len];
    access.supplied.device.read(part.index, part.from, &mut data)?;
    Ok(data)
}

pub(crate) fn write(access: &Access, offset: u64, data: &[u8], trace: &mut Trace) -> Result<usize, VfioError> {
    let part = Part::find(access, offset, data.len(), trace, |region| region.writable)?;
    access.supplied.device.write(part.index, part.from, &data[..part.len])?;
    Ok(part.len)
}
