//! A running queue.

use crate::area::Areas;
use crate::error::{Cause, Halt, Part, RingError};
use crate::health::Health;
use crate::io::Io;
use crate::moderation::{Held, Moderation};
use crate::ring::Ring;
use crate::waiting;
use crate::waker::Waker;
use std::fmt;
use std::sync::Arc;
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::{AccessError, AddressSpace, Burst, Reader, Snapshot, StallHandler, SubscriptionGuard, View};
use virtio_mdev_api::doorbell::Doorbell;
use virtio_mdev_api::notify::{CallSlot, EventFd};
use virtio_mdev_api::{QueueStart, QueueState};

/// A running queue: its place on the ring, and the memory that ring and buffers are in.
pub struct Queue {
    ring: Ring,
    reader: Reader,
    /// Access to the memory of the ring, when it is not that of the buffers.
    ring_reader: Option<Reader>,
    health: Arc<Health>,
    kick: Option<EventFd>,
    doorbell: Option<Doorbell>,
    call: Arc<CallSlot>,
    err: Arc<CallSlot>,
    dirty: Arc<DirtyRecord>,
    waker: Arc<Waker>,
    /// Waits for versions of the tables of mappings, of buffers and of the ring, other than these.
    parked: Option<(u64, u64)>,
    /// The ring was mapped once, so that its absence now is the client's way to take it away.
    was_mapped: bool,
    told_slow: bool,
    /// The driver wants to be told of what was published.
    interrupt: bool,
    /// Interrupts that wait for each other.
    held: Option<Held>,
    _subscriptions: [Option<SubscriptionGuard>; 2],
}

impl Queue {
    /// Takes up queue `index`. Nothing of the ring is read before the first burst. `waker` is woken when a queue that
    /// waits for memory can go on.
    pub fn start(
        index: u16,
        start: QueueStart,
        max_size: u16,
        health: Arc<Health>,
        waker: Arc<Waker>,
    ) -> Result<Self, RingError> {
        let elsewhere = !Arc::ptr_eq(&start.space, &start.ring_space);
        let ring = Ring::new(index, &start.config, max_size, start.state, start.features, elsewhere)?;
        let ring_space = elsewhere.then_some(start.ring_space);
        let name = format!("queue {index} of {}", health.link().name());
        let read = |space: &Arc<AddressSpace>| space.reader(name.clone(), Arc::clone(&health) as Arc<dyn StallHandler>);
        // A waker refuses nothing, and what is mapped is within limits that are none.
        let follow = |space: &Arc<AddressSpace>| space.subscribe(Arc::clone(&waker) as Arc<_>).ok();
        let (reader, ring_reader) = (read(&start.space), ring_space.as_ref().map(read));
        let subscriptions = [follow(&start.space), ring_space.as_ref().and_then(follow)];
        Ok(Self {
            ring,
            reader,
            ring_reader,
            health,
            kick: start.kick,
            doorbell: start.doorbell,
            call: start.call,
            err: start.err,
            dirty: start.dirty,
            waker,
            parked: None,
            was_mapped: false,
            told_slow: false,
            interrupt: false,
            held: None,
            _subscriptions: subscriptions,
        })
    }

    /// From now on its interrupts wait for each other, as long as is said there.
    pub fn moderate(&mut self, moderation: Arc<Moderation>) {
        self.held = Some(Held::new(moderation));
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.ring.index
    }

    /// Where it stands: what it took and did not give back is not counted.
    pub fn state(&self) -> QueueState {
        self.ring.state()
    }

    /// What the driver kicked when the queue started.
    pub fn kick(&self) -> Option<&EventFd> {
        self.kick.as_ref()
    }

    /// What the driver rings, where it does so by a store. A device that needs a reset is rung in vain.
    pub(crate) fn doorbell(&self) -> Option<&Doorbell> {
        self.doorbell.as_ref().filter(|_| !self.health.is_stopped())
    }

    /// Whether its memory is such that an access may take long.
    pub fn is_slow(&self) -> bool {
        let slow = |reader: &Reader| reader.space().has_slow();
        slow(&self.reader) || self.ring_reader.as_ref().is_some_and(slow)
    }

    /// Whether the queue waits for memory that has not come.
    pub fn is_parked(&self) -> bool {
        self.parked.is_some_and(|parked| parked == self.generations())
    }

    /// The versions of the tables of mappings that a burst would see.
    fn generations(&self) -> (u64, u64) {
        let now = |reader: &Reader| reader.space().generation();
        (now(&self.reader), self.ring_reader.as_ref().map_or(0, now))
    }

    /// Whether it waited for memory and the table has changed since; where it has not, the waker wakes when it does. To be
    /// called before every sleep: what woke the last one may have been the change that the queue has already seen.
    ///
    /// Before a reset of the device a change is no reason to look again: nothing would come of it.
    pub fn resume(&mut self) -> bool {
        if self.parked.is_none() || self.health.is_stopped() {
            return false;
        }
        self.waker.arm();
        let changed = !self.is_parked();
        if changed {
            self.parked = None;
        }
        changed
    }

    /// Works on the queue while nothing that is mapped goes away. `work` must not make a system call that blocks.
    /// A thread that serves others too does not work on memory that may keep it waiting: nothing is done then, and who
    /// serves the queue is given a thread of its own.
    ///
    /// What `work` committed is published when it returns, also when it returns a halt; the driver is told of it by
    /// [`interrupt`](Self::interrupt), which has to follow. A halt of this queue is dealt with here; one of another
    /// queue, met in nested bursts, passes through.
    pub fn burst<R>(&mut self, work: impl FnOnce(&mut Io<'_>) -> Result<R, Halt>) -> Result<R, Halt> {
        let index = self.ring.index;
        let halt = |cause| Halt { queue: index, cause };
        if self.health.is_stopped() || self.is_parked() {
            return Err(halt(Cause::Idle));
        }
        self.parked = None;
        let burst = self.reader.enter();
        let ring_burst = self.ring_reader.as_mut().map(Reader::enter);
        let slow = |burst: &Burst<'_>| burst.snapshot().has_slow();
        if (slow(&burst) || ring_burst.as_ref().is_some_and(slow)) && !waiting::may_wait() {
            return Err(halt(Cause::Idle));
        }
        let generations = (burst.generation(), ring_burst.as_ref().map_or(0, Burst::generation));
        let ring_memory = ring_burst.as_ref().map_or_else(|| burst.view(), Burst::view);
        let (result, published) = match prepare(&mut self.ring, ring_memory, self.was_mapped) {
            Err(cause) => (Err(halt(cause)), Ok(false)),
            Ok(areas) => {
                self.was_mapped = true;
                if areas.is_slow() && !std::mem::replace(&mut self.told_slow, true) {
                    warn_slow(&self.health, index);
                }
                let mut io = Io::new(&mut self.ring, areas, burst.view(), &self.dirty);
                let result = work(&mut io);
                (result, io.publish())
            }
        };
        drop((burst, ring_burst));
        self.interrupt |= published == Ok(true);
        for halt in [result.as_ref().err(), published.as_ref().err()].into_iter().flatten() {
            if halt.queue == index {
                self.take_note(&halt.cause, generations);
            }
        }
        published.and(result)
    }

    /// Tells the driver of what was published since, if it wants to be told, and now. Not to be called within a burst: the
    /// notifier is the client's, and it may make its writer block for a while.
    pub fn interrupt(&mut self) {
        self.flush();
        let due = match &mut self.held {
            None => self.interrupt,
            Some(held) => held.is_due(self.interrupt, self.ring.used),
        };
        if due {
            self.signal();
        }
    }

    /// The same, whatever it was to wait for: nobody will work on the queue any more.
    pub(crate) fn release(&mut self) {
        if self.interrupt {
            self.signal();
        }
    }

    fn flush(&self) {
        if let Err(error) = self.dirty.flush() {
            self.health.fault(Some(self.ring.index), &error.to_string());
        }
    }

    fn signal(&mut self) {
        self.interrupt = false;
        if let Err(errno) = self.call.signal() {
            self.health.ring_fault(self.ring.index, &RingError::Call(errno));
        }
    }

    #[cold]
    fn take_note(&mut self, cause: &Cause, generations: (u64, u64)) {
        self.ring.rewind();
        match cause {
            Cause::Pending => self.parked = Some(generations),
            // The burst saw mappings as they were when it began; a driver may since have made one, and used it.
            Cause::Fault(RingError::Access { error: AccessError::Fault { .. }, .. })
                if self.generations() != generations => {}
            Cause::Fault(error) => {
                self.health.ring_fault(self.ring.index, error);
                if let Err(errno) = self.err.signal() {
                    tracing::debug!(%errno, "error notifier");
                }
            }
            Cause::Idle => {}
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("index", &self.ring.index)
            .field("state", &self.ring.state())
            .field("parked", &self.parked)
            .finish_non_exhaustive()
    }
}

/// Finds the areas of the ring, and reads what is read once.
fn prepare<'a>(ring: &mut Ring, memory: View<'a>, was_mapped: bool) -> Result<Areas<'a>, Cause> {
    let table = memory.snapshot();
    let areas = ring.find(memory).map_err(|(part, error)| missing(table, part, error, was_mapped))?;
    ring.prepare(&areas)?;
    Ok(areas)
}

/// A client that unmaps a ring in use (QEMU does, before it resets the device) does nothing wrong: the queue waits for
/// it to come back. A ring that never was there, or whose memory was taken away behind its mapping, is a fault.
#[cold]
fn missing(table: &Snapshot, part: Part, error: AccessError, was_mapped: bool) -> Cause {
    if let AccessError::Fault { iova, .. } = error
        && was_mapped
        && table.find(iova).is_none()
    {
        return Cause::Pending;
    }
    Cause::access(part, error)
}

#[cold]
fn warn_slow(health: &Health, queue: u16) {
    tracing::warn!(
        instance = health.link().name(),
        queue,
        "the ring is in private memory of the client or in several mappings: every access is a system call (share=on is missing?)"
    );
}
