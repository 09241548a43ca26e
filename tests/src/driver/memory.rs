//! The driver's memory: one memfd, mapped here and for the device.

use super::sys::Map;
use super::{CallResult, DriverError};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags};
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsFd;

/// Where the device finds the memory, if not said otherwise.
pub const IOVA: u64 = 0x10_0000;
/// How much there is.
pub const SIZE: usize = 4 << 20;
/// Bytes set aside for the parts of one queue.
pub const QUEUE_ROOM: usize = 0x2_0000;
/// Free for indirect tables and whatever a test needs.
pub const SCRATCH: usize = 0x8_0000;
/// Buffers begin here.
pub const BUFFERS: usize = 0x10_0000;
/// Parts of queues with large rings begin here, behind the rest, each with so much room.
pub const LARGE: usize = SIZE;
/// Bytes set aside for the parts of one queue there.
pub const LARGE_ROOM: usize = 1 << 20;
/// One buffer a descriptor.
pub const BUFFER_ROOM: usize = 4096;

/// Shared memory.
#[derive(Debug)]
pub struct Memory {
    file: File,
    map: Map,
    first: u64,
}

impl Memory {
    /// A new memfd of [`SIZE`] bytes.
    pub fn new() -> CallResult<Self> {
        Self::of_size(SIZE)
    }

    /// A new memfd.
    pub fn of_size(size: usize) -> CallResult<Self> {
        let fd = memfd_create(c"driver", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
        let file = File::from(fd.map_err(DriverError::call("memfd_create"))?);
        file.set_len(u64::try_from(size).expect("64 bits")).map_err(DriverError::io("ftruncate"))?;
        let len = NonZeroUsize::new(size).expect("memory is not empty");
        let map = Map::of(file.as_fd(), len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        Ok(Self { map: map.map_err(DriverError::call("mmap"))?, file, first: IOVA })
    }

    /// The same memory, to be mapped at `first`: there are others in the container.
    #[must_use]
    pub fn first_at(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// Where the device finds its first byte.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Private memory of [`SIZE`] bytes, which the device reaches through this process. The memfd is not part of it.
    pub fn private() -> CallResult<Self> {
        let shared = Self::new()?;
        let len = NonZeroUsize::new(SIZE).expect("memory is not empty");
        Ok(Self { map: Map::private(len).map_err(DriverError::call("mmap"))?, ..shared })
    }

    /// Memory of any kind, mapped by whoever calls. The memfd is not part of it.
    pub fn of_map(map: Map) -> CallResult<Self> {
        Ok(Self { map, ..Self::new()? })
    }

    /// The memfd.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes, for the device.
    pub fn size(&self) -> u64 {
        u64::try_from(self.map.len()).expect("64 bits")
    }

    /// The address the device has for an offset.
    pub fn iova(&self, offset: usize) -> u64 {
        self.first + u64::try_from(offset).expect("64 bits")
    }
}

impl Deref for Memory {
    type Target = Map;

    fn deref(&self) -> &Map {
        &self.map
    }
}
