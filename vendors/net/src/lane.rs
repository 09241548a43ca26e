//! The way to a driver: the receive queue of a pair, which more than its own pair may deliver to.

use crate::config::{LinkState, NetConfig};
use crate::features::VIRTIO_NET_F_MRG_RXBUF;
use crate::receiver::{Receiver, Short};
use crate::stats::{CardStatistics, Statistics};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use virtqueue::{Halt, Io, Next, Queue, Slot, Waker};

/// The receive queue of a pair, behind a lock of its own. It is the innermost one: who holds a lane takes no other lock of
/// a device, and no other lane.
#[derive(Debug)]
pub struct Lane {
    slot: Arc<Slot>,
    /// In effect.
    features: AtomicU64,
    link: Arc<LinkState>,
    card: Arc<CardStatistics>,
    number: u16,
    /// Of a driver that chooses among the frames it is given.
    chooser: Option<Arc<NetConfig>>,
    /// Whether somebody sleeps until there are buffers. Changed by those who have the slot.
    awaited: AtomicBool,
    /// Those of other pairs.
    waiting: Mutex<Vec<(Short, Arc<Waker>)>>,
}

impl Lane {
    /// Of pair `number`.
    pub(crate) fn new(
        number: u16,
        link: Arc<LinkState>,
        card: Arc<CardStatistics>,
        chooser: Option<Arc<NetConfig>>,
    ) -> Self {
        Self {
            slot: Slot::new(),
            features: AtomicU64::new(0),
            link,
            card,
            number,
            chooser,
            awaited: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// The queue is about to start; `features` are in effect.
    pub(crate) fn start(&self, features: u64) {
        self.features.store(features, Ordering::Relaxed);
    }

    /// Counters of the pair. Those of what it receives are changed by whoever has the lane.
    pub fn statistics(&self) -> &Statistics {
        self.card.pair(self.number)
    }

    /// Gives the driver frames, in one burst of its queue. An error is `work`'s, or has been taken note of: who delivers for
    /// another device drops its frame.
    ///
    /// `work` must not block, and takes no other lane. Where the queue does not run, or waits for memory, no frame finds a
    /// buffer.
    pub fn deliver<R>(&self, work: impl FnOnce(&mut Receiver<'_, '_>) -> Result<R, Halt>) -> Result<R, Halt> {
        self.slot.work(|queue| match queue.filter(awake) {
            None => work(&mut self.receiver(None)),
            Some(queue) => queue.burst(|io| {
                let mut driver = self.receiver(Some(&mut *io));
                let result = work(&mut driver);
                let short = driver.short();
                // Where buffers are waited for the driver is asked for a notification; otherwise it is a waste.
                if short.is_none() && !self.awaited.load(Ordering::Relaxed) {
                    io.disable_notifications()?;
                }
                result
            }),
        })
    }

    fn receiver<'q, 'b>(&'q self, io: Option<&'q mut Io<'b>>) -> Receiver<'q, 'b> {
        let merge = self.features.load(Ordering::Relaxed) & VIRTIO_NET_F_MRG_RXBUF != 0;
        Receiver::new(io, merge, &self.link, &self.statistics().rx, self.chooser.as_deref())
    }

    /// A driver that has no buffers, for a port that does not use them.
    pub(crate) fn nobody(&self) -> Receiver<'_, '_> {
        self.receiver(None)
    }

    /// Who found too few buffers is about to sleep: asks the driver to tell of the next one. A pair that is not the lane's own
    /// has its waker woken then.
    pub(crate) fn rest(&self, short: Short, other: Option<&Arc<Waker>>) -> Next {
        self.slot.work(|queue| {
            if let Some(waker) = other {
                let mut waiting = self.waiting.lock();
                waiting.retain(|(_, known)| !Arc::ptr_eq(known, waker));
                waiting.push((short, Arc::clone(waker)));
            }
            self.awaited.store(true, Ordering::Relaxed);
            match queue.filter(awake).map(|queue| queue.burst(|io| self.has_more(io, short))) {
                // A halt has been taken note of.
                Some(Ok(true) | Err(_)) => Next::Again,
                Some(Ok(false)) | None => Next::Wait,
            }
        })
    }

    /// Wakes those who wait for buffers and may find them now. To be called by the lane's own pair whenever it is served.
    pub(crate) fn tend(&self) {
        if !self.awaited.load(Ordering::Relaxed) {
            return;
        }
        let woken = self.slot.work(|queue| {
            let mut waiting = self.waiting.lock();
            self.awaited.store(!waiting.is_empty(), Ordering::Relaxed);
            let Some(queue) = queue.filter(awake) else { return Vec::new() };
            let woken = waiting.extract_if(.., |(short, _)| queue.burst(|io| self.has_more(io, *short)) == Ok(true));
            let woken: Vec<_> = woken.collect();
            self.awaited.store(!waiting.is_empty(), Ordering::Relaxed);
            woken
        });
        woken.iter().for_each(|(_, waker)| waker.wake());
    }

    /// Whether there are other buffers than those that were too few; if not, the driver tells of the next one.
    ///
    /// The notification is asked for at the end of those buffers: they are in the ring all the time.
    fn has_more(&self, io: &mut Io<'_>, short: Short) -> Result<bool, Halt> {
        if self.statistics().rx.packets.get() != short.delivered {
            return Ok(true);
        }
        for _ in 0..short.chains {
            if io.take()?.is_none() {
                break;
            }
        }
        io.enable_notifications()
    }
}

fn awake(queue: &&mut Queue) -> bool {
    !queue.is_parked()
}

/// The lanes of a device, for those who have frames for its driver.
#[derive(Debug, Clone)]
pub struct Lanes {
    lanes: Arc<[Lane]>,
    config: Arc<NetConfig>,
}

impl Lanes {
    pub(crate) fn new(lanes: Vec<Lane>, config: Arc<NetConfig>) -> Self {
        Self { lanes: lanes.into(), config }
    }

    /// The lane of a pair.
    pub(crate) fn of(&self, pair: u16) -> &Lane {
        &self.lanes[usize::from(pair)]
    }

    /// Those that the driver takes frames from, in the order of their pairs; one at least.
    pub fn enabled(&self) -> &[Lane] {
        &self.lanes[..usize::from(self.config.enabled()).min(self.lanes.len())]
    }
}
