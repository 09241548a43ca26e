//! Memory of a client, shared or private.

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use parking_lot::Mutex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use virtio_mdev_api::dma::{AddressSpace, Backing, Permissions, Region, RemoteMemory, SharedMemory};
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

/// Shared memory: both sides reach it in place.
#[derive(Debug)]
pub struct Window {
    memory: MmapRegion<()>,
    /// Made for those that ask for it.
    fd: OnceLock<OwnedFd>,
    /// Whether the client took it away.
    pub faults: AtomicU32,
}

impl SharedMemory for Window {
    fn slice(&self) -> VolatileSlice<'_> {
        self.memory.as_volatile_slice()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.get_or_init(|| memfd_create(c"window", MFdFlags::MFD_CLOEXEC).expect("memfd")).as_fd()
    }

    fn file_offset(&self) -> u64 {
        0
    }

    fn faults(&self) -> &AtomicU32 {
        &self.faults
    }

    fn is_slow(&self) -> bool {
        false
    }

    fn revoke(&self, _offset: usize, _len: usize) {
        self.faults.store(1, Ordering::Relaxed);
    }
}

/// Private memory: the device asks for every access. Its first byte is address 0.
#[derive(Debug)]
pub struct Private {
    bytes: Mutex<Vec<u8>>,
    /// What the device wrote, in order: address and length.
    pub writes: Mutex<Vec<(u64, usize)>>,
    /// While locked, the device's accesses do not return, as with a client that answers no faults.
    pub stall: Mutex<()>,
}

impl Private {
    fn range(addr: u64, len: usize, total: usize) -> Result<std::ops::Range<usize>, Errno> {
        let begin = usize::try_from(addr).map_err(|_| Errno::EFAULT)?;
        let end = begin.checked_add(len).filter(|end| *end <= total).ok_or(Errno::EFAULT)?;
        Ok(begin..end)
    }
}

impl RemoteMemory for Private {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        drop(self.stall.lock());
        let bytes = self.bytes.lock();
        buf.copy_from_slice(&bytes[Self::range(addr, buf.len(), bytes.len())?]);
        Ok(())
    }

    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        drop(self.stall.lock());
        let mut bytes = self.bytes.lock();
        let range = Self::range(addr, buf.len(), bytes.len())?;
        bytes[range].copy_from_slice(buf);
        self.writes.lock().push((addr, buf.len()));
        Ok(())
    }

    fn set_bits(&self, addr: u64, bits: u8) -> Result<(), Errno> {
        let mut bytes = self.bytes.lock();
        let at = Self::range(addr, 1, bytes.len())?.start;
        bytes[at] |= bits;
        Ok(())
    }

    fn another(self: Arc<Self>) -> Arc<dyn RemoteMemory> {
        self
    }

    fn revoke(&self) {
        self.bytes.lock().clear();
    }
}

/// Memory as the driver reaches it.
#[derive(Debug, Clone)]
pub enum Ram {
    /// Shared with the device.
    Shared(Arc<Window>),
    /// The driver's own.
    Private(Arc<Private>),
}

/// What a driver does with its memory. Addresses are the device's.
pub trait DriverMemory {
    /// Fills `out` from `at`.
    fn read_into(&self, at: u64, out: &mut [u8]);
    /// Writes `data` at `at`.
    fn write(&self, at: u64, data: &[u8]);
    /// Loads an index, before everything after.
    fn load(&self, at: u64) -> u16;
    /// Stores an index, after everything before.
    fn store(&self, at: u64, value: u16);
}

impl DriverMemory for Ram {
    fn read_into(&self, at: u64, out: &mut [u8]) {
        let at = usize::try_from(at).expect("address");
        match self {
            Self::Shared(window) => window.slice().read_slice(out, at).expect("in the window"),
            Self::Private(private) => out.copy_from_slice(&private.bytes.lock()[at..at + out.len()]),
        }
    }

    fn write(&self, at: u64, data: &[u8]) {
        self.write(at, data);
    }

    fn load(&self, at: u64) -> u16 {
        self.load(at)
    }

    fn store(&self, at: u64, value: u16) {
        self.store(at, value);
    }
}

#[allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
impl Ram {
    /// `len` zero bytes of shared memory.
    pub fn shared(len: usize) -> Self {
        let memory = MmapRegion::new(len).expect("memory");
        Self::Shared(Arc::new(Window { memory, fd: OnceLock::new(), faults: AtomicU32::new(0) }))
    }

    /// `len` zero bytes of private memory.
    pub fn private(len: usize) -> Self {
        let bytes = Mutex::new(vec![0; len]);
        Self::Private(Arc::new(Private { bytes, writes: Mutex::default(), stall: Mutex::default() }))
    }

    fn len(&self) -> usize {
        match self {
            Self::Shared(window) => window.slice().len(),
            Self::Private(private) => private.bytes.lock().len(),
        }
    }

    /// The `len` bytes at `at`, as a mapping at address `iova`.
    pub fn region(&self, iova: u64, at: usize, len: usize) -> Region {
        let backing = match self {
            Self::Shared(window) => Backing::Shared { memory: Arc::clone(window) as Arc<dyn SharedMemory>, offset: at },
            Self::Private(private) => {
                Backing::Remote { memory: Arc::clone(private) as Arc<dyn RemoteMemory>, addr: at as u64 }
            }
        };
        Region { iova, len: len as u64, permissions: Permissions::all(), backing }
    }

    /// Writes `data` at `at`.
    pub fn write(&self, at: u64, data: &[u8]) {
        let at = usize::try_from(at).expect("address");
        match self {
            Self::Shared(window) => window.slice().write_slice(data, at).expect("in the window"),
            Self::Private(private) => private.bytes.lock()[at..at + data.len()].copy_from_slice(data),
        }
    }

    /// The `len` bytes at `at`.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_into(at, &mut bytes);
        bytes
    }

    /// Stores an index, after everything before.
    pub fn store(&self, at: u64, value: u16) {
        match self {
            Self::Shared(window) => {
                let at = usize::try_from(at).expect("address");
                window.slice().store(value.to_le(), at, Ordering::SeqCst).expect("in the window");
            }
            Self::Private(_) => self.write(at, &value.to_le_bytes()),
        }
    }

    /// Loads an index, before everything after.
    pub fn load(&self, at: u64) -> u16 {
        match self {
            Self::Shared(window) => {
                let at = usize::try_from(at).expect("address");
                u16::from_le(window.slice().load(at, Ordering::SeqCst).expect("in the window"))
            }
            Self::Private(_) => u16::from_le_bytes(*self.read(at, 2).first_chunk().expect("two bytes")),
        }
    }
}

/// Maps all of `ram` at address 0.
#[allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
pub fn map(space: &AddressSpace, ram: &Ram) {
    space.map(ram.region(0, 0, ram.len())).expect("mapped");
}
