//! What a network device does on its thread.

use crate::config::LinkState;
use crate::features::VIRTIO_NET_F_MRG_RXBUF;
use crate::header::{ETHERNET, HEADER, is_segmented};
use crate::port::{Port, Sent};
use crate::receiver::Receiver;
use crate::stats::Statistics;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use virtqueue::{Chain, Halt, Health, Interest, Io, Next, Queue, Queues, Service};

/// Chains of one burst: enough to share the cost of a burst, few enough not to keep an unmap waiting.
const BURST: usize = 64;
/// The longest frame there is: a segmented one (virtio 1.3 §5.1.6.3.1).
pub const MAX_FRAME: usize = 65_550;
/// Ethernet header and two VLAN tags.
const OVERHEAD: usize = ETHERNET + 8;

/// A queue pair and its port.
pub struct NetService<P> {
    pub port: P,
    pub health: Arc<Health>,
    pub link: Arc<LinkState>,
    pub statistics: Arc<Statistics>,
    pub mtu: u16,
    /// In effect.
    pub features: u64,
    frame: Box<[u8]>,
}

/// What became of a chain.
enum Outcome {
    /// It is done with.
    Done,
    /// It has to wait.
    Wait,
}

impl<P: Port> NetService<P> {
    pub fn new(port: P, health: Arc<Health>, link: Arc<LinkState>, statistics: Arc<Statistics>, mtu: u16) -> Self {
        let frame = vec![0; HEADER + MAX_FRAME].into_boxed_slice();
        Self { port, health, link, statistics, mtu, features: 0, frame }
    }

    fn with_queues(&mut self, rx: Option<&mut Queue>, tx: Option<&mut Queue>) -> Result<Next, Halt> {
        match (rx, tx) {
            (Some(rx), Some(tx)) => rx.burst(|rx| tx.burst(|tx| self.work(Some(rx), Some(tx)))),
            (Some(rx), None) => rx.burst(|rx| self.work(Some(rx), None)),
            (None, Some(tx)) => tx.burst(|tx| self.work(None, Some(tx))),
            (None, None) => Ok(Next::Wait),
        }
    }

    fn work(&mut self, rx: Option<&mut Io<'_>>, tx: Option<&mut Io<'_>>) -> Result<Next, Halt> {
        let (link, statistics) = (Arc::clone(&self.link), Arc::clone(&self.statistics));
        let mut driver = Receiver::new(rx, self.features & VIRTIO_NET_F_MRG_RXBUF != 0, &link, &statistics);
        let received = self.port.receive(&mut driver, &statistics)?;
        let sent = match tx {
            Some(tx) => self.transmit(tx, &mut driver)?,
            None => Next::Wait,
        };
        driver.finish()?;
        Ok(if received == Next::Again || sent == Next::Again { Next::Again } else { Next::Wait })
    }

    fn transmit(&mut self, tx: &mut Io<'_>, driver: &mut Receiver<'_, '_>) -> Result<Next, Halt> {
        for _ in 0..BURST {
            let Some(chain) = tx.take()? else {
                if tx.enable_notifications()? {
                    continue;
                }
                return Ok(Next::Wait);
            };
            tx.disable_notifications()?;
            match self.take(tx, &chain, driver)? {
                Outcome::Done => {
                    tx.complete(&chain, 0);
                    tx.commit();
                }
                Outcome::Wait => {
                    tx.rewind();
                    return Ok(Next::Wait);
                }
            }
        }
        Ok(Next::Again)
    }

    fn take(&mut self, tx: &Io<'_>, chain: &Chain, driver: &mut Receiver<'_, '_>) -> Result<Outcome, Halt> {
        if chain.writable > 0 {
            return Err(tx.refuse(chain, "writable buffer in the transmit queue"));
        }
        if chain.readable < HEADER as u64 {
            return Err(tx.refuse(chain, "chain shorter than the virtio-net header"));
        }
        let statistics = &self.statistics;
        let len = usize::try_from(chain.readable).unwrap_or(usize::MAX);
        if len > self.frame.len() {
            statistics.tx_too_long.add(1);
            return Ok(Outcome::Done);
        }
        let read = tx.read(chain, 0, &mut self.frame[..len])?;
        let frame = &mut self.frame[..read];
        let Some(header) = frame.first_chunk::<HEADER>() else { return Ok(Outcome::Done) };
        let payload = frame.len() - HEADER;
        let dropped = if payload < ETHERNET {
            Some(&statistics.tx_too_short)
        } else if !self.port.accepts(header, payload, self.features) {
            Some(&statistics.tx_bad_header)
        } else if !is_segmented(header) && payload > usize::from(self.mtu) + OVERHEAD {
            Some(&statistics.tx_too_long)
        } else if !self.link.is_up() {
            Some(&statistics.tx_link_down)
        } else {
            None
        };
        if let Some(reason) = dropped {
            reason.add(1);
            return Ok(Outcome::Done);
        }
        match self.port.send(frame, driver, statistics)? {
            Sent::Taken => {
                statistics.tx_packets.add(1);
                statistics.tx_bytes.add(payload as u64);
                Ok(Outcome::Done)
            }
            Sent::Dropped => Ok(Outcome::Done),
            Sent::Busy => Ok(Outcome::Wait),
        }
    }
}

impl<P: Port> Service for NetService<P> {
    fn serve(&mut self, queues: &mut Queues) -> Next {
        if self.health.is_stopped() {
            return Next::Wait;
        }
        let [rx, tx] = queues.pair(0).map(|queue| queue.filter(|queue| !queue.is_parked()));
        // A halt has been taken note of: the device is stopped, or one queue waits and the other may go on.
        self.with_queues(rx, tx).unwrap_or(Next::Again)
    }

    fn backend(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd()
    }

    fn interest(&self) -> Interest {
        self.port.interest()
    }

    fn backend_ready(&mut self) {
        self.port.ready();
    }
}
