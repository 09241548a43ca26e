//! Client memory in place, for the paths that every packet takes.
#![allow(unsafe_code)]
// UNSAFETY: memory that others change at any time is reached by pointer, since no reference may point to it.

use super::Permissions;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use vm_memory::VolatileSlice;

/// A stretch of memory that others read and write as well. What is copied out of it may be torn between two of their
/// writes; a number that is loaded is not.
///
/// The same as a [`VolatileSlice`], with less to do for each access.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    start: NonNull<u8>,
    len: usize,
    memory: PhantomData<VolatileSlice<'a>>,
}

impl<'a> Local<'a> {
    /// All of a slice.
    pub fn new(slice: VolatileSlice<'a>) -> Option<Self> {
        let start = NonNull::new(slice.ptr_guard_mut().as_ptr())?;
        Some(Self { start, len: slice.len(), memory: PhantomData })
    }

    /// Bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `offset` on; `None` if they are not all in it.
    #[inline]
    pub fn part(self, offset: usize, len: usize) -> Option<Self> {
        if offset > self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: not beyond the end of the memory.
        let start = unsafe { self.start.add(offset) };
        Some(Self { start, len, memory: PhantomData })
    }

    /// Fills `out` from the beginning; `false`, and nothing done, if it is longer.
    #[inline]
    #[must_use]
    pub fn read(self, out: &mut [u8]) -> bool {
        if out.len() > self.len {
            return false;
        }
        // SAFETY: both are so long; `out` is ours alone, and client memory is never behind a reference, so they do not
        // overlap. What a client writes meanwhile makes the bytes others, of a type for which any bits are fine.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr(), out.as_mut_ptr(), out.len()) };
        true
    }

    /// Writes `data` at the beginning; `false`, and nothing done, if it is longer.
    #[inline]
    #[must_use]
    pub fn write(self, data: &[u8]) -> bool {
        if data.len() > self.len {
            return false;
        }
        // SAFETY: as in `read`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.start.as_ptr(), data.len()) };
        true
    }

    /// Copies all of it to the beginning of `to`; `false`, and nothing done, if that is shorter. The two may overlap.
    #[inline]
    #[must_use]
    pub fn copy_to(self, to: Local<'_>) -> bool {
        if self.len > to.len {
            return false;
        }
        // SAFETY: both are so long.
        unsafe { std::ptr::copy(self.start.as_ptr(), to.start.as_ptr(), self.len) };
        true
    }

    /// Has the processor fetch what is at `offset`, for reading or for writing, while it does something else. A hint: what
    /// is not in the memory is not fetched.
    #[inline]
    pub fn prefetch(self, offset: usize, access: Permissions) {
        let Some(place) = self.part(offset, 1) else { return };
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
            let place = place.start.as_ptr().cast_const().cast();
            if access.contains(Permissions::WRITE) {
                // SAFETY: a hint, which accesses nothing.
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(place) };
            } else {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(place) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (place, access);
    }

    /// Where a number of `size` bytes is; `None` if it is not all in the memory, or not aligned.
    #[inline]
    fn place(self, offset: usize, size: usize) -> Option<NonNull<u8>> {
        let place = self.part(offset, size)?.start;
        (place.addr().get().is_multiple_of(size)).then_some(place)
    }

    /// The number at `offset`, in the byte order of the specification; `None` if it is not all there, or not aligned.
    #[inline]
    pub fn load_u16(self, offset: usize, order: Ordering) -> Option<u16> {
        // SAFETY: aligned, within the memory, and reached by whoever shares it as an atomic or in ways that are no
        // accesses of this program.
        let number = unsafe { AtomicU16::from_ptr(self.place(offset, 2)?.as_ptr().cast()) };
        Some(u16::from_le(number.load(order)))
    }

    /// The same of 32 bits.
    #[inline]
    pub fn load_u32(self, offset: usize, order: Ordering) -> Option<u32> {
        // SAFETY: as in `load_u16`.
        let number = unsafe { AtomicU32::from_ptr(self.place(offset, 4)?.as_ptr().cast()) };
        Some(u32::from_le(number.load(order)))
    }

    /// The same of 64 bits.
    #[inline]
    pub fn load_u64(self, offset: usize, order: Ordering) -> Option<u64> {
        // SAFETY: as in `load_u16`.
        let number = unsafe { AtomicU64::from_ptr(self.place(offset, 8)?.as_ptr().cast()) };
        Some(u64::from_le(number.load(order)))
    }

    /// Two numbers of 64 bits at `offset`, a multiple of 16, each loaded at once.
    #[inline]
    pub fn load_pair(self, offset: usize) -> Option<[u64; 2]> {
        // The compiler leaves one check of the two places and this one.
        self.place(offset, 16)?;
        Some([self.load_u64(offset, Ordering::Relaxed)?, self.load_u64(offset + 8, Ordering::Relaxed)?])
    }

    /// Stores a number at `offset`; `None` if that is not all in the memory, or not aligned.
    #[inline]
    #[must_use]
    pub fn store_u16(self, offset: usize, value: u16, order: Ordering) -> Option<()> {
        // SAFETY: as in `load_u16`.
        let number = unsafe { AtomicU16::from_ptr(self.place(offset, 2)?.as_ptr().cast()) };
        number.store(value.to_le(), order);
        Some(())
    }

    /// The same of 32 bits.
    #[inline]
    #[must_use]
    pub fn store_u32(self, offset: usize, value: u32, order: Ordering) -> Option<()> {
        // SAFETY: as in `load_u16`.
        let number = unsafe { AtomicU32::from_ptr(self.place(offset, 4)?.as_ptr().cast()) };
        number.store(value.to_le(), order);
        Some(())
    }

    /// The same of 64 bits.
    #[inline]
    #[must_use]
    pub fn store_u64(self, offset: usize, value: u64, order: Ordering) -> Option<()> {
        // SAFETY: as in `load_u16`.
        let number = unsafe { AtomicU64::from_ptr(self.place(offset, 8)?.as_ptr().cast()) };
        number.store(value.to_le(), order);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(test: impl FnOnce(Local<'_>)) {
        // Aligned for any number.
        let mut memory = [0_u64; 4];
        let bytes = memory.as_mut_ptr().cast();
        // SAFETY: the array, of which nothing else is used meanwhile.
        let slice = unsafe { VolatileSlice::new(bytes, size_of_val(&memory)) };
        test(Local::new(slice).unwrap());
    }

    #[test]
    fn a_part_is_within_the_whole() {
        with(|memory| {
            assert_eq!(memory.part(0, 32).unwrap().len(), 32);
            assert_eq!(memory.part(32, 0).unwrap().len(), 0);
            for (offset, len) in [(0, 33), (1, 32), (33, 0), (usize::MAX, 1), (1, usize::MAX)] {
                assert!(memory.part(offset, len).is_none(), "{offset} {len}");
            }
        });
    }

    #[test]
    fn what_does_not_fit_is_not_copied() {
        with(|memory| {
            assert!(memory.write(&[7; 32]) && !memory.write(&[8; 33]));
            let mut out = [0; 33];
            assert!(!memory.read(&mut out) && memory.read(&mut out[..32]));
            assert_eq!((out[31], out[32]), (7, 0));
            assert!(!memory.copy_to(memory.part(1, 31).unwrap()));
        });
    }

    #[test]
    fn what_overlaps_is_copied_as_it_was() {
        with(|memory| {
            assert!(memory.write(&[1, 2, 3, 4]));
            assert!(memory.part(0, 4).unwrap().copy_to(memory.part(2, 8).unwrap()));
            let mut out = [0; 7];
            assert!(memory.read(&mut out));
            assert_eq!(out, [1, 2, 1, 2, 3, 4, 0]);
        });
    }

    #[test]
    fn numbers_are_little_endian_whole_and_aligned() {
        with(|memory| {
            assert!(memory.store_u64(8, 0x0807_0605_0403_0201, Ordering::Relaxed).is_some());
            assert_eq!(memory.load_u16(10, Ordering::Relaxed), Some(0x0403));
            assert_eq!(memory.load_u32(12, Ordering::Relaxed), Some(0x0807_0605));
            assert!(memory.store_u16(30, 1, Ordering::Relaxed).is_some());
            assert!(memory.store_u32(30, 1, Ordering::Relaxed).is_none());
            assert_eq!((memory.load_u16(31, Ordering::Relaxed), memory.load_u64(4, Ordering::Relaxed)), (None, None));
        });
    }
}
