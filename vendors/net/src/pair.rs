//! A queue pair during one burst.

use crate::config::LinkState;
use crate::features::VIRTIO_NET_F_MRG_RXBUF;
use crate::header::{ETHERNET, HEADER, is_segmented};
use crate::port::{Port, Sent};
use crate::receiver::Receiver;
use crate::stats::{RxStatistics, Statistics};
use virtqueue::{Chain, Halt, Io, Next, Queue};

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

/// A port, and what its frames have to fit.
pub struct Pair<'s, P> {
    pub port: &'s mut P,
    pub link: &'s LinkState,
    pub statistics: &'s Statistics,
    /// Of the receive queue, which may be another pair's.
    pub received: &'s RxStatistics,
    /// In effect.
    pub features: u64,
    pub mtu: u16,
    /// Whether the receive queue is shared with a port that was served before.
    pub shared_rx: bool,
    /// Room for one frame.
    pub frame: &'s mut [u8],
}

impl<P: Port> Pair<'_, P> {
    /// Passes frames both ways, at most about a burst of them.
    pub fn serve(&mut self, rx: Option<&mut Queue>, tx: Option<&mut Queue>) -> Result<Next, Halt> {
        match (rx, tx) {
            (Some(rx), Some(tx)) => rx.burst(|rx| tx.burst(|tx| self.work(Some(rx), Some(tx)))),
            (Some(rx), None) => rx.burst(|rx| self.work(Some(rx), None)),
            (None, Some(tx)) => tx.burst(|tx| self.work(None, Some(tx))),
            (None, None) => Ok(Next::Wait),
        }
    }

    fn work(&mut self, rx: Option<&mut Io<'_>>, tx: Option<&mut Io<'_>>) -> Result<Next, Halt> {
        let merge = self.features & VIRTIO_NET_F_MRG_RXBUF != 0;
        let mut driver = Receiver::new(rx, merge, self.link, self.received);
        let received = self.port.receive(&mut driver, self.statistics)?;
        let sent = match tx {
            Some(tx) => self.transmit(tx, &mut driver)?,
            None => Next::Wait,
        };
        // Another port may wait for buffers of a shared queue: the notification it asked for stays.
        if !self.shared_rx {
            driver.finish()?;
        }
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
        } else if !is_segmented(header) && payload > usize::from(self.mtu) + OVERHEAD {
            Some(&statistics.tx.too_long)
        } else if !self.link.is_up() {
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
