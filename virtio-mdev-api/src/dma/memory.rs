//! Client memory as a device reaches it. The device-file layer implements these traits; nothing here does I/O.

use nix::errno::Errno;
use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::VolatileSlice;

/// A stretch of a client's shared memory, mapped into this process.
///
/// The client can truncate its file at any time. Access then never kills the process: the affected pages become
/// anonymous zero pages and [`faulted`](Self::faulted) turns true for good.
pub trait SharedMemory: Send + Sync + Debug {
    /// The whole window.
    fn slice(&self) -> VolatileSlice<'_>;

    /// The file behind the window, for hardware and for parents in other processes.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Where in the file the window begins.
    fn file_offset(&self) -> u64;

    /// How many faults showed that the client took memory of this window away. Never goes back to none.
    fn faults(&self) -> &AtomicU32;

    /// Whether the client took memory of this window away.
    fn faulted(&self) -> bool {
        self.faults().load(Ordering::Acquire) != 0
    }

    /// Whether an access may take long, because pages come from somewhere else than memory.
    fn is_slow(&self) -> bool;

    /// Replaces `len` bytes from `offset` in place by anonymous pages: the last resort when a reader does not leave.
    /// `offset` and `len` are multiples of the page size and within the window.
    fn revoke(&self, offset: usize, len: usize);
}

/// A client's private memory, reached through the client on every access: slow, and it may block.
///
/// It belongs to the address space that was current when it was mapped; after the client executes another program
/// every access answers EFAULT.
pub trait RemoteMemory: Send + Sync + Debug {
    /// Fills `buf` from address `addr` of the client, whole or EFAULT.
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno>;

    /// Writes `buf` to address `addr` of the client, whole or EFAULT.
    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno>;

    /// Sets bits of the byte at address `addr` of the client. Nobody in this process who does so to memory of the same
    /// client undoes what another did; a bit that the client clears meanwhile may come back.
    fn set_bits(&self, addr: u64, bits: u8) -> Result<(), Errno>;

    /// The same memory for another region.
    fn another(self: Arc<Self>) -> Arc<dyn RemoteMemory>;

    /// Ends all access through this object: later calls answer EFAULT. Called for one region, so an object belongs to one
    /// region.
    fn revoke(&self);
}

/// How the memory of a region is reached.
#[derive(Clone, Debug)]
pub enum Backing {
    /// In place, `offset` bytes into a window.
    Shared {
        /// The window.
        memory: Arc<dyn SharedMemory>,
        /// First byte of the region in the window.
        offset: usize,
    },
    /// Through the client, from its address `addr`.
    Remote {
        /// The client's address space.
        memory: Arc<dyn RemoteMemory>,
        /// First byte of the region in the client.
        addr: u64,
    },
}
