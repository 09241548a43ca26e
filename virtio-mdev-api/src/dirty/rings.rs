//! A record for a queue that has its ring in memory somebody copies, and its buffers elsewhere.

use super::{DirtyRecord, DirtySink, LogError, RingPart};
use std::sync::Arc;

/// Passes on what is written to the ring, and nothing else.
pub(super) struct Rings(pub Arc<DirtyRecord>);

impl DirtySink for Rings {
    fn mark(&self, _iova: u64, _len: u64) {}

    fn mark_ring(&self, ring: RingPart, iova: u64, len: u64) {
        self.0.mark_ring(RingPart { elsewhere: false, ..ring }, [(iova, len)]);
    }

    fn flush(&self) -> Result<(), LogError> {
        self.0.flush()
    }
}
