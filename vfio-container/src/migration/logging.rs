//! DMA logging: which pages one device wrote (VFIO_DEVICE_FEATURE_DMA_LOGGING_*).
//!
//! Pages are told as those of a container are: what was taken and could not be told is put back. What differs is that the
//! device's memory need not be mapped, and that bits are only ever set in the client's bitmap.

use crate::Client;
use crate::bitmap::Bitmap;
use crate::error::VfioError;
use crate::iommu::{PAGE, last};
use parking_lot::Mutex;
use std::mem::size_of;
use std::sync::Arc;
use vfio_abi::migration::{LoggingControl, LoggingRange, LoggingReport};
use virtio_mdev_api::dirty::{DirtyPages, DirtyRecord, DirtySink, DirtyWord, SinkGuard};
use zerocopy::{FromBytes, IntoBytes};

/// As in the kernel.
const MAX_RANGES: u32 = 256;

/// The log of one device.
#[derive(Default)]
pub(crate) struct DmaLog(Mutex<Option<Logging>>);

struct Logging {
    pages: Arc<LoggedPages>,
    /// No mark arrives when it is gone.
    _sink: SinkGuard,
}

/// The pages that were written, of the ranges that are logged.
struct LoggedPages {
    /// First and last address of each, in order.
    ranges: Vec<(u64, u64)>,
    pages: DirtyPages,
}

impl DirtySink for LoggedPages {
    fn mark(&self, iova: u64, len: u64) {
        let end = iova.saturating_add(len - 1);
        let from = self.ranges.partition_point(|range| range.1 < iova);
        for &(first, last) in self.ranges[from..].iter().take_while(|range| range.0 <= end) {
            let (first, last) = (first.max(iova), last.min(end));
            self.pages.mark(first, last - first + 1);
        }
    }
}

impl DmaLog {
    /// VFIO_DEVICE_FEATURE_DMA_LOGGING_START: the page size of the log, which is the smallest whatever was wished for. Looks
    /// into the client.
    pub fn start(
        &self,
        client: &dyn Client,
        control: &LoggingControl,
        record: &Arc<DirtyRecord>,
    ) -> Result<u64, VfioError> {
        let ranges = fetch_ranges(client, control)?;
        let Ok(pages) = DirtyPages::new(PAGE) else { return Err(VfioError::NotTracked) };
        let mut log = self.0.lock();
        if log.is_some() {
            return Err(VfioError::Logging);
        }
        let pages = Arc::new(LoggedPages { ranges, pages });
        let sink = record.add_sink(Arc::clone(&pages) as Arc<dyn DirtySink>);
        *log = Some(Logging { pages, _sink: sink });
        Ok(PAGE)
    }

    /// VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP.
    pub fn stop(&self) {
        let ended = self.0.lock().take();
        // It waits for the marks under way.
        drop(ended);
    }

    /// VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: the pages written since they were last reported, for good. Looks into the
    /// client.
    pub fn report(&self, client: &dyn Client, report: &LoggingReport) -> Result<(), VfioError> {
        let &LoggingReport { iova, length, page_size, bitmap } = report;
        let range = VfioError::Range { iova, size: length, vaddr: bitmap };
        if page_size < PAGE || !page_size.is_power_of_two() {
            return Err(VfioError::LogPages { page_size });
        }
        iova.checked_add(length).ok_or(VfioError::LogWraps { iova, length })?;
        let Some(last) = last(iova, length).filter(|_| (iova | length) % PAGE == 0) else { return Err(range) };
        let pages = self.0.lock().as_ref().map(|logging| Arc::clone(&logging.pages)).ok_or(VfioError::NotLogging)?;
        let taken = pages.pages.take(iova, last);
        let bits = taken.iter().flat_map(|word| word.pages()).map(|page| (page * PAGE - iova) / page_size);
        let told = Bitmap::new(client, bitmap, iova).set(bits);
        if told.is_err() {
            put_back(&pages, &taken);
        }
        Ok(told?)
    }
}

fn put_back(pages: &LoggedPages, taken: &[DirtyWord]) {
    taken.iter().flat_map(|word| word.pages()).for_each(|page| pages.mark(page * PAGE, PAGE));
}

/// The ranges of the client, as first and last address, in order.
fn fetch_ranges(client: &dyn Client, control: &LoggingControl) -> Result<Vec<(u64, u64)>, VfioError> {
    let &LoggingControl { page_size, num_ranges, ranges: at, .. } = control;
    if num_ranges == 0 || !page_size.is_power_of_two() {
        return Err(VfioError::LogPages { page_size });
    }
    if num_ranges > MAX_RANGES {
        return Err(VfioError::TooManyRanges(num_ranges));
    }
    let mut bytes = vec![0; usize::try_from(num_ranges).unwrap_or(0) * size_of::<LoggingRange>()];
    client.read(at, bytes.as_mut_bytes())?;
    let mut ranges = Vec::new();
    for chunk in bytes.chunks_exact(size_of::<LoggingRange>()) {
        let Ok(LoggingRange { iova, length }) = LoggingRange::read_from_bytes(chunk) else { continue };
        if (iova | length) % page_size != 0 {
            return Err(VfioError::Range { iova, size: length, vaddr: 0 });
        }
        iova.checked_add(length).ok_or(VfioError::LogWraps { iova, length })?;
        let last = last(iova, length).ok_or(VfioError::Range { iova, size: length, vaddr: 0 })?;
        ranges.push((iova, last));
    }
    ranges.sort_unstable();
    match ranges.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
        Some(pair) => Err(VfioError::LogOverlap { iova: pair[1].0 }),
        None => Ok(ranges),
    }
}
