//! A queue pair and its port.

use crate::config::{LinkState, NetConfig};
use crate::features::COALESCING;
use crate::header::{HEADER, is_plain};
use crate::lane::{Lane, Lanes};
use crate::outgoing::Outgoing;
use crate::port::Port;
use crate::receiver::Short;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use virtio_mdev_api::Refusal;
use virtqueue::{Health, Interest, Moderation, Next, Queue, Service, Slot, Waker};

/// The longest frame there is: a segmented one (virtio 1.3 §5.1.6.3.1).
pub const MAX_FRAME: usize = 65_550;
/// How often a burst of frames from outside goes on in the lane of another pair.
const TURNS: usize = 64;

/// What a device has once, for all its pairs.
#[derive(Clone)]
pub struct Shared {
    pub config: Arc<NetConfig>,
    pub health: Arc<Health>,
    pub link: Arc<LinkState>,
    pub lanes: Lanes,
}

/// The frames of one port, both ways. What comes in at a port whose pair is not enabled goes to the lane of one that is.
pub struct Pair<P> {
    shared: Shared,
    number: u16,
    port: P,
    tx: Arc<Slot>,
    waker: Arc<Waker>,
    /// In effect.
    features: u64,
    /// The next frame of the driver waits for the port.
    busy: bool,
    /// A frame for the driver waits for buffers of a pair.
    short: Option<(u16, Short)>,
    /// Room for one frame.
    frame: Box<[u8]>,
}

impl<P: Port> Pair<P> {
    /// Pair `number` of a device. `waker` is what wakes who serves it.
    pub fn new(shared: Shared, number: u16, port: P, waker: Arc<Waker>) -> Self {
        let frame = vec![0; HEADER + MAX_FRAME].into_boxed_slice();
        Self { shared, number, port, tx: Slot::new(), waker, features: 0, busy: false, short: None, frame }
    }

    /// The queues of the device are about to start; `features` are in effect.
    pub fn start(&mut self, features: u64) -> Result<(), Refusal> {
        self.features = features;
        if features & COALESCING != 0 {
            let prepared = self.moderations().iter().try_for_each(|moderation| moderation.prepare());
            prepared.map_err(|errno| Refusal::new(errno, "there is no timer for interrupts"))?;
        }
        self.own_lane().start(features);
        self.port.start(features)
    }

    /// Whether there is something to do without queues of its own: frames from elsewhere.
    pub fn has_back_end(&self) -> bool {
        self.port.fd().is_some()
    }

    /// Of receive and transmit queue.
    fn moderations(&self) -> &[Arc<Moderation>] {
        let first = 2 * usize::from(self.number);
        &self.shared.config.moderations()[first..first + 2]
    }

    fn own_lane(&self) -> &Lane {
        self.shared.lanes.of(self.number)
    }

    /// Which pair receives what comes in here.
    fn receiver(&self) -> u16 {
        self.number % self.shared.config.enabled()
    }

    fn receive(&mut self) -> Next {
        if !self.port.may_receive() {
            return Next::Wait;
        }
        let mut receiver = self.receiver();
        let statistics = self.shared.lanes.of(self.number).statistics();
        let (port, short) = (&mut self.port, &mut self.short);
        // A turn ends at the first frame for another pair, which the port keeps for the next turn.
        for _ in 0..TURNS {
            let mut elsewhere = None;
            let received = self.shared.lanes.of(receiver).deliver(|driver| {
                driver.spread(receiver);
                let received = port.receive(driver, statistics);
                *short = driver.short().map(|short| (receiver, short));
                elsewhere = driver.elsewhere();
                received
            });
            match elsewhere {
                Some(pair) => receiver = pair,
                // A halt has been taken note of: the device is stopped, or one queue waits and the others may go on.
                None => return received.unwrap_or(Next::Again),
            }
        }
        Next::Again
    }

    fn transmit(&mut self) -> Next {
        let receiver = self.receiver();
        let Self { shared, number, port, tx, features, busy, short, frame, .. } = self;
        let own = shared.lanes.of(*number);
        *busy = false;
        let statistics = own.statistics();
        let sent = tx.work(|queue| {
            let Some(queue) = queue.filter(|queue| !queue.is_parked()) else { return Ok(Next::Wait) };
            queue.burst(|tx| {
                let plain = !P::CARRIES && is_plain(*features);
                let mut frames = Outgoing::new(tx, shared, statistics, *features, plain, frame);
                if !P::RETURNS {
                    port.transmit(&mut frames, &mut own.nobody(), statistics)?;
                } else {
                    shared.lanes.of(receiver).deliver(|driver| {
                        let sent = port.transmit(&mut frames, driver, statistics);
                        *short = driver.short().map(|short| (receiver, short));
                        sent
                    })?;
                }
                *busy = frames.is_busy();
                Ok(frames.progress())
            })
        });
        sent.unwrap_or(Next::Again)
    }
}

impl<P: Port> Service for Pair<P> {
    /// Receive queue, transmit queue.
    fn slots(&self) -> Vec<Arc<Slot>> {
        vec![Arc::clone(self.own_lane().slot()), Arc::clone(&self.tx)]
    }

    fn serve(&mut self) -> Next {
        if self.shared.health.is_stopped() {
            return Next::Wait;
        }
        self.own_lane().tend();
        self.short = None;
        let (received, sent) = (self.receive(), self.transmit());
        if received == Next::Again || sent == Next::Again { Next::Again } else { Next::Wait }
    }

    fn rest(&mut self) -> Next {
        if self.shared.health.is_stopped() {
            return Next::Wait;
        }
        let more = self.short.map_or(Next::Wait, |(receiver, short)| {
            let other = (receiver != self.number).then_some(&self.waker);
            self.shared.lanes.of(receiver).rest(short, other)
        });
        if more == Next::Again || self.busy {
            return more;
        }
        let ask = |queue: &mut Queue| queue.burst(|tx| tx.enable_notifications());
        let asked = self.tx.work(|queue| queue.filter(|queue| !queue.is_parked()).map(ask));
        // A halt has been taken note of; what else there is to do is seen when it is served again.
        if matches!(asked, Some(Ok(true) | Err(_))) { Next::Again } else { Next::Wait }
    }

    fn is_slow(&self) -> bool {
        let lanes = [self.number, self.receiver()].map(|pair| self.shared.lanes.of(pair).slot());
        self.tx.is_slow() || lanes.into_iter().any(|slot| slot.is_slow())
    }

    fn backends(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        let timers = self.moderations().iter().filter_map(|moderation| moderation.timer());
        let port = self.port.fd().map(|fd| (fd, self.port.interest()));
        port.into_iter().chain(timers.map(|timer| (timer, Interest::Input))).collect()
    }

    fn backend_ready(&mut self, number: usize) {
        match number.checked_sub(usize::from(self.port.fd().is_some())) {
            None => self.port.ready(),
            // Interrupts that are due are signalled when their queue has been worked on.
            Some(timer) => {
                let slot = if timer == 0 { self.own_lane().slot() } else { &self.tx };
                self.moderations()[timer].expired();
                slot.work(|_| ());
            }
        }
    }
}
