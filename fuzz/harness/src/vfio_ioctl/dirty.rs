//! Pages that devices of a container write, and calls that tell which.

use super::{ARG, DIRTY_PAGES, PAGE, Steps, UNMAP_BITMAP, UNMAP_DMA, V1, argsz, words};
use crate::Input;
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::testing::{BASE, SIZE};
use virtio_mdev_api::dirty::{DirtyRecord, WriterGuard};
use virtio_mdev_api::dma::{AddressSpace, Reader};

const START: u32 = 1;
const STOP: u32 = 2;
const GET: u32 = 4;
/// Where bitmaps lie, and the pages that they have room for.
const BITMAP: u64 = BASE + 0x4000;
const BITMAP_PAGES: u64 = 1 << 12;

/// A device that reports what it writes.
pub struct Device {
    space: Arc<AddressSpace>,
    reader: Reader,
    record: Arc<DirtyRecord>,
    _writer: WriterGuard,
}

impl Device {
    pub fn of(space: Arc<AddressSpace>) -> Self {
        let record = DirtyRecord::new();
        let writer = space.writers().join(&record);
        let reader = space.reader("device", Arc::new(|_: &str| panic!("a burst of a single thread stalls")));
        Self { space, reader, record, _writer: writer }
    }

    /// Whether the byte is there.
    fn write(&mut self, iova: u64) -> bool {
        let burst = self.reader.enter();
        let is_written = burst.view().write(iova, &[1]).is_ok();
        if is_written {
            self.record.mark(iova, 1);
        }
        is_written
    }
}

impl Steps {
    pub fn unmap_with_bitmap(&mut self, input: &mut Input<'_>, argsz: u32, flags: u32, iova: u64, size: u64) {
        let (argsz, bitmap) = (argsz.saturating_add(24), Bitmap::any(input));
        self.caller().put(ARG, &words(argsz, flags, &[iova, size, bitmap.page_size, bitmap.size, bitmap.data]));
        self.blank();
        let made = self.on_container(UNMAP_DMA, ARG).map(drop);
        let is_range = (iova | size).is_multiple_of(PAGE) && iova.checked_add(size.wrapping_sub(1)).is_some();
        let permitted = argsz >= 48 && flags == UNMAP_BITMAP && is_range && self.may_map();
        if let Some(doomed) = self.check_bitmap(made, permitted, bitmap, iova, size) {
            self.unmapped(doomed);
        }
    }

    /// Looks at the answer to a request for a bitmap of a range, if it is one; `None` where nothing was told.
    fn check_bitmap(
        &mut self,
        made: Result<(), Errno>,
        permitted: bool,
        bitmap: Bitmap,
        iova: u64,
        size: u64,
    ) -> Option<Vec<u64>> {
        if !permitted || self.dirty.is_none() || size == 0 || !bitmap.is_for(size) {
            assert!(made.is_err(), "a bitmap of what cannot be: {bitmap:?} {iova:#x}+{size:#x}");
            return None;
        }
        let last = iova + (size - 1);
        let within = self.model.touching(iova, last);
        if within.iter().any(|&first| first < iova || self.model.last(first) > last) {
            assert_eq!(made, Err(Errno::EINVAL), "a bitmap that cuts through a mapping");
            return None;
        }
        let at = |addr: u64| bitmap.data + (addr - iova) / PAGE / 64 * 8;
        let first = within.first().map_or(BASE, |&first| at(first));
        let end = within.last().map_or(BASE, |&first| at(self.model.last(first)) + 8);
        if first < BASE || end > BASE + SIZE as u64 {
            assert_eq!(made, Err(Errno::EFAULT), "a bitmap that is not there");
            return None;
        }
        assert_eq!(made, Ok(()), "{bitmap:?} {iova:#x}+{size:#x}");
        let dirty = self.take_dirty(iova, last);
        if bitmap.data == BITMAP && size / PAGE <= BITMAP_PAGES {
            let bytes = self.caller().get(BITMAP, usize::try_from(BITMAP_PAGES / 8).expect("few"));
            let bits = (0..).zip(bytes).flat_map(|(at, byte)| (0..8).map(move |bit| (at * 8 + bit, byte >> bit & 1)));
            let told: Vec<u64> = bits.filter_map(|(page, bit)| (bit == 1).then_some(iova / PAGE + page)).collect();
            assert_eq!(told, dirty, "pages of {iova:#x}+{size:#x}");
        }
        Some(within)
    }

    /// The pages of a range that were written, which are told now or never.
    pub fn take_dirty(&mut self, first: u64, last: u64) -> Vec<u64> {
        let Some(dirty) = &mut self.dirty else { return Vec::new() };
        let taken: Vec<u64> = dirty.range(first / PAGE..=last / PAGE).copied().collect();
        dirty.retain(|page| !taken.contains(page));
        taken
    }

    fn blank(&self) {
        self.caller().put(BITMAP, &[0; 512]);
    }

    pub fn track_or_write(&mut self, what: u8, input: &mut Input<'_>) {
        match what % 8 {
            0 => self.get_dirty(input),
            1 => {
                let argsz = argsz(input, 8);
                let flags = [START, START, STOP, u32::from(input.byte())][usize::from(input.byte() % 4)];
                if flags & GET != 0 {
                    return;
                }
                self.caller().put(ARG, &words(argsz, flags, &[]));
                let made = self.on_container(DIRTY_PAGES, ARG).map(drop);
                let permitted = argsz >= 8 && matches!(flags, START | STOP) && self.may_track();
                let few = |(first, last): (u64, u64)| (last - first) / PAGE < (1 << 31) - 1;
                let possible = self.dirty.is_some() || flags == STOP || self.model.iter().all(few);
                assert_eq!(made.is_ok(), permitted && possible, "{flags} of {argsz}: {made:?}");
                match flags {
                    _ if made.is_err() => {}
                    START => drop(self.dirty.get_or_insert_default()),
                    _ => self.dirty = None,
                }
            }
            2 => self.device = self.space().map(Device::of),
            3 => self.device = None,
            _ => {
                let (iova, space) = (input.address().wrapping_add(u64::from(input.byte())), self.space());
                let device =
                    self.device.as_mut().filter(|device| space.is_some_and(|s| Arc::ptr_eq(&s, &device.space)));
                if device.is_some_and(|device| device.write(iova)) {
                    self.dirty.as_mut().map(|dirty| dirty.insert(iova / PAGE));
                }
            }
        }
    }

    fn get_dirty(&mut self, input: &mut Input<'_>) {
        let (argsz, bitmap) = (argsz(input, 48), Bitmap::any(input));
        let (iova, size) = (input.address(), input.size());
        self.caller().put(ARG, &words(argsz, GET, &[iova, size, bitmap.page_size, bitmap.size, bitmap.data]));
        self.blank();
        let made = self.on_container(DIRTY_PAGES, ARG).map(drop);
        let is_range = (iova | size).is_multiple_of(PAGE) && iova.checked_add(size).is_some();
        let permitted = argsz >= 48 && is_range && self.may_track();
        self.check_bitmap(made, permitted, bitmap, iova, size);
    }

    fn may_track(&self) -> bool {
        self.kind != V1 && self.space().is_some() && self.may_map()
    }
}

/// A bitmap that a client asks to be filled.
#[derive(Debug, Clone, Copy)]
struct Bitmap {
    page_size: u64,
    size: u64,
    data: u64,
}

impl Bitmap {
    /// Mostly one that there is.
    fn any(input: &mut Input<'_>) -> Self {
        let mut bitmap = Self { page_size: PAGE, size: BITMAP_PAGES / 8, data: BITMAP };
        match input.byte() {
            0..0xe0 => {}
            0xe0..0xe8 => bitmap.page_size = input.size(),
            0xe8..0xf0 => bitmap.size = input.size(),
            0xf0..0xf8 => bitmap.data = BASE.wrapping_add(input.address()),
            _ => bitmap = Self { page_size: input.long(), size: input.long(), data: input.long() },
        }
        bitmap
    }

    /// Whether it has room for `range` bytes, and is one at all.
    fn is_for(self, range: u64) -> bool {
        let ends = self.data.checked_add(self.size).is_some_and(|end| end < 1 << 63);
        ends && self.page_size == PAGE && self.size <= 1 << 28 && self.size >= (range / PAGE).div_ceil(64) * 8
    }
}
