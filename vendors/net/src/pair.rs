//! A queue pair and its port.

use crate::config::{LinkState, NetConfig};
use crate::header::{ETHERNET, HEADER, is_segmented};
use crate::lane::{Lane, Lanes};
use crate::port::{Port, Sent};
use crate::receiver::{Receiver, Short};
use crate::stats::Statistics;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use virtio_mdev_api::Refusal;
use virtqueue::{Chain, Halt, Health, Interest, Io, Next, Queue, Service, Slot, Waker};

/// The longest frame there is: a segmented one (virtio 1.3 §5.1.6.3.1).
pub const MAX_FRAME: usize = 65_550;
/// Chains of one burst: enough to share the cost of a burst, few enough not to keep an unmap waiting.
const BURST: usize = 64;
/// Ethernet header and two VLAN tags.
const OVERHEAD: usize = ETHERNET + 8;

/// What becomes of a chain.
enum Outcome {
    /// It is done with.
    Done,
    /// It has to wait.
    Wait,
}

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
    /// A frame for the driver waits for buffers.
    short: Option<Short>,
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
        self.own_lane().start(features);
        self.port.start(features)
    }

    /// Whether there is something to do without queues of its own: frames from elsewhere.
    pub fn has_back_end(&self) -> bool {
        self.port.fd().is_some()
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
        let lane = self.shared.lanes.of(self.receiver());
        let statistics = self.shared.lanes.of(self.number).statistics();
        let (port, short) = (&mut self.port, &mut self.short);
        let received = lane.deliver(|driver| {
            let received = port.receive(driver, statistics);
            *short = driver.short();
            received
        });
        // A halt has been taken note of: the device is stopped, or one queue waits and the others may go on.
        received.unwrap_or(Next::Again)
    }

    fn transmit(&mut self) -> Next {
        let receiver = self.receiver();
        let Self { shared, number, port, tx, features, busy, short, frame, .. } = self;
        let own = shared.lanes.of(*number);
        *busy = false;
        let mut sender = Sender { shared, statistics: own.statistics(), features: *features, port, busy, frame };
        let sent = tx.work(|queue| {
            let Some(queue) = queue.filter(|queue| !queue.is_parked()) else { return Ok(Next::Wait) };
            queue.burst(|tx| {
                if !P::RETURNS {
                    return sender.send(tx, &mut own.nobody());
                }
                shared.lanes.of(receiver).deliver(|driver| {
                    let sent = sender.send(tx, driver);
                    *short = driver.short();
                    sent
                })
            })
        });
        sent.unwrap_or(Next::Again)
    }
}

/// The way of frames from the driver to a port.
struct Sender<'s, P> {
    shared: &'s Shared,
    statistics: &'s Statistics,
    features: u64,
    port: &'s mut P,
    busy: &'s mut bool,
    frame: &'s mut [u8],
}

impl<P: Port> Sender<'_, P> {
    /// Passes on what there is, at most about a burst of it.
    fn send(&mut self, tx: &mut Io<'_>, driver: &mut Receiver<'_, '_>) -> Result<Next, Halt> {
        let mut next = Next::Wait;
        for _ in 0..BURST {
            let Some(chain) = tx.take()? else { break };
            tx.disable_notifications()?;
            match self.take(tx, &chain, driver)? {
                Outcome::Done => {
                    tx.complete(&chain, 0);
                    tx.commit();
                    next = Next::Again;
                }
                Outcome::Wait => {
                    tx.rewind();
                    *self.busy = true;
                    break;
                }
            }
        }
        Ok(next)
    }

    fn take(&mut self, tx: &Io<'_>, chain: &Chain, driver: &mut Receiver<'_, '_>) -> Result<Outcome, Halt> {
        if chain.writable > 0 {
            return Err(tx.refuse(chain, "writable buffer in the transmit queue"));
        }
        if chain.readable < HEADER as u64 {
            return Err(tx.refuse(chain, "chain shorter than the virtio-net header"));
        }
        let statistics = self.statistics;
        let len = usize::try_from(chain.readable).unwrap_or(usize::MAX);
        if len > self.frame.len() {
            statistics.tx.too_long.add(1);
            return Ok(Outcome::Done);
        }
        let read = tx.read(chain, 0, &mut self.frame[..len])?;
        let frame = &mut self.frame[..read];
        let Some(header) = frame.first_chunk::<HEADER>() else { return Ok(Outcome::Done) };
        let payload = frame.len() - HEADER;
        let dropped = if payload < ETHERNET {
            Some(&statistics.tx.too_short)
        } else if !self.port.accepts(header, payload, self.features) {
            Some(&statistics.tx.bad_header)
        } else if !is_segmented(header) && payload > usize::from(self.shared.config.mtu()) + OVERHEAD {
            Some(&statistics.tx.too_long)
        } else if !self.shared.link.is_up() {
            Some(&statistics.tx.link_down)
        } else {
            None
        };
        if let Some(reason) = dropped {
            reason.add(1);
            return Ok(Outcome::Done);
        }
        match self.port.send(frame, driver, statistics)? {
            Sent::Taken => {
                statistics.tx.packets.add(1);
                statistics.tx.bytes.add(payload as u64);
                Ok(Outcome::Done)
            }
            Sent::Dropped => Ok(Outcome::Done),
            Sent::Busy => Ok(Outcome::Wait),
        }
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
        let receiver = self.receiver();
        let lane = self.shared.lanes.of(receiver);
        let other = (receiver != self.number).then_some(&self.waker);
        let more = self.short.map_or(Next::Wait, |short| lane.rest(short, other));
        if more == Next::Again || self.busy {
            return more;
        }
        let ask = |queue: &mut Queue| queue.burst(|tx| tx.enable_notifications());
        let asked = self.tx.work(|queue| queue.filter(|queue| !queue.is_parked()).map(ask));
        // A halt has been taken note of; what else there is to do is seen when it is served again.
        if matches!(asked, Some(Ok(true) | Err(_))) { Next::Again } else { Next::Wait }
    }

    fn backends(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        self.port.fd().map(|fd| (fd, self.port.interest())).into_iter().collect()
    }

    fn backend_ready(&mut self, _number: usize) {
        self.port.ready();
    }
}
