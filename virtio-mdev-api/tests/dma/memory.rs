//! Memory to map in tests: what the device-file layer does with a client's memory, done with our own.

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use parking_lot::Mutex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use virtio_mdev_api::dma::{Backing, Permissions, Region, RemoteMemory, SharedMemory};
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

/// A window of anonymous memory.
#[derive(Debug)]
pub struct Window {
    memory: MmapRegion<()>,
    fd: OwnedFd,
    pub faults: AtomicU32,
    /// What was revoked: offset and length.
    pub revoked: Mutex<Vec<(usize, usize)>>,
}

impl Window {
    pub fn new(len: usize) -> Arc<Self> {
        Arc::new(Self {
            memory: MmapRegion::new(len).unwrap(),
            fd: memfd_create(c"window", MFdFlags::MFD_CLOEXEC).unwrap(),
            faults: AtomicU32::new(0),
            revoked: Mutex::default(),
        })
    }

    /// The bytes at `offset`.
    #[allow(dead_code)] // The example that measures shares this file and looks at no bytes.
    pub fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.slice().subslice(offset, N).unwrap().copy_to(&mut bytes);
        bytes
    }

    /// Makes the first bytes zero.
    #[allow(dead_code)] // See above.
    pub fn clear<const N: usize>(&self) {
        self.slice().subslice(0, N).unwrap().copy_from(&[0u8; N]);
    }
}

impl SharedMemory for Window {
    fn slice(&self) -> VolatileSlice<'_> {
        self.memory.as_volatile_slice()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
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

    fn revoke(&self, offset: usize, len: usize) {
        self.revoked.lock().push((offset, len));
    }
}

/// Memory of a client, reached through it: its address 0x10000 is the first byte.
#[derive(Debug)]
#[allow(dead_code)] // See above.
pub struct Private {
    pub bytes: Mutex<Vec<u8>>,
    pub revoked: AtomicBool,
}

#[allow(dead_code)] // See above.
impl Private {
    pub const BASE: u64 = 0x10000;

    pub fn new(len: usize) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(vec![0; len]), revoked: AtomicBool::new(false) })
    }

    fn range(&self, addr: u64, len: usize, total: usize) -> Result<std::ops::Range<usize>, Errno> {
        if self.revoked.load(Ordering::Relaxed) {
            return Err(Errno::EFAULT);
        }
        let begin = addr.checked_sub(Self::BASE).and_then(|at| usize::try_from(at).ok()).ok_or(Errno::EFAULT)?;
        let end = begin.checked_add(len).filter(|end| *end <= total).ok_or(Errno::EFAULT)?;
        Ok(begin..end)
    }
}

impl RemoteMemory for Private {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let bytes = self.bytes.lock();
        let range = self.range(addr, buf.len(), bytes.len())?;
        buf.copy_from_slice(&bytes[range]);
        Ok(())
    }

    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        let mut bytes = self.bytes.lock();
        let range = self.range(addr, buf.len(), bytes.len())?;
        bytes[range].copy_from_slice(buf);
        Ok(())
    }

    fn set_bits(&self, addr: u64, bits: u8) -> Result<(), Errno> {
        let mut bytes = self.bytes.lock();
        let range = self.range(addr, 1, bytes.len())?;
        bytes[range.start] |= bits;
        Ok(())
    }

    fn another(self: Arc<Self>) -> Arc<dyn RemoteMemory> {
        self
    }

    fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }
}

pub const RW: Permissions = Permissions::all();

pub fn shared(window: &Arc<Window>, iova: u64, len: u64, offset: usize, permissions: Permissions) -> Region {
    let memory = Arc::clone(window) as Arc<dyn SharedMemory>;
    Region { iova, len, permissions, backing: Backing::Shared { memory, offset } }
}

#[allow(dead_code)] // See above.
pub fn remote(client: &Arc<Private>, iova: u64, len: u64, permissions: Permissions) -> Region {
    let memory = Arc::clone(client) as Arc<dyn RemoteMemory>;
    Region { iova, len, permissions, backing: Backing::Remote { memory, addr: Private::BASE } }
}
