//! How the areas of a ring are reached: in place, or through the address space on every access.
//!
//! Through the address space goes what lies in a client's private memory, or in more than one region. There every
//! access is at least one system call, so calls are few and in the order of the specification: data first, the index
//! that publishes it in a later write of its own.

use crate::error::{Cause, Part};
use crate::layout::{INDEX, Layout};
use std::sync::atomic::Ordering;
use virtio_mdev_api::dma::{AccessError, Lookup, Permissions, Piece, View};
use vm_memory::{Bytes, VolatileSlice};

/// One area of a ring during a burst.
pub struct Area<'a> {
    part: Part,
    iova: u64,
    access: Access<'a>,
}

enum Access<'a> {
    InPlace(VolatileSlice<'a>),
    Through(View<'a>),
}

/// The three areas of a ring during a burst.
pub struct Areas<'a> {
    /// The memory they are in, which need not be that of the buffers.
    memory: View<'a>,
    pub desc: Area<'a>,
    pub avail: Area<'a>,
    pub used: Area<'a>,
}

impl<'a> Areas<'a> {
    pub fn find(memory: View<'a>, layout: &Layout) -> Result<Self, (Part, AccessError)> {
        let used = Permissions::READ | Permissions::WRITE;
        Ok(Self {
            desc: Area::find(&memory, layout, Part::Descriptors, layout.desc, Permissions::READ)?,
            avail: Area::find(&memory, layout, Part::Available, layout.avail, Permissions::READ)?,
            used: Area::find(&memory, layout, Part::Used, layout.used, used)?,
            memory,
        })
    }

    /// Whether the available index is still the client's: memory that was taken away reads as zeros, and is known as
    /// such only once it was read.
    pub fn check_kept(&self) -> Result<(), Cause> {
        let (iova, len) = self.avail.range(INDEX, size_of::<u16>());
        self.memory.check(iova, len, Permissions::READ).map_err(|error| self.avail.failed(error))
    }

    /// Whether anything of the ring is reached through the client.
    pub fn is_slow(&self) -> bool {
        [&self.desc, &self.avail, &self.used].iter().any(|area| matches!(area.access, Access::Through(_)))
    }
}

impl<'a> Area<'a> {
    fn find(
        view: &View<'a>,
        layout: &Layout,
        part: Part,
        iova: u64,
        access: Permissions,
    ) -> Result<Self, (Part, AccessError)> {
        let len = layout.len(part);
        let access = match view.lookup(iova, len, access) {
            Lookup::Hit(Piece::Local(slice)) if slice.len() as u64 == len => Access::InPlace(slice),
            _ => {
                view.check(iova, len, access).map_err(|error| (part, error))?;
                Access::Through(view.clone())
            }
        };
        Ok(Self { part, iova, access })
    }

    #[inline]
    fn at(&self, offset: usize) -> u64 {
        self.iova + offset as u64
    }

    fn failed(&self, error: AccessError) -> Cause {
        Cause::access(self.part, error)
    }

    /// An offset outside of the area, or an unaligned one: never, the layout is checked and fixed.
    #[cold]
    fn outside(&self, offset: usize) -> Cause {
        self.failed(AccessError::Misaligned { iova: self.at(offset), size: 2 })
    }

    #[inline]
    pub fn load_u16(&self, offset: usize, order: Ordering) -> Result<u16, Cause> {
        let value = match &self.access {
            Access::InPlace(slice) => slice.load::<u16>(offset, order).map_err(|_| self.outside(offset))?,
            Access::Through(view) => view.load::<u16>(self.at(offset), order).map_err(|error| self.failed(error))?,
        };
        Ok(u16::from_le(value))
    }

    #[inline]
    pub fn store_u16(&self, offset: usize, value: u16, order: Ordering) -> Result<(), Cause> {
        match &self.access {
            Access::InPlace(slice) => slice.store(value.to_le(), offset, order).map_err(|_| self.outside(offset)),
            Access::Through(view) => {
                view.store(value.to_le(), self.at(offset), order).map_err(|error| self.failed(error))
            }
        }
    }

    /// The 16 bytes at `offset`, a multiple of 16, each read once.
    #[inline]
    pub fn load_descriptor(&self, offset: usize) -> Result<[u8; 16], Cause> {
        let mut bytes = [0; 16];
        match &self.access {
            Access::InPlace(slice) => {
                let (low, high) =
                    (slice.load::<u64>(offset, Ordering::Relaxed), slice.load(offset + 8, Ordering::Relaxed));
                let (Ok(low), Ok(high)) = (low, high) else { return Err(self.outside(offset)) };
                bytes[..8].copy_from_slice(&u64::to_ne_bytes(low));
                bytes[8..].copy_from_slice(&u64::to_ne_bytes(high));
            }
            Access::Through(view) => view.read(self.at(offset), &mut bytes).map_err(|error| self.failed(error))?,
        }
        Ok(bytes)
    }

    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Cause> {
        match &self.access {
            Access::InPlace(slice) => slice.read_slice(out, offset).map_err(|_| self.outside(offset)),
            Access::Through(view) => view.read(self.at(offset), out).map_err(|error| self.failed(error)),
        }
    }

    #[inline]
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), Cause> {
        match &self.access {
            Access::InPlace(slice) => slice.write_slice(data, offset).map_err(|_| self.outside(offset)),
            Access::Through(view) => view.write(self.at(offset), data).map_err(|error| self.failed(error)),
        }
    }

    /// First address of `len` bytes at `offset`, for the dirty record.
    pub fn range(&self, offset: usize, len: usize) -> (u64, u64) {
        (self.at(offset), len as u64)
    }
}
