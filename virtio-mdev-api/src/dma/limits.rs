//! What an address space can hold.

use super::tree::Tree;
use super::{Backing, MapError, Region};

/// What an address space, or one of its subscribers, can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// First usable address.
    pub first: u64,
    /// Last usable address.
    pub last: u64,
    /// One bit for every page size supported; the smallest of them aligns addresses and lengths.
    pub page_sizes: u64,
    /// How many regions there may be.
    pub max_entries: usize,
}

impl Default for Limits {
    /// 64 bits of address, pages of 4096 bytes and up, 65,535 regions: what VFIO's type 1 IOMMU offers by default.
    fn default() -> Self {
        Self { first: 0, last: u64::MAX, page_sizes: !0xfff, max_entries: 65_535 }
    }
}

impl Limits {
    /// No limits at all; regions may begin and end anywhere.
    pub const NONE: Self = Self { first: 0, last: u64::MAX, page_sizes: u64::MAX, max_entries: usize::MAX };

    /// What satisfies both.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self {
            first: self.first.max(other.first),
            last: self.last.min(other.last),
            page_sizes: self.page_sizes & other.page_sizes,
            max_entries: self.max_entries.min(other.max_entries),
        }
    }

    /// The alignment of addresses and lengths in bytes; `None` when no page size is left.
    pub fn alignment(&self) -> Option<u64> {
        (self.page_sizes != 0).then(|| 1 << self.page_sizes.trailing_zeros())
    }

    /// Whether `region` is aligned as these limits want it.
    pub(super) fn check_alignment(&self, region: &Region) -> Result<(), MapError> {
        let align = self.alignment().unwrap_or(0);
        if align == 0 || region.iova & (align - 1) != 0 || region.len & (align - 1) != 0 {
            return Err(MapError::Unaligned { iova: region.iova, len: region.len, align });
        }
        Ok(())
    }

    /// Whether `region` lies in the usable addresses.
    pub(super) fn check_range(&self, region: &Region) -> Result<(), MapError> {
        if region.iova < self.first || region.last() > self.last {
            return Err(MapError::OutsideRange {
                iova: region.iova,
                len: region.len,
                first: self.first,
                last: self.last,
            });
        }
        Ok(())
    }

    /// Whether `region` can be added to `tree`.
    pub(super) fn check(&self, region: &Region, tree: &Tree) -> Result<(), MapError> {
        let &Region { iova, len, permissions, .. } = region;
        if len == 0 {
            return Err(MapError::Empty { iova });
        }
        if iova.checked_add(len - 1).is_none() {
            return Err(MapError::Wraps { iova, len });
        }
        if permissions.is_empty() {
            return Err(MapError::NoPermission { iova });
        }
        self.check_alignment(region)?;
        let fits = match &region.backing {
            Backing::Shared { memory, offset } => usize::try_from(len)
                .ok()
                .and_then(|len| offset.checked_add(len))
                .is_some_and(|end| end <= memory.slice().len()),
            Backing::Remote { addr, .. } => addr.checked_add(len - 1).is_some(),
        };
        if !fits {
            return Err(MapError::BeyondBacking { iova, len });
        }
        if let Some(other) = tree.touching(iova, region.last()).next() {
            return Err(MapError::Overlap { iova, other: other.iova });
        }
        if tree.len() >= self.max_entries {
            return Err(MapError::Full { max: self.max_entries });
        }
        self.check_range(region)
    }
}
