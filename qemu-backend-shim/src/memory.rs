//! The front end's memory: which guest physical range lies at which of its own virtual addresses.
//!
//! Pure bookkeeping, no system calls. A table holds only ranges that overlap neither in guest physical addresses (they become IOVAs) nor in the
//! front end's virtual addresses (rings are named by these), so a translation has one answer.

use std::fmt;

/// Most regions a front end may have, as GET_MAX_MEM_SLOTS answers. KVM's number of user slots, which QEMU uses as its own upper bound.
pub const MAX_REGIONS: usize = 509;

/// One range of guest memory, as a vhost-user memory region describes it. All ends are known not to wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    gpa: u64,
    size: u64,
    uaddr: u64,
}

/// Why a memory table cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Size zero, or an end beyond 2^64.
    #[error("region gpa {gpa:#x} size {size:#x} uaddr {uaddr:#x} is empty or wraps")]
    Range {
        /// Guest physical start.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// Start in the front end's address space.
        uaddr: u64,
    },
    /// Two regions share a guest physical or a front-end virtual address.
    #[error("region {new} overlaps region {old}")]
    Overlap {
        /// The region asked for.
        new: Region,
        /// The region in its way.
        old: Region,
    },
    /// More than [`MAX_REGIONS`].
    #[error("more than {MAX_REGIONS} memory regions")]
    TooMany,
    /// A region to remove that was never added in this shape.
    #[error("no region {0}")]
    Unknown(Region),
}

impl Region {
    /// A region of `size` bytes at guest physical `gpa`, at `uaddr` in the front end.
    pub fn new(gpa: u64, size: u64, uaddr: u64) -> Result<Self, Error> {
        let ends = gpa.checked_add(size).zip(uaddr.checked_add(size));
        if size == 0 || ends.is_none() {
            return Err(Error::Range { gpa, size, uaddr });
        }
        Ok(Self { gpa, size, uaddr })
    }

    /// Guest physical start: the IOVA the device uses.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn gpa_end(&self) -> u64 {
        self.gpa + self.size
    }

    fn uaddr_end(&self) -> u64 {
        self.uaddr + self.size
    }

    fn overlaps(&self, other: &Self) -> bool {
        let by_gpa = self.gpa < other.gpa_end() && other.gpa < self.gpa_end();
        let by_uaddr = self.uaddr < other.uaddr_end() && other.uaddr < self.uaddr_end();
        by_gpa || by_uaddr
    }

    fn holds_uaddr(&self, uaddr: u64) -> bool {
        (self.uaddr..self.uaddr_end()).contains(&uaddr)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gpa {:#x}+{:#x} at {:#x}", self.gpa, self.size, self.uaddr)
    }
}

/// The regions of one front end, each with what its owner keeps beside it (the mapping; nothing in tests).
#[derive(Debug)]
pub struct RegionTable<T> {
    entries: Vec<(Region, T)>,
}

impl<T> Default for RegionTable<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T> RegionTable<T> {
    /// Whether `region` could be added now.
    pub fn check(&self, region: &Region) -> Result<(), Error> {
        if let Some((old, _)) = self.entries.iter().find(|(old, _)| old.overlaps(region)) {
            return Err(Error::Overlap { new: *region, old: *old });
        }
        if self.entries.len() >= MAX_REGIONS {
            return Err(Error::TooMany);
        }
        Ok(())
    }

    /// Adds `region`.
    pub fn insert(&mut self, region: Region, value: T) -> Result<(), Error> {
        self.check(&region)?;
        self.entries.push((region, value));
        Ok(())
    }

    /// Takes out exactly `region`.
    pub fn remove(&mut self, region: &Region) -> Result<T, Error> {
        let at = self.entries.iter().position(|(old, _)| old == region).ok_or(Error::Unknown(*region))?;
        Ok(self.entries.swap_remove(at).1)
    }

    /// All regions, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &(Region, T)> {
        self.entries.iter()
    }

    /// The guest physical address of the `len` bytes at the front end's `uaddr`, if all of them are mapped and lie in one piece there too. Regions that
    /// touch in both address spaces count as one piece: front ends cut one block of memory into several regions.
    pub fn translate(&self, uaddr: u64, len: u64) -> Option<u64> {
        let end = uaddr.checked_add(len)?;
        let (first, _) = self.entries.iter().find(|(region, _)| region.holds_uaddr(uaddr))?;
        let gpa = first.gpa + (uaddr - first.uaddr);
        let mut last = first;
        while last.uaddr_end() < end {
            let next = |region: &Region| region.uaddr == last.uaddr_end() && region.gpa == last.gpa_end();
            last = self.entries.iter().map(|(region, _)| region).find(|region| next(region))?;
        }
        Some(gpa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(regions: &[(u64, u64, u64)]) -> RegionTable<()> {
        let mut table = RegionTable::default();
        for &(gpa, size, uaddr) in regions {
            table.insert(Region::new(gpa, size, uaddr).unwrap(), ()).unwrap();
        }
        table
    }

    #[test]
    fn empty_and_wrapping_regions_are_refused() {
        assert!(Region::new(0, 0, 0).is_err());
        assert!(Region::new(u64::MAX, 1, 0).is_err());
        assert!(Region::new(0, 2, u64::MAX - 1).is_err());
        assert!(Region::new(u64::MAX - 1, 1, 0).is_ok());
    }

    #[test]
    fn overlap_in_either_address_space_is_refused() {
        let table = table(&[(0x1000, 0x1000, 0x10_0000)]);
        assert!(matches!(table.check(&Region::new(0x1fff, 1, 0).unwrap()), Err(Error::Overlap { .. })));
        assert!(matches!(table.check(&Region::new(0x8000, 0x1000, 0x10_0fff).unwrap()), Err(Error::Overlap { .. })));
        assert_eq!(table.check(&Region::new(0x2000, 0x1000, 0x10_1000).unwrap()), Ok(()));
    }

    #[test]
    fn only_a_region_of_exactly_the_same_shape_is_removed() {
        let mut table = table(&[(0x1000, 0x2000, 0x9000)]);
        let other = Region::new(0x1000, 0x1000, 0x9000).unwrap();
        assert_eq!(table.remove(&other), Err(Error::Unknown(other)));
        assert_eq!(table.remove(&Region::new(0x1000, 0x2000, 0x9000).unwrap()), Ok(()));
        assert_eq!(table.translate(0x9000, 1), None);
    }

    #[test]
    fn the_table_is_full_at_the_limit_it_announces() {
        let mut table = RegionTable::default();
        for i in 0..MAX_REGIONS as u64 {
            table.insert(Region::new(i * 0x1000, 0x1000, i * 0x1000).unwrap(), ()).unwrap();
        }
        assert_eq!(table.check(&Region::new(1 << 40, 0x1000, 1 << 40).unwrap()), Err(Error::TooMany));
    }

    #[test]
    fn a_ring_across_two_regions_translates_only_when_both_address_spaces_are_in_one_piece() {
        let joined = table(&[(0x2000, 0x1000, 0x9000), (0x1000, 0x1000, 0x8000)]);
        assert_eq!(joined.translate(0x8800, 0x1000), Some(0x1800));
        let torn = table(&[(0x1000, 0x1000, 0x8000), (0x7000, 0x1000, 0x9000)]);
        assert_eq!(torn.translate(0x8800, 0x800), Some(0x1800));
        assert_eq!(torn.translate(0x8800, 0x801), None);
        assert_eq!(torn.translate(u64::MAX, 2), None);
    }

    proptest! {
        /// Against the plainest model: every single byte looked up by itself.
        #[test]
        fn translation_agrees_with_a_lookup_of_every_byte(
            shapes in prop::collection::vec((0u64..64, 1u64..16, 0u64..64), 0..8), uaddr in 0u64..96, len in 1u64..40,
        ) {
            let mut table = RegionTable::default();
            let mut bytes = std::collections::HashMap::new();
            for (gpa, size, at) in shapes {
                let region = Region::new(gpa, size, at).unwrap();
                if table.insert(region, ()).is_ok() {
                    bytes.extend((0..size).map(|i| (at + i, gpa + i)));
                }
            }
            let base = bytes.get(&uaddr).copied();
            let whole = base.filter(|base| (0..len).all(|i| bytes.get(&(uaddr + i)) == Some(&(base + i))));
            prop_assert_eq!(table.translate(uaddr, len), whole);
        }

        #[test]
        fn no_input_panics(gpa: u64, size: u64, at: u64, uaddr: u64, len: u64) {
            let mut table = RegionTable::default();
            if let Ok(region) = Region::new(gpa, size, at) {
                table.insert(region, ()).unwrap();
            }
            let _ = table.translate(uaddr, len);
        }
    }
}
