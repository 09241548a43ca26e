//! Memory reached through the client: the `mem` file of the address space it belongs to.

use crate::caller::Space;
use nix::errno::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_mdev_api::dma::RemoteMemory;

/// Private memory of an address space.
#[derive(Debug)]
pub(crate) struct Remote {
    space: Arc<Space>,
    /// The client may write it too. The `mem` file alone would let us write what the client cannot.
    writable: bool,
    revoked: AtomicBool,
}

impl Remote {
    pub fn new(space: Arc<Space>, writable: bool) -> Self {
        Self { space, writable, revoked: AtomicBool::new(false) }
    }

    fn check(&self) -> Result<(), Errno> {
        if self.revoked.load(Ordering::Acquire) { Err(Errno::EFAULT) } else { Ok(()) }
    }
}

impl RemoteMemory for Remote {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.check()?;
        read_exact_at(self.space.mem(), addr, buf)
    }

    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        self.check()?;
        if !self.writable {
            return Err(Errno::EFAULT);
        }
        write_all_at(self.space.mem(), addr, buf)
    }

    fn set_bits(&self, addr: u64, bits: u8) -> Result<(), Errno> {
        let mut byte = [0];
        self.read(addr, &mut byte)?;
        if byte[0] & bits == bits {
            return Ok(());
        }
        // Other devices of the client, which have objects of their own, set bits of the same bytes.
        let _alone = self.space.bits.lock();
        self.read(addr, &mut byte)?;
        self.write(addr, &[byte[0] | bits])
    }

    fn another(self: Arc<Self>) -> Arc<dyn RemoteMemory> {
        Arc::new(Self::new(Arc::clone(&self.space), self.writable))
    }

    fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }
}

/// Reads from a `mem` file, whole or EFAULT. An address space that is gone reads as empty.
pub(crate) fn read_exact_at(mem: &File, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
    check_range(addr, buf.len())?;
    mem.read_exact_at(buf, addr).map_err(|_| Errno::EFAULT)
}

/// Writes to a `mem` file, whole or EFAULT (a beginning may have been written).
pub(crate) fn write_all_at(mem: &File, addr: u64, buf: &[u8]) -> Result<(), Errno> {
    check_range(addr, buf.len())?;
    mem.write_all_at(buf, addr).map_err(|_| Errno::EFAULT)
}

fn check_range(addr: u64, len: usize) -> Result<(), Errno> {
    let end = u64::try_from(len).ok().and_then(|len| addr.checked_add(len));
    match end.and_then(|end| i64::try_from(end).ok()) {
        Some(_) => Ok(()),
        None => Err(Errno::EFAULT),
    }
}
