//! Frames that a driver sends.

use crate::header::{self, ETHERNET, HEADER, is_segmented};
use crate::pair::Shared;
use crate::port::Sent;
use crate::receiver::{Delivery, Receiver, Rest};
use crate::stats::Statistics;
use virtio_mdev_api::dma::Local;
use virtqueue::{Chain, Halt, Io, Next};

/// Chains of one burst: enough to share the cost of a burst, few enough not to keep an unmap waiting.
const BURST: usize = 64;
/// Ethernet header and two VLAN tags.
const OVERHEAD: usize = ETHERNET + 8;

/// What a driver sends, in one burst of its transmit queue: one frame at a time, which is done with before the next one is
/// taken.
pub struct Outgoing<'q, 'b> {
    tx: &'q mut Io<'b>,
    shared: &'q Shared,
    statistics: &'q Statistics,
    /// In effect.
    features: u64,
    /// Headers say nothing.
    plain: bool,
    /// Bytes that the driver's header has behind those that go on with a frame.
    behind: usize,
    /// Room for one frame; its header at least is here.
    buffer: &'q mut [u8],
    /// What is taken: no longer than the buffer.
    taken: Option<Chain>,
    /// How much of it was copied.
    copied: usize,
    /// Its memory could not be reached.
    halted: Option<Halt>,
    /// Chains this burst may still take.
    left: usize,
    busy: bool,
}

impl<'q, 'b> Outgoing<'q, 'b> {
    pub(crate) fn new(
        tx: &'q mut Io<'b>,
        shared: &'q Shared,
        statistics: &'q Statistics,
        features: u64,
        plain: bool,
        buffer: &'q mut [u8],
    ) -> Self {
        tx.skip(if plain { HEADER } else { 0 });
        Self {
            tx,
            plain,
            behind: header::len(features) - HEADER,
            shared,
            statistics,
            features,
            buffer,
            taken: None,
            copied: 0,
            halted: None,
            left: BURST,
            busy: false,
        }
    }

    /// Takes the next frame; `false`: there is none now, or the burst has had its fill. Frames that nobody could pass on are
    /// counted and left out; `accepts` says whether a driver that accepted these features may send so many bytes behind this
    /// header.
    pub fn take(&mut self, accepts: impl Fn(&[u8; HEADER], usize, u64) -> bool) -> Result<bool, Halt> {
        self.take_some(usize::MAX, accepts)
    }

    /// The same, but only the header is copied: the frame is to be [`returned`](Self::return_to).
    pub fn take_header(&mut self, accepts: impl Fn(&[u8; HEADER], usize, u64) -> bool) -> Result<bool, Halt> {
        self.take_some(HEADER, accepts)
    }

    /// The same, but at most so much is copied; the header always is.
    #[inline]
    pub fn take_some(
        &mut self,
        copied: usize,
        accepts: impl Fn(&[u8; HEADER], usize, u64) -> bool,
    ) -> Result<bool, Halt> {
        debug_assert!(self.taken.is_none(), "the frame before is not done with");
        if let Some(halt) = self.halted.take() {
            return Err(halt);
        }
        while self.left > 0 && !self.busy && self.tx.has_next()? {
            let Some(chain) = self.tx.take_next() else { break };
            if self.left == BURST {
                self.tx.disable_notifications()?;
            }
            self.left -= 1;
            if self.read(&chain, copied, &accepts)? {
                self.taken = Some(chain);
                self.copied = copied.max(HEADER);
                return Ok(true);
            }
            self.tx.complete(&chain, 0);
            self.tx.commit();
        }
        Ok(false)
    }

    /// Gives the frame taken to a driver, straight from one's memory to the other's, and is done with it.
    #[inline]
    pub fn return_to(&mut self, driver: &mut Receiver<'_, '_>) -> Result<(), Halt> {
        let Some(chain) = self.taken else { return Ok(()) };
        // No shorter than a header: it was looked at.
        let len = self.len(&chain).saturating_sub(HEADER);
        let rest = Rest::Chain { tx: &*self.tx, chain, offset: self.place(HEADER), len };
        let sent = match driver.deliver_frame(&mut self.buffer[..HEADER], rest)? {
            Delivery::Delivered => Sent::Taken,
            Delivery::NoBuffers => Sent::Busy,
            Delivery::Dropped => Sent::Dropped,
        };
        self.done(sent);
        Ok(())
    }

    /// Gives `head` and what the frame taken has behind `from` to the driver of another device: straight from one's memory to
    /// the other's where the frame was not copied. The frame may be given to several; it is done with when its port says so.
    ///
    /// An error is the other driver's. That the frame's own memory is out of reach is told when the next one is taken.
    #[inline]
    pub fn give_to(&mut self, driver: &mut Receiver<'_, '_>, head: &mut [u8], from: usize) -> Result<Delivery, Halt> {
        let Some(chain) = self.taken.filter(|_| self.halted.is_none()) else {
            return Ok(Delivery::Dropped);
        };
        let len = self.len(&chain);
        let rest = if self.copied < len {
            Rest::Chain { tx: &*self.tx, chain, offset: self.place(from), len: len.saturating_sub(from) }
        } else {
            Rest::Own(self.buffer.get(from..len).unwrap_or(&[]))
        };
        match driver.deliver_frame(head, rest) {
            Err(halt) if halt.queue == self.tx.index() => {
                self.halted = Some(halt);
                Ok(Delivery::Dropped)
            }
            delivery => delivery,
        }
    }

    /// Copies more of the frame taken, up to so many bytes of it. `false`: its memory is out of reach, which is told when the
    /// next one is taken.
    pub fn copy_to(&mut self, bytes: usize) -> bool {
        let Some(chain) = &self.taken else { return false };
        let end = bytes.min(self.len(chain));
        if self.copied < end {
            match self.tx.read(chain, self.place(self.copied), &mut self.buffer[self.copied..end]) {
                Ok(_) => self.copied = end,
                Err(halt) => self.halted = Some(halt),
            }
        }
        self.halted.is_none()
    }

    /// What was copied of the frame taken, while `part` is shown where the rest of it is in the driver's memory, which may
    /// change. `None`: it is not all in this process, or `part` had enough; it is to be copied.
    pub fn in_place<'s>(&'s self, part: impl FnMut(Local<'s>) -> bool) -> Option<&'s [u8]> {
        let chain = self.taken.as_ref().filter(|_| self.halted.is_none())?;
        self.tx.in_place(chain, self.place(self.copied), part).then(|| &self.buffer[..self.copied])
    }

    /// What was copied of the frame taken: a checked header of 12 bytes, and, of a frame that was copied as a whole, at least an
    /// Ethernet header. It may be overwritten.
    pub fn frame(&mut self) -> &mut [u8] {
        let copied = self.copied.min(self.frame_len());
        &mut self.buffer[..copied]
    }

    /// Bytes of the frame taken, copied or not, its header included.
    pub fn frame_len(&self) -> usize {
        self.taken.as_ref().map_or(0, |chain| self.len(chain))
    }

    /// What became of the frame taken. After [`Sent::Busy`] no other one is taken in this burst.
    #[inline]
    pub fn done(&mut self, sent: Sent) {
        let Some(chain) = &self.taken else { return };
        if self.halted.is_some() {
            // It was never taken.
            self.tx.rewind();
            self.taken = None;
            return;
        }
        match sent {
            Sent::Taken => {
                self.statistics.tx.packets.add(1);
                self.statistics.tx.bytes.add((self.len(chain) - HEADER) as u64);
            }
            Sent::Dropped => {}
            Sent::Busy => {
                self.tx.rewind();
                (self.taken, self.busy) = (None, true);
                return;
            }
        }
        self.tx.complete(chain, 0);
        self.tx.commit();
        self.taken = None;
    }

    /// Copies at most so much of the frame of a chain and looks at it. `false`: it is dropped.
    #[inline(always)]
    fn read(
        &mut self,
        chain: &Chain,
        copied: usize,
        accepts: impl Fn(&[u8; HEADER], usize, u64) -> bool,
    ) -> Result<bool, Halt> {
        if chain.writable > 0 {
            return Err(self.tx.refuse(chain, "writable buffer in the transmit queue"));
        }
        if chain.readable < self.place(HEADER) {
            return Err(self.tx.refuse(chain, "chain shorter than the virtio-net header"));
        }
        let statistics = self.statistics;
        let (len, behind) = (self.len(chain), self.place(HEADER));
        if len > self.buffer.len() {
            statistics.tx.too_long.add(1);
            return Ok(false);
        }
        let Some(header) = self.buffer.first_chunk_mut::<HEADER>() else { return Ok(false) };
        if self.plain {
            *header = [0; HEADER];
        } else {
            self.tx.head(chain, header)?;
        }
        if copied > HEADER {
            self.tx.read(chain, behind, &mut self.buffer[HEADER..len.min(copied)])?;
        }
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(false) };
        let payload = len - HEADER;
        let dropped = if payload < ETHERNET {
            Some(&statistics.tx.too_short)
        } else if !self.plain && !accepts(header, payload, self.features) {
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
        }
        Ok(dropped.is_none())
    }

    /// Bytes of the frame of a chain, whose header is there as a whole, the part of it that goes on with the frame included.
    #[inline]
    fn len(&self, chain: &Chain) -> usize {
        usize::try_from(chain.readable).unwrap_or(usize::MAX) - self.behind
    }

    /// Where a chain has what is at `at`, behind the header, of its frame.
    #[inline]
    fn place(&self, at: usize) -> u64 {
        (at + self.behind) as u64
    }

    /// Whether a frame waits for the port.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether there was anything to do.
    pub(crate) fn progress(&self) -> Next {
        if self.left < BURST - usize::from(self.busy) { Next::Again } else { Next::Wait }
    }
}
