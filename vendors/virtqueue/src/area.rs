//! How the areas of a ring are reached: in place, or through the address space on every access.
//!
//! Through the address space goes what lies in a client's private memory, or in more than one region. There every
//! access is at least one system call, so calls are few and in the order of the specification: data first, the index
//! that publishes it in a later write of its own.

use crate::error::{Cause, Part};
use crate::layout::{DESCRIPTOR, Layout, Place};
use std::sync::atomic::{AtomicU64, Ordering};
use virtio_mdev_api::dma::{AccessError, Held, Local, Permissions, View};

/// One area of a ring during a burst.
pub struct Area<'a> {
    part: Part,
    iova: u64,
    access: Access<'a>,
}

enum Access<'a> {
    InPlace(Local<'a>),
    Through(View<'a>),
}

/// The three areas of a ring during a burst.
pub struct Areas<'a> {
    /// The memory they are in, which need not be that of the buffers.
    memory: View<'a>,
    pub desc: Area<'a>,
    pub driver: Area<'a>,
    pub device: Area<'a>,
}

impl<'a> Areas<'a> {
    pub fn find(memory: View<'a>, layout: &Layout, packed: bool) -> Result<Self, (Part, AccessError)> {
        let both = Permissions::READ | Permissions::WRITE;
        let [desc, driver, device] = layout.areas;
        Ok(Self {
            desc: Area::find(&memory, desc, if packed { both } else { Permissions::READ })?,
            driver: Area::find(&memory, driver, Permissions::READ)?,
            device: Area::find(&memory, device, both)?,
            memory,
        })
    }

    /// Whether what was read at `offset` of `area` is still the client's: memory that was taken away reads as zeros, and
    /// is known as such only once it was read.
    pub fn check_kept(&self, area: &Area<'_>, offset: usize) -> Result<(), Cause> {
        let (iova, len) = area.range(offset, size_of::<u16>());
        self.memory.check(iova, len, Permissions::READ).map_err(|error| area.failed(error))
    }

    /// Whether anything of the ring is reached through the client.
    pub fn is_slow(&self) -> bool {
        [&self.desc, &self.driver, &self.device].iter().any(|area| matches!(area.access, Access::Through(_)))
    }
}

impl<'a> Area<'a> {
    fn find(view: &View<'a>, place: Place, access: Permissions) -> Result<Self, (Part, AccessError)> {
        let Place { part, iova, len } = place;
        let local = usize::try_from(len).ok().and_then(|len| view.held(iova, len, access)).map(Held::memory);
        let access = match local {
            Some(memory) => Access::InPlace(memory),
            None => {
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

    #[cold]
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
        match &self.access {
            Access::InPlace(memory) => memory.load_u16(offset, order).ok_or_else(|| self.outside(offset)),
            Access::Through(view) => {
                view.load(self.at(offset), order).map(u16::from_le).map_err(|error| self.failed(error))
            }
        }
    }

    #[inline]
    pub fn store_u16(&self, offset: usize, value: u16, order: Ordering) -> Result<(), Cause> {
        match &self.access {
            Access::InPlace(memory) => memory.store_u16(offset, value, order).ok_or_else(|| self.outside(offset)),
            Access::Through(view) => {
                view.store(value.to_le(), self.at(offset), order).map_err(|error| self.failed(error))
            }
        }
    }

    #[inline]
    pub fn load_u32(&self, offset: usize, order: Ordering) -> Result<u32, Cause> {
        match &self.access {
            Access::InPlace(memory) => memory.load_u32(offset, order).ok_or_else(|| self.outside(offset)),
            Access::Through(view) => {
                view.load(self.at(offset), order).map(u32::from_le).map_err(|error| self.failed(error))
            }
        }
    }

    #[inline]
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) -> Result<(), Cause> {
        match &self.access {
            Access::InPlace(memory) => memory.store_u32(offset, value, order).ok_or_else(|| self.outside(offset)),
            Access::Through(view) => {
                view.store(value.to_le(), self.at(offset), order).map_err(|error| self.failed(error))
            }
        }
    }

    #[inline]
    pub fn load_u64(&self, offset: usize, order: Ordering) -> Result<u64, Cause> {
        match &self.access {
            Access::InPlace(memory) => memory.load_u64(offset, order).ok_or_else(|| self.outside(offset)),
            Access::Through(view) => {
                view.load(self.at(offset), order).map(u64::from_le).map_err(|error| self.failed(error))
            }
        }
    }

    #[inline]
    pub fn store_u64(&self, offset: usize, value: u64, order: Ordering) -> Result<(), Cause> {
        match &self.access {
            Access::InPlace(memory) => memory.store_u64(offset, value, order).ok_or_else(|| self.outside(offset)),
            Access::Through(view) => {
                view.store(value.to_le(), self.at(offset), order).map_err(|error| self.failed(error))
            }
        }
    }

    /// All of it as pairs of numbers, in the byte order of the specification, if it is reached in place: for what is done to
    /// every descriptor.
    #[inline]
    pub fn pairs(&self) -> Option<&'a [[AtomicU64; 2]]> {
        match &self.access {
            Access::InPlace(memory) => memory.words().map(|words| words.as_chunks().0),
            Access::Through(_) => None,
        }
    }

    /// These bytes, or as many of them as there are, are going to be written: a hint.
    #[inline]
    pub fn prefetch(&self, offset: usize, len: usize) {
        if let Access::InPlace(memory) = &self.access
            && let Some(memory) = memory.from(offset)
        {
            memory.prefetch(len, Permissions::WRITE);
        }
    }

    /// The 16 bytes at `offset`, a multiple of 16, each read once: as two numbers, the lower addresses first.
    #[inline]
    pub fn load_descriptor(&self, offset: usize) -> Result<[u64; 2], Cause> {
        if let Some([low, high]) = self.pairs().and_then(|pairs| pairs.get(offset / DESCRIPTOR)) {
            return Ok([low, high].map(|half| u64::from_le(half.load(Ordering::Relaxed))));
        }
        self.read_descriptor(offset)
    }

    #[cold]
    fn read_descriptor(&self, offset: usize) -> Result<[u64; 2], Cause> {
        let mut halves = [[0; 8]; 2];
        self.read(offset, halves.as_flattened_mut())?;
        Ok(halves.map(u64::from_le_bytes))
    }

    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Cause> {
        match &self.access {
            Access::InPlace(memory) => {
                let read = memory.part(offset, out.len()).is_some_and(|part| part.read(out));
                if read { Ok(()) } else { Err(self.outside(offset)) }
            }
            Access::Through(view) => view.read(self.at(offset), out).map_err(|error| self.failed(error)),
        }
    }

    #[inline]
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), Cause> {
        match &self.access {
            Access::InPlace(memory) => {
                let written = memory.part(offset, data.len()).is_some_and(|part| part.write(data));
                if written { Ok(()) } else { Err(self.outside(offset)) }
            }
            Access::Through(view) => view.write(self.at(offset), data).map_err(|error| self.failed(error)),
        }
    }

    /// First address of `len` bytes at `offset`, for the dirty record.
    pub fn range(&self, offset: usize, len: usize) -> (u64, u64) {
        (self.at(offset), len as u64)
    }
}
