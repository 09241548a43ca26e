//! Client memory in place, for the paths that every packet takes.
#![allow(unsafe_code)]
// UNSAFETY: memory that others change at any time is reached by pointer, since no reference may point to it.

use super::Permissions;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use vm_memory::VolatileSlice;

/// Bytes of a line of the processor's cache.
pub const LINE: usize = 64;

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

    /// Where it begins, for the kernel to read or write: no reference may point there.
    #[inline]
    pub fn start(self) -> NonNull<u8> {
        self.start
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

    /// All from `offset` on; `None` beyond the end.
    #[inline]
    pub fn from(self, offset: usize) -> Option<Self> {
        self.part(offset, self.len.checked_sub(offset)?)
    }

    /// Fills `out` from the beginning; `false`, and nothing done, if it is longer.
    #[inline]
    #[must_use]
    pub fn read(self, out: &mut [u8]) -> bool {
        if out.len() > self.len {
            return false;
        }
        // SAFETY: both are so long; `out` is ours alone, and client memory is behind no reference but to atomics, so they do
        // not overlap. What a client writes meanwhile makes the bytes others, of a type for which any bits are fine.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr(), out.as_mut_ptr(), out.len()) };
        true
    }

    /// Writes `data` at the beginning; `false`, and nothing done, if it is longer.
    #[inline(always)]
    #[must_use]
    pub fn write(self, data: &[u8]) -> bool {
        // A store across the end of a line waits for both, one after the other, and everything behind it waits too.
        let first = self.start.as_ptr().align_offset(LINE);
        if first == 0 || first >= data.len() {
            return self.write_run(data);
        }
        let (head, rest) = data.split_at(first);
        self.part(first, rest.len()).is_some_and(|place| {
            let begun = if (8..16).contains(&first) { self.write_ends::<8>(head) } else { self.write_run(head) };
            begun && place.write_run(rest)
        })
    }

    /// The same, wherever lines end.
    #[inline(always)]
    fn write_run(self, data: &[u8]) -> bool {
        match data.len() {
            16..=32 => self.write_ends::<16>(data),
            33..=64 => self.write_ends::<32>(data),
            65..=128 => self.write_ends::<64>(data),
            _ => self.put(data),
        }
    }

    /// The same of `N` bytes to twice as many, without a call: the first `N` and the last.
    #[inline(always)]
    fn write_ends<const N: usize>(self, data: &[u8]) -> bool {
        let (Some(first), Some(last)) = (data.first_chunk::<N>(), data.last_chunk::<N>()) else { return false };
        self.put(first) && self.part(data.len() - N, N).is_some_and(|end| end.put(last))
    }

    #[inline(always)]
    fn put(self, data: &[u8]) -> bool {
        if data.len() > self.len {
            return false;
        }
        // SAFETY: as in `read`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.start.as_ptr(), data.len()) };
        true
    }

    /// Copies all of it to the beginning of `to`; `false`, and nothing done, if that is shorter. The two may overlap.
    #[inline(always)]
    #[must_use]
    pub fn copy_to(self, to: Local<'_>) -> bool {
        if self.len > to.len {
            return false;
        }
        match self.len {
            16..=32 => self.copy_ends::<16>(to),
            33..=64 => self.copy_ends::<32>(to),
            len => {
                // SAFETY: both are so long.
                unsafe { std::ptr::copy(self.start.as_ptr(), to.start.as_ptr(), len) };
                true
            }
        }
    }

    /// Copies all of it, from `N` bytes to twice as many, to the beginning of `to`, which is no shorter, without a call: the
    /// first `N` and the last. The two may overlap.
    #[inline(always)]
    fn copy_ends<const N: usize>(self, to: Local<'_>) -> bool {
        let (mut first, mut last) = ([0; N], [0; N]);
        let behind = self.len.wrapping_sub(N);
        self.read(&mut first)
            && self.part(behind, N).is_some_and(|end| end.read(&mut last))
            && to.put(&first)
            && to.part(behind, N).is_some_and(|end| end.put(&last))
    }

    /// Has the processor fetch the lines of the first `len` bytes, for reading or for writing, while it does something else. A
    /// hint, for a few lines.
    #[inline]
    pub fn prefetch(self, len: usize, access: Permissions) {
        let len = len.min(self.len);
        (0..len).step_by(LINE).for_each(|at| self.prefetch_line(at, access));
    }

    /// The same of the line of byte `at`, even if that is beyond the end.
    #[inline(always)]
    pub fn prefetch_line(self, at: usize, access: Permissions) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::{asm, x86_64::_MM_HINT_T0, x86_64::_mm_prefetch};
            let line = self.start.as_ptr().cast_const().cast::<i8>().wrapping_add(at);
            if access.contains(Permissions::WRITE) {
                // What another processor has changed is to be had for writing at once. There is no intrinsic that comes
                // out as this instruction for every processor of 64 bits; those without it take it for none.
                #[allow(clippy::pointers_in_nomem_asm_block, reason = "only a hint is passed")]
                // SAFETY: a hint, which accesses nothing.
                unsafe {
                    asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, nomem));
                }
            } else {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = (at, access);
    }

    /// All of it as numbers of 64 bits in the byte order of the specification, for tables that are gone through entry by
    /// entry; `None` where they would not be aligned.
    #[inline]
    pub fn words(self) -> Option<&'a [AtomicU64]> {
        let start = self.start.cast::<AtomicU64>();
        if !start.is_aligned() {
            return None;
        }
        // SAFETY: aligned, within the memory, and reached by whoever shares it as atomics or in ways that are no accesses of
        // this program. Any bits are a number.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len / size_of::<AtomicU64>()) })
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
    fn copies_of_any_length_are_whole() {
        let bytes: Vec<u8> = (0..150).collect();
        for len in 0..=150 {
            let (mut from, mut to, mut written) = (bytes.clone(), vec![0xff; 151], vec![0xff; 151]);
            let local = |bytes: &mut [u8]| {
                // SAFETY: the bytes, of which nothing else is used while it is.
                Local::new(unsafe { VolatileSlice::new(bytes.as_mut_ptr(), bytes.len()) }).unwrap()
            };
            assert!(local(&mut from).part(0, len).unwrap().copy_to(local(&mut to)));
            assert!(local(&mut written).write(&bytes[..len]));
            for copy in [to, written] {
                assert_eq!((&copy[..len], copy[len]), (&bytes[..len], 0xff));
            }
        }
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
    fn words_are_those_that_are_whole_and_aligned() {
        with(|memory| {
            assert!(memory.store_u64(8, 7, Ordering::Relaxed).is_some());
            let words = memory.part(8, 23).unwrap().words().unwrap();
            assert_eq!((words.len(), words[0].load(Ordering::Relaxed)), (2, 7_u64.to_le()));
            assert!(memory.part(4, 16).unwrap().words().is_none());
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
