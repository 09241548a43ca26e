//! Memory that the client shares with the device.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::mmap::MmapRegion;
use vm_memory::{AtomicAccess, Bytes, FileOffset, VolatileMemory};
use zerocopy::{FromBytes, IntoBytes};

/// A memfd and its mapping in this process. Offsets count from its start; where the device sees it is the business of whoever maps it.
#[derive(Clone)]
pub struct Memory {
    region: Arc<MmapRegion>,
}

impl Memory {
    /// Zeroed memory of `size` bytes.
    ///
    /// # Panics
    /// When the system has no memory or no descriptor left.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let file = File::from(memfd_create("driver", MFdFlags::MFD_CLOEXEC).expect("memfd_create"));
        file.set_len(size.try_into().expect("size fits a file")).expect("ftruncate");
        Self::of(file, size)
    }

    /// The mapping of a file that the caller made, for files of special kinds (sealed, truncated later, read-only…).
    ///
    /// # Panics
    /// When it cannot be mapped.
    #[must_use]
    pub fn of(file: File, size: usize) -> Self {
        let region = MmapRegion::from_file(FileOffset::new(file, 0), size).expect("mmap");
        Self { region: Arc::new(region) }
    }

    /// Memory that belongs to this process alone, which a device can only reach through its caller.
    ///
    /// # Panics
    /// When the system has no memory left.
    #[must_use]
    pub fn private(size: usize) -> Self {
        Self { region: Arc::new(MmapRegion::new(size).expect("mmap")) }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.region.size()
    }

    /// The address of `offset` in this process.
    #[must_use]
    pub fn address(&self, offset: usize) -> u64 {
        self.region.as_ptr().addr() as u64 + offset as u64
    }

    /// The file behind it, if it is not private memory.
    #[must_use]
    pub fn file(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.region.file_offset().map(|at| at.file().as_fd())
    }

    /// The bytes at `offset`.
    ///
    /// # Panics
    /// When they lie outside.
    #[must_use]
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.region.as_volatile_slice().read_slice(&mut bytes, offset).expect("within the memory");
        bytes
    }

    /// Puts bytes at `offset`.
    ///
    /// # Panics
    /// When they lie outside.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.region.as_volatile_slice().write_slice(bytes, offset).expect("within the memory");
    }

    /// The structure at `offset`.
    ///
    /// # Panics
    /// When it lies outside.
    #[must_use]
    pub fn get<T: FromBytes>(&self, offset: usize) -> T {
        T::read_from_bytes(&self.read(offset, size_of::<T>())).expect("read as many bytes as it has")
    }

    /// Puts a structure at `offset`.
    ///
    /// # Panics
    /// When it lies outside.
    pub fn put<T: IntoBytes + zerocopy::Immutable>(&self, offset: usize, value: &T) {
        self.write(offset, value.as_bytes());
    }

    /// An index or flag word at `offset`, after which everything the device wrote before it is visible.
    ///
    /// # Panics
    /// When it lies outside or is misaligned.
    #[must_use]
    pub fn load<T: AtomicAccess>(&self, offset: usize) -> T {
        self.region.as_volatile_slice().load(offset, Ordering::SeqCst).expect("aligned, within the memory")
    }

    /// Publishes an index or flag word at `offset`, after everything written before.
    ///
    /// # Panics
    /// When it lies outside or is misaligned.
    pub fn store<T: AtomicAccess>(&self, offset: usize, value: T) {
        self.region.as_volatile_slice().store(value, offset, Ordering::SeqCst).expect("aligned, within the memory");
    }
}
