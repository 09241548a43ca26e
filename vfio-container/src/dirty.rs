//! VFIO_IOMMU_DIRTY_PAGES, and UNMAP_DMA with the bitmap of what it unmaps.
//!
//! A page is reported when a device of the container wrote it since it was last reported. What was taken and could not be
//! told to the client is put back: a call that fails loses no page.

use crate::Client;
use crate::bitmap::{Bitmap, Dirty};
use crate::error::VfioError;
use crate::iommu::{Iommu, MAX_BITMAP, PAGE, bitmap_len, check_trackable};
use std::sync::Arc;
use vfio_abi::{BitmapArg, DirtyGet};
use virtio_mdev_api::dirty::{DirtyPages, DirtySink, DirtyWord};

/// How often an unmap begins anew because the mappings changed meanwhile.
const ATTEMPTS: usize = 8;

impl Iommu {
    /// VFIO_IOMMU_DIRTY_PAGES_FLAG_START: all pages are clean. Pages tracked already stay as they are.
    pub fn start_tracking(&self) -> Result<(), VfioError> {
        let mut table = self.lock()?;
        if table.dirty.is_some() {
            return Ok(());
        }
        table.mappings.touching(0, u64::MAX).try_for_each(|(first, last)| check_trackable(first, last))?;
        let Ok(pages) = DirtyPages::new(PAGE) else { return Err(VfioError::NotTracked) };
        let pages = Arc::new(pages);
        self.space().writers().track(Some(Arc::clone(&pages) as Arc<dyn DirtySink>));
        table.dirty = Some(pages);
        Ok(())
    }

    /// VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP.
    pub fn stop_tracking(&self) -> Result<(), VfioError> {
        let mut table = self.lock()?;
        if table.dirty.take().is_some() {
            self.space().writers().track(None);
        }
        Ok(())
    }

    /// VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: the pages written since the last call, for good.
    pub fn get_dirty(&self, client: &dyn Client, arg: &DirtyGet) -> Result<(), VfioError> {
        let &DirtyGet { iova, size, bitmap } = arg;
        let range = VfioError::Range { iova, size, vaddr: 0 };
        // As the kernel, which does not reach the last page of the space.
        let Some(end) = iova.checked_add(size) else { return Err(range) };
        check_bitmap(&bitmap, size)?;
        if (iova | size) % PAGE != 0 || bitmap.page_size != PAGE {
            return Err(range);
        }
        let table = self.lock()?;
        let dirty = Arc::clone(table.dirty.as_ref().ok_or(VfioError::NotTracked)?);
        let mappings = table.whole(iova, end - 1)?;
        let taken = take(&dirty, &mappings);
        drop(table);
        let told = Bitmap::new(client, bitmap.data, iova).write(&mappings, Dirty::Words(&taken));
        if told.is_err() {
            self.put_back(&dirty, &taken);
        }
        Ok(told?)
    }

    /// UNMAP_DMA with VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP. Pages are taken when no device can write them any more.
    pub fn unmap_tracked(&self, client: &dyn Client, first: u64, last: u64, arg: BitmapArg) -> Result<u64, VfioError> {
        check_bitmap(&arg, last - first + 1)?;
        let bitmap = Bitmap::new(client, arg.data, first);
        let mut tried = None;
        let mut attempts = 0;
        loop {
            let mut table = self.lock()?;
            let dirty = table.dirty.clone().filter(|_| arg.page_size == PAGE).ok_or(VfioError::NotTracked)?;
            let doomed = self.doomed(&table, first, last)?;
            if tried.as_ref() == Some(&doomed) || attempts == ATTEMPTS {
                let removed = table.mappings.remove(&doomed);
                let taken = take(&dirty, &doomed);
                dirty.forget(&doomed);
                drop(table);
                bitmap.write(&doomed, if removed.revoked { Dirty::All } else { Dirty::Words(&taken) })?;
                return Ok(removed.bytes);
            }
            drop(table);
            // A bitmap that cannot be written is found out while everything is mapped.
            bitmap.write(&doomed, Dirty::Words(&[]))?;
            tried = Some(doomed);
            attempts += 1;
        }
    }

    /// Pages of what is still mapped, and still tracked, are to be reported another time.
    fn put_back(&self, dirty: &Arc<DirtyPages>, taken: &[DirtyWord]) {
        let Ok(table) = self.lock() else { return };
        if !table.dirty.as_ref().is_some_and(|now| Arc::ptr_eq(now, dirty)) {
            return;
        }
        for page in taken.iter().flat_map(|word| word.pages()) {
            let iova = page * PAGE;
            if table.mappings.touching(iova, iova).next().is_some() {
                dirty.mark(iova, PAGE);
            }
        }
    }
}

/// Checks that `arg` is a bitmap for `range` bytes, as far as the kernel does before it looks at the mappings.
fn check_bitmap(arg: &BitmapArg, range: u64) -> Result<(), VfioError> {
    let &BitmapArg { page_size, size, data } = arg;
    let pages = if page_size == 0 { 0 } else { range >> page_size.trailing_zeros() };
    let ends = data.checked_add(size).is_some_and(|end| i64::try_from(end).is_ok());
    if !ends || pages == 0 || size > MAX_BITMAP || size < bitmap_len(pages) {
        return Err(VfioError::Bitmap { page_size, size, data, range });
    }
    Ok(())
}

fn take(dirty: &DirtyPages, mappings: &[(u64, u64)]) -> Vec<DirtyWord> {
    mappings.iter().flat_map(|&(first, last)| dirty.take(first, last)).collect()
}
