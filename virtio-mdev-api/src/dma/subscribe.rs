//! Those who must know what is mapped: hardware, devices with an IOMMU of their own, records.

use super::{AddressSpace, Limits, MapError, Region};
use nix::errno::Errno;
use std::sync::Arc;

/// Takes part in the changes of an [`AddressSpace`].
///
/// Changes are made one at a time: a subscriber that changes, subscribes to or leaves the same space from within one of
/// these calls deadlocks. No reader waits for them.
pub trait Subscriber: Send + Sync {
    /// Who this is, for the words of a refusal.
    fn name(&self) -> String;

    /// What it can take. Asked once, when it subscribes.
    fn limits(&self) -> Limits;

    /// A region is about to be published. A refusal stops that: subscribers that already agreed get
    /// [`unmap`](Self::unmap), and the client gets the errno.
    fn map(&self, region: &Region) -> Result<(), Errno>;

    /// A region is gone: no reader uses it any more. When this returns, the subscriber uses it no more either.
    fn unmap(&self, iova: u64, len: u64);

    /// `removed` is about to go and `added` to come, in one step; their addresses may be the same. A refusal stops that,
    /// and leaves the subscriber as it was; those that already agreed are asked to replace the other way round. When this
    /// returns, the subscriber uses `removed` no more, though readers may still.
    fn replace(&self, removed: &[Region], added: &[Region]) -> Result<(), Errno>;

    /// Version `generation` is what readers find from now on.
    fn published(&self, _generation: u64) {}

    /// A reader did not leave an unmapped region in time; the region was revoked in place.
    fn stalled(&self) {}
}

/// A subscription; dropping it ends it, after an [`unmap`](Subscriber::unmap) of everything still mapped.
#[must_use = "dropping the guard ends the subscription"]
pub struct SubscriptionGuard {
    pub(super) space: Arc<AddressSpace>,
    pub(super) id: u64,
}

impl Drop for SubscriptionGuard {
    fn drop(&mut self) {
        self.space.unsubscribe(self.id);
    }
}

/// A subscriber as the space keeps it.
pub(super) struct Subscription {
    pub id: u64,
    pub limits: Limits,
    pub subscriber: Arc<dyn Subscriber>,
}

/// Asks every subscriber; undoes all of it, latest first, when one refuses. Of regions that only go they are told when
/// readers have left them.
pub(super) fn vote(subscriptions: &[Subscription], removed: &[Region], added: &[Region]) -> Result<(), MapError> {
    if removed.is_empty() {
        return vote_on_maps(subscriptions, added);
    }
    if added.is_empty() {
        return Ok(());
    }
    for (agreed, Subscription { subscriber, .. }) in subscriptions.iter().enumerate() {
        let Err(errno) = subscriber.replace(removed, added) else { continue };
        for Subscription { subscriber, .. } in subscriptions[..agreed].iter().rev() {
            if let Err(errno) = subscriber.replace(added, removed) {
                tracing::error!(subscriber = subscriber.name(), %errno, "does not take back what it had");
            }
        }
        return Err(MapError::ReplaceRefused { by: subscriber.name(), errno });
    }
    Ok(())
}

fn vote_on_maps(subscriptions: &[Subscription], regions: &[Region]) -> Result<(), MapError> {
    for (done, region) in regions.iter().enumerate() {
        for (agreed, Subscription { subscriber, .. }) in subscriptions.iter().enumerate() {
            let Err(errno) = subscriber.map(region) else { continue };
            for other in subscriptions[..agreed].iter().rev() {
                other.subscriber.unmap(region.iova, region.len);
            }
            for earlier in regions[..done].iter().rev() {
                for other in subscriptions.iter().rev() {
                    other.subscriber.unmap(earlier.iova, earlier.len);
                }
            }
            return Err(MapError::Refused { by: subscriber.name(), iova: region.iova, errno });
        }
    }
    Ok(())
}
