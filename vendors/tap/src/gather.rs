//! One frame from several places to the kernel, by one call and without a copy of our own.
#![allow(unsafe_code)] // UNSAFETY: no reference may point to a client's memory, and only references make an `IoSlice`.

use nix::errno::Errno;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use virtio_mdev_api::dma::Local;

/// More than Linux drivers use for a frame.
const PARTS: usize = 32;
const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// A frame in parts: first what is ours, then what is the client's and may change while it is written.
pub struct Gather<'m> {
    parts: [libc::iovec; PARTS],
    count: usize,
    memory: PhantomData<Local<'m>>,
}

impl<'m> Gather<'m> {
    /// Nothing, with a place for what is ours.
    pub fn new() -> Self {
        Self { parts: [NOTHING; PARTS], count: 1, memory: PhantomData }
    }

    /// The next part; `false`: there are too many.
    pub fn add(&mut self, part: Local<'m>) -> bool {
        let Some(place) = self.parts.get_mut(self.count) else { return false };
        *place = libc::iovec { iov_base: part.start().as_ptr().cast(), iov_len: part.len() };
        self.count += 1;
        true
    }

    /// Writes it behind `head`, without waiting. EFAULT: the client's memory is gone.
    pub fn write(&mut self, head: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.parts[0] = libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() };
        let count = libc::c_int::try_from(self.count).map_err(|_| Errno::EINVAL)?;
        // SAFETY: so many parts there are. The kernel reads them alone: the first is borrowed by this call, and the others
        // are mapped for as long as `'m`. Where a client took the file behind its mapping away the kernel says EFAULT.
        let written = unsafe { libc::pwritev2(fd.as_raw_fd(), self.parts.as_ptr(), count, -1, libc::RWF_NOWAIT) };
        Errno::result(written).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    use nix::unistd::pipe;
    use std::fs::File;
    use std::num::NonZeroUsize;
    use std::os::fd::AsFd;
    use vm_memory::VolatileSlice;

    const PAGE: usize = 4096;

    /// Two pages of a client's, of which the second is there no more.
    fn truncated() -> Local<'static> {
        let file = File::from(memfd_create(c"client", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(2 * PAGE as u64).unwrap();
        let (len, access) = (NonZeroUsize::new(2 * PAGE).unwrap(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        // SAFETY: a new mapping, anywhere, which stays.
        let start = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, file.as_fd(), 0) }.unwrap();
        // SAFETY: all of the mapping.
        let slice = unsafe { VolatileSlice::new(start.as_ptr().cast(), 2 * PAGE) };
        file.set_len(PAGE as u64).unwrap();
        Local::new(slice).unwrap()
    }

    #[test]
    fn parts_follow_each_other_behind_what_is_ours() {
        let (memory, (from, to)) = (truncated(), pipe().unwrap());
        assert!(memory.write(b"abcdef"));
        let mut gather = Gather::new();
        assert!([(3, 2), (0, 3)].into_iter().all(|(at, len)| gather.add(memory.part(at, len).unwrap())));
        gather.write(b"head", to.as_fd()).unwrap();
        let mut written = [0; 20];
        let len = nix::unistd::read(&from, &mut written).unwrap();
        assert_eq!(&written[..len], b"headdeabc");
    }

    #[test]
    fn f33_memory_that_was_taken_away_is_an_error_and_no_signal() {
        let (_from, to) = pipe().unwrap();
        let mut gather = Gather::new();
        assert!(gather.add(truncated().part(PAGE, 100).unwrap()));
        assert_eq!(gather.write(b"", to.as_fd()), Err(Errno::EFAULT));
    }

    #[test]
    fn there_is_room_for_what_drivers_use_and_no_more() {
        let mut gather = Gather::new();
        let part = truncated().part(0, 1).unwrap();
        assert_eq!((0..2 * PARTS).filter(|_| gather.add(part)).count(), PARTS - 1);
    }
}
