//! IOMMU_IOAS_MAP, IOMMU_IOAS_MAP_FILE, IOMMU_IOAS_COPY and IOMMU_IOAS_UNMAP.

use super::context::Context;
use super::error::IommufdError;
use super::ioas::{Ioas, Place};
use super::iova;
use super::wire::{check_flags, check_reserved, fetch, respond};
use crate::iommu::{PAGE, last};
use crate::trace::Trace;
use crate::{Client, regions};
use devnode::Piece;
use vfio_abi::iommufd::{
    IOMMU_IOAS_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_READABLE, IOMMU_IOAS_MAP_WRITEABLE, IoasCopy, IoasMap, IoasMapFile,
    IoasUnmap,
};
use virtio_mdev_api::dma::{Permissions, Region};

impl Context {
    /// IOMMU_IOAS_MAP.
    pub fn ioas_map(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let map: IoasMap = fetch(client, arg)?;
        trace.arg("ioas", map.ioas_id);
        trace.arg("flags", map.flags);
        trace.arg("vaddr", map.user_va);
        trace.arg("iova", map.iova);
        trace.arg("size", map.length);
        let wanted = Wanted::new(map.flags, map.iova, map.length, map.reserved)?;
        let ioas = self.ioas(map.ioas_id)?;
        if map.length == 0 {
            return Err(IommufdError::Invalid { field: "the length", value: 0 });
        }
        if map.user_va.checked_add(map.length).is_none() {
            return Err(IommufdError::Overflow { first: map.user_va, length: map.length });
        }
        let place = wanted.place(map.user_va)?;
        ioas.check(place, map.length)?;
        wanted.check_memory(map.user_va)?;
        let memory = regions(client, 0, map.user_va, map.length, wanted.permissions)?;
        let iova = ioas.add(place, map.length, vec![memory])?;
        trace.arg("at", iova);
        tell(&ioas, iova, map.length, respond(client, arg, &IoasMap { iova, ..map }))
    }

    /// IOMMU_IOAS_MAP_FILE: memory that the client need not have mapped itself.
    pub fn ioas_map_file(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let map: IoasMapFile = fetch(client, arg)?;
        let IoasMapFile { fd, start, length, .. } = map;
        trace.arg("ioas", map.ioas_id);
        trace.arg("flags", map.flags);
        trace.arg("fd", fd);
        trace.arg("start", start);
        trace.arg("iova", map.iova);
        trace.arg("size", length);
        let wanted = Wanted::new(map.flags, map.iova, length, 0)?;
        let ioas = self.ioas(map.ioas_id)?;
        if length == 0 {
            return Err(IommufdError::Invalid { field: "the length", value: 0 });
        }
        if start.checked_add(length).is_none() {
            return Err(IommufdError::Overflow { first: start, length });
        }
        let place = wanted.place(start)?;
        ioas.check(place, length)?;
        wanted.check_memory(start)?;
        let Piece { len, backing } = client.map_file(fd, start, length, wanted.permissions)?;
        let memory = Region { iova: 0, len, permissions: wanted.permissions, backing };
        let iova = ioas.add(place, length, vec![vec![memory]])?;
        trace.arg("at", iova);
        tell(&ioas, iova, length, respond(client, arg, &IoasMapFile { iova, ..map }))
    }

    /// IOMMU_IOAS_COPY: the memory of a mapping, or a part of it, another time.
    pub fn ioas_copy(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let copy: IoasCopy = fetch(client, arg)?;
        trace.arg("from_ioas", copy.src_ioas_id);
        trace.arg("from", copy.src_iova);
        trace.arg("ioas", copy.dst_ioas_id);
        trace.arg("flags", copy.flags);
        trace.arg("iova", copy.dst_iova);
        trace.arg("size", copy.length);
        let wanted = Wanted::new(copy.flags, copy.dst_iova, copy.length, 0)?;
        check_beyond(copy.src_iova)?;
        let from = self.ioas(copy.src_ioas_id)?;
        if copy.length == 0 {
            return Err(IommufdError::Invalid { field: "the length", value: 0 });
        }
        let end = last(copy.src_iova, copy.length);
        let end = end.ok_or(IommufdError::Overflow { first: copy.src_iova, length: copy.length })?;
        let mut memory = from.memory(copy.src_iova, end)?;
        let to = self.ioas(copy.dst_ioas_id)?;
        let place = wanted.place(copy.src_iova)?;
        to.check(place, copy.length)?;
        wanted.check_memory(copy.src_iova)?;
        memory.iter_mut().flatten().try_for_each(|region| wanted.permit(region))?;
        let dst_iova = to.add(place, copy.length, memory)?;
        trace.arg("at", dst_iova);
        tell(&to, dst_iova, copy.length, respond(client, arg, &IoasCopy { dst_iova, ..copy }))
    }

    /// IOMMU_IOAS_UNMAP.
    pub fn ioas_unmap(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let unmap: IoasUnmap = fetch(client, arg)?;
        let IoasUnmap { iova, length, .. } = unmap;
        trace.arg("ioas", unmap.ioas_id);
        trace.arg("iova", iova);
        trace.arg("size", length);
        let ioas = self.ioas(unmap.ioas_id)?;
        let unmapped = if (iova, length) == (0, u64::MAX) {
            ioas.remove(0, u64::MAX)?
        } else {
            check_beyond(iova)?;
            check_beyond(length)?;
            if length == 0 {
                return Err(IommufdError::Invalid { field: "the length", value: 0 });
            }
            let last = last(iova, length).ok_or(IommufdError::Overflow { first: iova, length })?;
            match ioas.remove(iova, last)? {
                0 => return Err(IommufdError::NotMapped { first: iova, last }),
                unmapped => unmapped,
            }
        };
        respond(client, arg, &IoasUnmap { length: unmapped, ..unmap })
    }
}

/// What a new mapping is to be.
pub(super) struct Wanted {
    pub permissions: Permissions,
    fixed: Option<u64>,
    length: u64,
}

impl Wanted {
    /// Checks what can be checked before any object is looked at, in the order of the kernel.
    pub fn new(flags: u32, iova: u64, length: u64, reserved: u32) -> Result<Self, IommufdError> {
        check_flags(flags, IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE)?;
        check_reserved(reserved)?;
        check_beyond(iova)?;
        check_beyond(length)?;
        let mut permissions = Permissions::empty();
        permissions.set(Permissions::READ, flags & IOMMU_IOAS_MAP_READABLE != 0);
        permissions.set(Permissions::WRITE, flags & IOMMU_IOAS_MAP_WRITEABLE != 0);
        if permissions.is_empty() {
            return Err(IommufdError::Invalid { field: "the permission", value: 0 });
        }
        let fixed = (flags & IOMMU_IOAS_MAP_FIXED_IOVA != 0).then_some(iova);
        Ok(Self { permissions, fixed, length })
    }

    /// Where memory at `of` goes.
    pub fn place(&self, of: u64) -> Result<Place, IommufdError> {
        let length = self.length;
        let unaligned = |iova| IommufdError::Unaligned { iova, length, of };
        if !length.is_multiple_of(PAGE) {
            return Err(unaligned(self.fixed.unwrap_or(0)));
        }
        match self.fixed {
            Some(iova) if !iova.is_multiple_of(PAGE) => Err(unaligned(iova)),
            Some(iova) => Ok(Place::At(iova)),
            None => {
                let align = iova::alignment(of, length).ok_or(IommufdError::Overflow { first: of, length })?;
                if align < PAGE { Err(unaligned(0)) } else { Ok(Place::Anywhere { align }) }
            }
        }
    }

    /// Memory at `of` begins with a page.
    pub fn check_memory(&self, of: u64) -> Result<(), IommufdError> {
        let (iova, length) = (self.fixed.unwrap_or(0), self.length);
        if of.is_multiple_of(PAGE) { Ok(()) } else { Err(IommufdError::Unaligned { iova, length, of }) }
    }

    /// A copy can be written where the original can. What can be written can be read.
    fn permit(&self, region: &mut Region) -> Result<(), IommufdError> {
        let (had, wanted) = (region.permissions, self.permissions);
        if wanted.contains(Permissions::WRITE) && !had.contains(Permissions::WRITE) {
            return Err(IommufdError::Permission { had, wanted });
        }
        region.permissions = wanted;
        Ok(())
    }
}

/// 2^64 - 1 is neither an address nor a length.
fn check_beyond(value: u64) -> Result<(), IommufdError> {
    if value == u64::MAX { Err(IommufdError::Overflow { first: value, length: value }) } else { Ok(()) }
}

/// What a client was not told of is not mapped.
pub(super) fn tell(ioas: &Ioas, iova: u64, length: u64, told: Result<(), IommufdError>) -> Result<(), IommufdError> {
    if told.is_err() {
        ioas.remove(iova, iova + (length - 1))?;
    }
    told
}
