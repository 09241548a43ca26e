//! What is mapped where.

use super::Backing;
use std::sync::Arc;

bitflags::bitflags! {
    /// What the **device** may do with memory.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct Permissions: u8 {
        /// The device may read.
        const READ = 1;
        /// The device may write.
        const WRITE = 2;
    }
}

/// One mapping: `len` bytes at I/O virtual address `iova`.
///
/// A region in an [`AddressSpace`](super::AddressSpace) is never empty and never wraps; it may end with the last byte
/// of the 64-bit space.
#[derive(Debug, Clone)]
pub struct Region {
    /// First address.
    pub iova: u64,
    /// Length in bytes.
    pub len: u64,
    /// What the device may do with it.
    pub permissions: Permissions,
    /// The memory behind it.
    pub backing: Backing,
}

impl Region {
    /// The last address of the region. Meaningless when the region is empty or wraps.
    pub fn last(&self) -> u64 {
        self.iova.wrapping_add(self.len).wrapping_sub(1)
    }

    /// Whether `iova` is in the region.
    #[inline]
    pub fn contains(&self, iova: u64) -> bool {
        iova.wrapping_sub(self.iova) < self.len
    }

    /// Whether any byte of the region is in `first..=last`.
    pub fn touches(&self, first: u64, last: u64) -> bool {
        self.iova <= last && first <= self.last()
    }

    /// Whether an access may take long, and depend on somebody else: what goes through the client always may.
    pub fn is_slow(&self) -> bool {
        match &self.backing {
            Backing::Shared { memory, .. } => memory.is_slow(),
            Backing::Remote { .. } => true,
        }
    }

    /// The memory of `first..=last`, which is in the region, as a region at `iova` of its own: what becomes of this one does
    /// not end the other. `None` when an address is outside, or beyond the space.
    pub fn part(&self, first: u64, last: u64, iova: u64, permissions: Permissions) -> Option<Region> {
        if first > last || !self.contains(first) || !self.contains(last) {
            return None;
        }
        let skip = first - self.iova;
        let backing = match &self.backing {
            Backing::Shared { memory, offset } => {
                let offset = usize::try_from(skip).ok().and_then(|skip| offset.checked_add(skip))?;
                Backing::Shared { memory: Arc::clone(memory), offset }
            }
            Backing::Remote { memory, addr } => {
                Backing::Remote { memory: Arc::clone(memory).another(), addr: addr.checked_add(skip)? }
            }
        };
        Some(Region { iova, len: last - first + 1, permissions, backing })
    }

    /// The region without its memory.
    pub fn info(&self) -> RegionInfo {
        RegionInfo {
            iova: self.iova,
            len: self.len,
            permissions: self.permissions,
            in_place: matches!(self.backing, Backing::Shared { .. }),
        }
    }

    /// Ends all access to the memory, whoever still holds it.
    pub(super) fn revoke(&self) {
        match &self.backing {
            Backing::Shared { memory, offset } => {
                let window = memory.slice().len();
                let end = usize::try_from(self.len).map_or(window, |len| offset.saturating_add(len)).min(window);
                let page = page_size();
                let begin = offset - offset % page;
                memory.revoke(begin, end.next_multiple_of(page).min(window).saturating_sub(begin));
            }
            Backing::Remote { memory, .. } => memory.revoke(),
        }
    }
}

fn page_size() -> usize {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

/// A region without its memory, for those who only ask what is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionInfo {
    /// First address.
    pub iova: u64,
    /// Length in bytes.
    pub len: u64,
    /// What the device may do with it.
    pub permissions: Permissions,
    /// Whether the memory is reached in place, not through the client.
    pub in_place: bool,
}

impl RegionInfo {
    /// The last address of the region.
    pub fn last(&self) -> u64 {
        self.iova.wrapping_add(self.len).wrapping_sub(1)
    }
}
