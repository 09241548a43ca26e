//! The table, its changes, and when they are over.

use super::miss::{MissHandler, Misses};
use super::quiesce::{self, Slot};
use super::reader::ReaderSlot;
use super::subscribe::{Subscription, vote};
use super::tree::Tree;
use super::{Limits, MapError, Reader, Region, RegionInfo, Snapshot, StallHandler, Subscriber, SubscriptionGuard};
use crate::dirty::Writers;
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an unmap waits for readers unless [`AddressSpace::set_patience`] says otherwise.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(1);

/// What an unmap removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unmapped {
    /// Bytes in all removed regions; 2^64 - 1 also stands for the whole space.
    pub bytes: u64,
    /// How many regions were removed.
    pub regions: usize,
    /// A reader did not leave in time, so the memory was revoked: what it wrote last may not be in any dirty record.
    pub revoked: bool,
}

/// The memory a device is given: regions by I/O virtual address.
///
/// Changes are made one at a time, under a lock readers never take. When an unmap returns, no device can touch that
/// memory: the regions were unpublished, every reader left them (or had them revoked under it), and every subscriber
/// let go.
pub struct AddressSpace {
    published: ArcSwap<Snapshot>,
    generation: AtomicU64,
    readers: Mutex<Vec<Arc<ReaderSlot>>>,
    limits: Mutex<Limits>,
    writers: Arc<Writers>,
    update: Mutex<Update>,
}

/// What only changes need.
struct Update {
    misses: Option<Arc<Misses>>,
    base: Limits,
    subscriptions: Vec<Subscription>,
    next_subscription: u64,
    /// Old versions that somebody still holds. Kept so that their memory is released here, never on a queue's thread.
    retired: Vec<Arc<Snapshot>>,
    patience: Duration,
}

impl AddressSpace {
    /// An empty space in which what is not mapped is a fault.
    pub fn new(limits: Limits) -> Arc<Self> {
        Self::build(limits, None)
    }

    /// An empty space in which what is not mapped is asked for.
    pub fn with_miss_handler(limits: Limits, handler: Arc<dyn MissHandler>) -> Arc<Self> {
        Self::build(limits, Some(Arc::new(Misses::new(handler))))
    }

    fn build(limits: Limits, misses: Option<Arc<Misses>>) -> Arc<Self> {
        let generation = quiesce::FIRST_GENERATION;
        let first = Snapshot { generation, bank: 0, tree: Tree::default(), slow: 0, misses: misses.clone() };
        Arc::new(Self {
            published: ArcSwap::from_pointee(first),
            generation: AtomicU64::new(generation),
            readers: Mutex::default(),
            limits: Mutex::new(limits),
            writers: Arc::default(),
            update: Mutex::new(Update {
                misses,
                base: limits,
                subscriptions: Vec::new(),
                next_subscription: 0,
                retired: Vec::new(),
                patience: DEFAULT_PATIENCE,
            }),
        })
    }

    /// From now on, what is not mapped is asked for, or with `None` a fault again. Queues that wait look again.
    pub fn set_miss_handler(&self, handler: Option<Arc<dyn MissHandler>>) {
        let mut update = self.update.lock();
        update.misses = handler.map(|handler| Arc::new(Misses::new(handler)));
        self.republish(&mut update);
    }

    /// A new version with the same regions.
    fn republish(&self, update: &mut Update) {
        let current = self.published.load_full();
        let generation = self.publish(update, &current, current.tree.clone(), current.slow, current.bank);
        drop(current);
        update.tell_published(generation);
    }

    /// How long an unmap waits for readers before it revokes the memory under them.
    pub fn set_patience(&self, patience: Duration) {
        self.update.lock().patience = patience;
    }

    /// What can be mapped: the limits of the space and of all subscribers.
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// The devices that write to this memory.
    pub fn writers(&self) -> &Arc<Writers> {
        &self.writers
    }

    /// The number of the version readers find now. It grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether anything is mapped that an access to may take long.
    pub fn has_slow(&self) -> bool {
        self.published.load().has_slow()
    }

    /// Maps one region.
    pub fn map(&self, region: Region) -> Result<(), MapError> {
        self.map_all(vec![region])
    }

    /// Maps all regions at once, or none.
    pub fn map_all(&self, regions: Vec<Region>) -> Result<(), MapError> {
        self.replace(&[], regions).map(drop)
    }

    /// Removes every region that has a byte in `first..=last`, whole: what INVALIDATE does in vhost.
    pub fn unmap(&self, first: u64, last: u64) -> Unmapped {
        self.unmap_ranges(&[(first, last)])
    }

    /// Removes every region that has a byte in one of `ranges`, given in order as first and last address, whole and all
    /// at once.
    pub fn unmap_ranges(&self, ranges: &[(u64, u64)]) -> Unmapped {
        // Nothing is added that could be refused.
        self.replace(ranges, Vec::new()).unwrap_or_default()
    }

    /// Removes the regions in `first..=last`, or fails when the range cuts through one: what UNMAP_DMA does in VFIO's
    /// type 1 v2.
    pub fn unmap_whole(&self, first: u64, last: u64) -> Result<Unmapped, MapError> {
        let mut update = self.update.lock();
        let doomed = self.touching(&[(first, last)]);
        let cut = doomed.iter().find(|region| region.iova < first || region.last() > last);
        if let Some(region) = cut {
            return Err(MapError::Bisected { first, last, iova: region.iova });
        }
        let changed = self.change(&mut update, &doomed, &[])?;
        drop(update);
        Ok(changed.tell_stalled())
    }

    /// Removes every region that has a byte in one of `ranges`, given in order as first and last address, whole, and maps
    /// `regions`, in one step: a reader finds everything as it was or everything as it will be, and an address that is
    /// mapped before and after is mapped all the time. When a region is refused, nothing has changed.
    pub fn replace(&self, ranges: &[(u64, u64)], regions: Vec<Region>) -> Result<Unmapped, MapError> {
        let mut update = self.update.lock();
        let doomed = self.touching(ranges);
        let asked = update.misses.as_ref().is_some_and(|misses| {
            ranges.iter().fold(false, |asked, &(first, last)| misses.forget(first, last) || asked)
        });
        let changed = self.change(&mut update, &doomed, &regions);
        if asked && (changed.is_err() || (doomed.is_empty() && regions.is_empty())) {
            // Whoever waits looks again, and asks again.
            self.republish(&mut update);
        }
        drop(update);
        Ok(changed?.tell_stalled())
    }

    /// Removes everything.
    pub fn unmap_all(&self) -> Unmapped {
        self.unmap(0, u64::MAX)
    }

    /// What is mapped, in the order of addresses.
    pub fn regions(&self) -> Vec<RegionInfo> {
        self.regions_in(0, u64::MAX)
    }

    /// The highest address that is mapped.
    pub fn highest(&self) -> Option<u64> {
        self.published.load().tree.last().map(Region::last)
    }

    /// What has any byte in `first..=last`, in the order of addresses.
    pub fn regions_in(&self, first: u64, last: u64) -> Vec<RegionInfo> {
        self.published.load().tree.touching(first, last).map(Region::info).collect()
    }

    /// The regions with any byte in `first..=last`, with their memory, for whoever fills another space with it.
    pub fn memory_in(&self, first: u64, last: u64) -> Vec<Region> {
        self.touching(&[(first, last)])
    }

    /// The region that contains `iova`.
    pub fn covering(&self, iova: u64) -> Option<RegionInfo> {
        self.published.load().tree.find(iova).map(Region::info)
    }

    /// Lets `subscriber` take part from now on: it gets everything that is mapped, then every change.
    ///
    /// When something mapped is outside its limits or it refuses a region, what it already took is undone and it does
    /// not take part.
    pub fn subscribe(self: &Arc<Self>, subscriber: Arc<dyn Subscriber>) -> Result<SubscriptionGuard, MapError> {
        let mut update = self.update.lock();
        let own = subscriber.limits();
        let joint = self.limits().intersect(own);
        let current = self.published.load_full();
        if current.len() > joint.max_entries {
            return Err(MapError::Full { max: joint.max_entries });
        }
        for region in current.regions() {
            joint.check_alignment(region)?;
            joint.check_range(region)?;
        }
        for (done, region) in current.regions().enumerate() {
            if let Err(errno) = subscriber.map(region) {
                for region in current.regions().take(done) {
                    subscriber.unmap(region.iova, region.len);
                }
                return Err(MapError::Refused { by: subscriber.name(), iova: region.iova, errno });
            }
        }
        let id = update.next_subscription;
        update.next_subscription += 1;
        update.subscriptions.push(Subscription { id, limits: own, subscriber });
        *self.limits.lock() = joint;
        Ok(SubscriptionGuard { space: Arc::clone(self), id })
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        let mut update = self.update.lock();
        let Some(at) = update.subscriptions.iter().position(|subscription| subscription.id == id) else { return };
        let leaving = update.subscriptions.remove(at);
        *self.limits.lock() =
            update.subscriptions.iter().fold(update.base, |limits, other| limits.intersect(other.limits));
        let current = self.published.load_full();
        for region in current.regions() {
            leaving.subscriber.unmap(region.iova, region.len);
        }
    }

    /// Access for one queue thread. `name` says who it is when it stalls, and `on_stall` is told.
    pub fn reader(self: &Arc<Self>, name: impl Into<String>, on_stall: Arc<dyn StallHandler>) -> Reader {
        let slot = Arc::new(ReaderSlot {
            name: name.into(),
            slot: Slot::new(),
            on_stall,
            stalled: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        });
        self.readers.lock().push(Arc::clone(&slot));
        Reader { space: Arc::clone(self), slot }
    }

    #[inline]
    pub(super) fn published(&self) -> Guard<Arc<Snapshot>> {
        self.published.load()
    }

    /// Readers that ended count until their last lease does.
    pub(super) fn forget_gone_readers(&self) {
        self.readers.lock().retain(|reader| !reader.gone.load(Ordering::Acquire) || !reader.slot.has_no_leases());
    }

    fn publish(&self, update: &mut Update, current: &Snapshot, tree: Tree, slow: usize, bank: usize) -> u64 {
        let generation = current.generation + 1;
        let next = Snapshot { generation, bank, tree, slow, misses: update.misses.clone() };
        let old = self.published.swap(Arc::new(next));
        self.generation.store(generation, Ordering::Release);
        update.retired.push(old);
        update.release_retired();
        generation
    }

    /// The regions with a byte in one of `ranges`.
    fn touching(&self, ranges: &[(u64, u64)]) -> Vec<Region> {
        let current = self.published.load();
        let touching = ranges.iter().flat_map(|&(first, last)| current.tree.touching(first, last));
        let mut regions: Vec<Region> = touching.cloned().collect();
        regions.dedup_by_key(|region| region.iova);
        regions
    }

    /// Votes, publishes, and waits until what was removed is out of use.
    fn change(&self, update: &mut Update, removed: &[Region], added: &[Region]) -> Result<Changed, MapError> {
        if removed.is_empty() && added.is_empty() {
            return Ok(Changed::default());
        }
        let current = self.published.load_full();
        let mut tree = current.tree.clone();
        removed.iter().for_each(|region| tree.remove(region.iova));
        let limits = self.limits();
        for region in added {
            limits.check(region, &tree)?;
            tree.insert(region.clone());
        }
        vote(&update.subscriptions, removed, added)?;
        let old_bank = current.bank;
        let bank = if removed.is_empty() { old_bank } else { 1 - old_bank };
        if let Some(misses) = &update.misses {
            // Before: whoever finds the new version and misses something in it is not taken for one who was told of.
            added.iter().for_each(|region| misses.answered(region.iova, region.last(), current.generation + 1));
        }
        let slow = |regions: &[Region]| regions.iter().filter(|region| region.is_slow()).count();
        let slow = current.slow - slow(removed) + slow(added);
        let generation = self.publish(update, &current, tree, slow, bank);
        drop(current);
        let mut changed = Changed::default();
        if !removed.is_empty() {
            changed = self.let_go(update.patience, generation, old_bank, removed);
            if added.is_empty() {
                update.tell_unmapped(removed);
            }
            if !changed.newly_stalled.is_empty() {
                update.subscriptions.iter().for_each(|subscription| subscription.subscriber.stalled());
            }
            update.release_retired();
        }
        update.tell_published(generation);
        Ok(changed)
    }

    /// Ends the use of what was removed by version `generation`.
    fn let_go(&self, patience: Duration, generation: u64, old_bank: usize, removed: &[Region]) -> Changed {
        let Quiesced { newly_stalled, all_left } = self.quiesce(generation, old_bank, patience);
        if !all_left {
            removed.iter().for_each(Region::revoke);
        }
        let bytes = removed.iter().fold(0u64, |sum, region| sum.saturating_add(region.len));
        Changed { unmapped: Unmapped { bytes, regions: removed.len(), revoked: !all_left }, newly_stalled }
    }

    /// Waits until no reader uses a version older than `generation`.
    fn quiesce(&self, generation: u64, old_bank: usize, patience: Duration) -> Quiesced {
        quiesce::published();
        self.forget_gone_readers();
        let mut waiting: Vec<Arc<ReaderSlot>> = self.readers.lock().clone();
        let begun = Instant::now();
        let mut rounds = 0u32;
        loop {
            waiting.retain(|reader| {
                let behind = reader.slot.is_behind(generation, old_bank);
                if !behind {
                    reader.stalled.store(false, Ordering::Relaxed);
                }
                behind
            });
            let all_stalled = waiting.iter().all(|reader| reader.stalled.load(Ordering::Relaxed));
            if all_stalled || begun.elapsed() >= patience {
                break;
            }
            // A burst takes microseconds; one that does not is not worth a busy processor.
            match rounds {
                0..64 => std::hint::spin_loop(),
                64..128 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(100)),
            }
            rounds = rounds.saturating_add(1);
        }
        let all_left = waiting.is_empty();
        waiting.retain(|reader| !reader.stalled.swap(true, Ordering::Relaxed));
        Quiesced { newly_stalled: waiting, all_left }
    }
}

struct Quiesced {
    newly_stalled: Vec<Arc<ReaderSlot>>,
    all_left: bool,
}

impl Update {
    /// Lets go of old versions nobody else holds. Nobody can begin to hold one: they are not published.
    fn release_retired(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    fn tell_unmapped(&self, regions: &[Region]) {
        for Subscription { subscriber, .. } in &self.subscriptions {
            regions.iter().for_each(|region| subscriber.unmap(region.iova, region.len));
        }
    }

    fn tell_published(&self, generation: u64) {
        for Subscription { subscriber, .. } in &self.subscriptions {
            subscriber.published(generation);
        }
    }
}

/// What came of a change.
#[derive(Default)]
struct Changed {
    unmapped: Unmapped,
    newly_stalled: Vec<Arc<ReaderSlot>>,
}

impl Changed {
    /// To be called with no lock held.
    fn tell_stalled(self) -> Unmapped {
        for reader in self.newly_stalled {
            tracing::warn!(reader = reader.name, "did not leave unmapped memory in time; the memory was revoked");
            reader.on_stall.stalled(&reader.name);
        }
        self.unmapped
    }
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.published.load();
        f.debug_struct("AddressSpace")
            .field("generation", &snapshot.generation)
            .field("regions", &snapshot.len())
            .finish_non_exhaustive()
    }
}
