//! A region's file mapped into this process.
//!
//! Nothing here ever touches the memory. It is mapped so that MAP_DMA can name it by an address of this process: the daemon then maps the same file
//! for the device, in place.

use std::fs::File;
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use vm_memory::{FileOffset, MmapRegion};

use crate::error::Error;
use crate::memory::Region;

/// Smallest unit that VFIO maps.
const PAGE: u64 = 4096;

/// One mapped region. Dropping it unmaps it here; the device must have lost it before.
#[derive(Debug)]
pub struct Mapping {
    map: MmapRegion<()>,
    /// Where the region starts within `map`.
    delta: u64,
    file: FileId,
}

/// Which bytes a mapping shows: two descriptors of one file compare equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
    offset: u64,
}

impl Mapping {
    /// Maps `region`, which starts at `offset` of `file`, after checking that the file really holds it.
    pub fn new(region: &Region, file: File, offset: u64) -> Result<Self, Error> {
        let refuse = |why: String| Error::MemoryFile(format!("{region}: {why}"));
        let id = FileId::of(&file, offset)?;
        let stat = fstat(file.as_fd()).map_err(|errno| refuse(errno.to_string()))?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(refuse("not a regular file".into()));
        }
        let end = offset.checked_add(region.size()).ok_or_else(|| refuse("the offset wraps".into()))?;
        let file_size = u64::try_from(stat.st_size).unwrap_or(0);
        if end > file_size {
            return Err(refuse(format!("needs bytes up to {end:#x}, the file has {file_size:#x}")));
        }
        if !(offset | region.size() | region.gpa()).is_multiple_of(PAGE) {
            return Err(refuse(format!("not on page boundaries (offset {offset:#x})")));
        }
        // Huge pages can be mapped and unmapped only whole. The end stays within the file, whose size is a multiple of its pages.
        let unit = mapping_unit(&file).map_err(|errno| refuse(errno.to_string()))?;
        let start = offset - offset % unit;
        let len = end.checked_next_multiple_of(unit).and_then(|end| usize::try_from(end - start).ok());
        let len = len.ok_or_else(|| refuse("too large".into()))?;
        let map = MmapRegion::from_file(FileOffset::new(file, start), len).map_err(|e| refuse(e.to_string()))?;
        Ok(Self { map, delta: offset - start, file: id })
    }

    /// Address of the region in this process.
    pub fn vaddr(&self) -> u64 {
        self.map.as_ptr().addr() as u64 + self.delta
    }

    /// Which bytes it shows.
    pub fn file(&self) -> FileId {
        self.file
    }
}

impl FileId {
    /// The bytes from `offset` of `file` on.
    pub fn of(file: &File, offset: u64) -> Result<Self, Error> {
        let stat = fstat(file.as_fd()).map_err(|errno| Error::MemoryFile(errno.to_string()))?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino, offset })
    }
}

fn mapping_unit(file: &File) -> nix::Result<u64> {
    let fs = fstatfs(file.as_fd())?;
    if fs.filesystem_type() != HUGETLBFS_MAGIC {
        return Ok(PAGE);
    }
    Ok(u64::try_from(fs.block_size()).unwrap_or(PAGE).max(PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(gpa: u64, size: u64) -> Region {
        Region::new(gpa, size, 0x7000_0000).unwrap()
    }

    fn file(size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        file
    }

    fn refusal(region: Region, file: File, offset: u64) -> String {
        Mapping::new(&region, file, offset).unwrap_err().to_string()
    }

    #[test]
    fn a_region_within_its_file_is_mapped() {
        let mapping = Mapping::new(&region(0, 0x2000), file(0x4000), 0x2000).unwrap();
        assert_ne!(mapping.vaddr(), 0);
        assert_eq!(mapping.vaddr() % PAGE, 0);
    }

    #[test]
    fn a_region_longer_than_its_file_is_refused() {
        assert!(refusal(region(0, 0x2000), file(0x4000), 0x3000).contains("the file has 0x4000"));
        assert!(refusal(region(0, 0x1000), file(0x4000), u64::MAX - 0xfff).contains("wraps"));
    }

    #[test]
    fn what_vfio_cannot_map_is_refused() {
        assert!(refusal(region(0, 0x1000), file(0x4000), 0x800).contains("page boundaries"));
        assert!(refusal(region(0, 0x1001), file(0x4000), 0).contains("page boundaries"));
        assert!(refusal(region(0x10, 0x1000), file(0x4000), 0).contains("page boundaries"));
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let (read, _write) = std::io::pipe().unwrap();
        assert!(refusal(region(0, 0x1000), File::from(std::os::fd::OwnedFd::from(read)), 0).contains("regular"));
        assert!(refusal(region(0, 0x1000), File::open("/dev/zero").unwrap(), 0).contains("regular"));
    }
}
