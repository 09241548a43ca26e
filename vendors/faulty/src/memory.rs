//! The memory that a queue is given, with faults.

use crate::faults::Faults;
use nix::errno::Errno;
use std::sync::Arc;
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::{AddressSpace, Limits, Region, Subscriber};
use virtio_mdev_api::{QueueStart, Refusal};

/// What the queues of one device were given.
#[derive(Debug, Default)]
pub struct Memory {
    /// The memory of the first queue since the last reset.
    first: Option<Arc<AddressSpace>>,
}

impl Memory {
    /// The queue as it is started.
    pub fn give(&mut self, faults: &Faults, mut queue: QueueStart) -> Result<QueueStart, Refusal> {
        let first = self.first.get_or_insert_with(|| Arc::clone(&queue.space));
        if faults.one_space.get() != 0 {
            (queue.space, queue.ring_space) = (Arc::clone(first), Arc::clone(first));
        }
        if faults.stale_maps.get() != 0 {
            (queue.space, queue.ring_space) = (copy(&queue.space)?, copy(&queue.ring_space)?);
        }
        if faults.unlogged.get() != 0 {
            queue.dirty = DirtyRecord::new();
        }
        Ok(queue)
    }

    /// The device was reset.
    pub fn forget(&mut self) {
        self.first = None;
    }
}

/// What is mapped now, for as long as it is used.
fn copy(space: &Arc<AddressSpace>) -> Result<Arc<AddressSpace>, Refusal> {
    let copy = AddressSpace::new(space.limits());
    drop(space.subscribe(Arc::new(Keeper(Arc::clone(&copy))))?);
    Ok(copy)
}

/// Takes what is mapped, and gives nothing back.
struct Keeper(Arc<AddressSpace>);

impl Subscriber for Keeper {
    fn name(&self) -> String {
        "faulty".to_owned()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn map(&self, region: &Region) -> Result<(), Errno> {
        self.0.map(region.clone()).map_err(|_| Errno::EIO)
    }

    fn unmap(&self, _iova: u64, _len: u64) {}

    fn replace(&self, _removed: &[Region], _added: &[Region]) -> Result<(), Errno> {
        Ok(())
    }
}
