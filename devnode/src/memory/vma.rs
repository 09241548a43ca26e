//! The mappings of a process, as `/proc/<tid>/maps` shows them.

use crate::sys;
use nix::errno::Errno;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsFd;

/// One mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vma {
    pub start: u64,
    pub end: u64,
    pub read: bool,
    pub write: bool,
    pub shared: bool,
    /// Byte offset in the file.
    pub offset: u64,
    pub dev: (u32, u32),
    /// 0 where no file is mapped.
    pub inode: u64,
}

impl Vma {
    /// Whether `next` goes on in the file where this mapping ends, in the same way.
    pub fn continues_in(&self, next: &Vma) -> bool {
        self.end == next.start
            && (self.dev, self.inode, self.shared) == (next.dev, next.inode, next.shared)
            && self.offset + (self.end - self.start) == next.offset
    }
}

/// The map of one address space: it stays with the address space that was current when it was opened.
pub(crate) struct Maps(File);

impl Maps {
    pub fn open(tid: i32) -> Result<Self, Errno> {
        let file = File::open(format!("/proc/{tid}/maps"));
        file.map(Self).map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    /// The mappings that overlap `range`, in order.
    pub fn overlapping(&self, range: Range<u64>) -> Result<Vec<Vma>, Errno> {
        match self.query(range.clone()) {
            Err(Errno::ENOTTY) => self.parse(range),
            result => result,
        }
    }

    fn query(&self, range: Range<u64>) -> Result<Vec<Vma>, Errno> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let vma = match sys::procmap_query(self.0.as_fd(), at) {
                Ok(vma) => vma,
                Err(Errno::ENOENT) => break,
                Err(error) => return Err(error),
            };
            if vma.vma_start >= range.end {
                break;
            }
            at = vma.vma_end;
            found.push(Vma {
                start: vma.vma_start,
                end: vma.vma_end,
                read: vma.vma_flags & 1 != 0,
                write: vma.vma_flags & 2 != 0,
                shared: vma.vma_flags & 8 != 0,
                offset: vma.vma_offset,
                dev: (vma.dev_major, vma.dev_minor),
                inode: vma.inode,
            });
        }
        Ok(found)
    }

    fn parse(&self, range: Range<u64>) -> Result<Vec<Vma>, Errno> {
        let mut text = Vec::new();
        let mut file = &self.0;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut text)).map_err(|_| Errno::EFAULT)?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter_map(line).filter(|vma| vma.start < range.end && vma.end > range.start).collect())
    }
}

/// One line: `start-end perms offset major:minor inode path`.
fn line(line: &str) -> Option<Vma> {
    let mut fields = line.split_ascii_whitespace();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = fields.next()?.split_once('-')?;
    let perms = fields.next()?.as_bytes();
    let offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    Some(Vma {
        start: hex(start)?,
        end: hex(end)?,
        read: *perms.first()? == b'r',
        write: *perms.get(1)? == b'w',
        shared: *perms.get(3)? == b's',
        offset,
        dev: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
        inode: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_of_maps_is_understood() {
        let vma = line("7f0000000000-7f0000400000 rw-s 00200000 00:01 2051     /memfd:guest ram (deleted)").unwrap();
        assert_eq!((vma.start, vma.end, vma.offset), (0x7f00_0000_0000, 0x7f00_0040_0000, 0x20_0000));
        assert_eq!((vma.read, vma.write, vma.shared, vma.dev, vma.inode), (true, true, true, (0, 1), 2051));
        let vma = line("55d0-55e0 r-xp 0 fe:00 12 /bin/x").unwrap();
        assert_eq!((vma.write, vma.shared, vma.dev), (false, false, (0xfe, 0)));
    }

    #[test]
    fn the_query_and_the_text_agree() {
        let maps = Maps::open(nix::unistd::gettid().as_raw()).unwrap();
        let here = maps.parse(0..u64::MAX).unwrap();
        let range = here[0].start..here[here.len() / 2].end;
        match maps.query(range.clone()) {
            Ok(queried) => assert_eq!(queried, maps.parse(range).unwrap()),
            // Before Linux 6.11 the text is all there is.
            Err(error) => assert_eq!(error, Errno::ENOTTY),
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _ = line(&text);
        }
    }
}
