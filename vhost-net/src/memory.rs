//! The memory table: where guest-physical memory is in the client.

use crate::error::NetError;
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::{Client, MAX_REGIONS, regions};
use vhost_abi::MemoryRegion;
use virtio_mdev_api::dma::{AddressSpace, Limits, MapError, Permissions};
use zerocopy::FromBytes;

/// The kernel's default `max_mem_regions`.
pub(crate) const MAX_TABLE: u32 = 64;

/// A memory table. It never changes: a client that sets another gets another address space.
pub(crate) struct Table {
    space: Arc<AddressSpace>,
    entries: Vec<MemoryRegion>,
}

impl Table {
    /// Nothing.
    pub fn empty() -> Self {
        let limits = Limits { max_entries: MAX_REGIONS, ..Limits::NONE };
        Self { space: AddressSpace::new(limits), entries: Vec::new() }
    }

    /// Fetches the `count` regions at `addr` of the client, and takes hold of what they name. Looks into the client.
    pub fn fetch(client: &dyn Client, addr: u64, count: u32) -> Result<Self, NetError> {
        if count > MAX_TABLE {
            return Err(NetError::Regions { count, max: MAX_TABLE });
        }
        let mut table = Self::empty();
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * size_of::<MemoryRegion>()];
        client.read(addr, &mut bytes)?;
        let (entries, _) = bytes.as_chunks::<{ size_of::<MemoryRegion>() }>();
        for entry in entries {
            let entry = MemoryRegion::read_from_bytes(entry).map_err(|_| Errno::EFAULT)?;
            table.add(client, entry)?;
        }
        Ok(table)
    }

    fn add(&mut self, client: &dyn Client, entry: MemoryRegion) -> Result<(), NetError> {
        let MemoryRegion { gpa, len, uaddr, .. } = entry;
        // Pieces of it could each fit where the whole does not.
        if gpa.checked_add(len.saturating_sub(1)).is_none() {
            return Err(NetError::Table(MapError::Wraps { iova: gpa, len }));
        }
        let read_write = Permissions::READ | Permissions::WRITE;
        let pieces = regions(client, gpa, uaddr, len, read_write).map_err(|_| NetError::NotMapped { uaddr, len })?;
        self.space.map_all(pieces).map_err(NetError::Table)?;
        self.entries.push(entry);
        Ok(())
    }

    /// The memory by guest-physical address.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// The last guest-physical address there is.
    pub fn last(&self) -> u64 {
        self.entries.iter().map(|entry| entry.gpa.wrapping_add(entry.len).wrapping_sub(1)).max().unwrap_or(0)
    }

    /// The guest-physical address of `len` bytes that the client has at `uaddr`.
    pub fn locate(&self, uaddr: u64, len: u64) -> Option<u64> {
        self.entries.iter().find_map(|entry| {
            let offset = uaddr.checked_sub(entry.uaddr)?;
            let room = entry.len.checked_sub(offset)?;
            (len <= room).then(|| entry.gpa.wrapping_add(offset))
        })
    }
}

impl Drop for Table {
    /// A thread that is still in this memory, because its client holds it there, loses it.
    fn drop(&mut self) {
        self.space.unmap_all();
    }
}
