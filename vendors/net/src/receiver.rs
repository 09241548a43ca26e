//! The way of a frame to the driver.

use crate::config::{LinkState, NetConfig};
use crate::hash::Hash;
use crate::header::{HASH_HEADER, HEADER, NUM_BUFFERS};
use crate::stats::RxStatistics;
use virtqueue::{Chain, Halt, Io};

/// What became of a frame for the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// The driver has it.
    Delivered,
    /// There are not enough buffers; try again with the same frame.
    NoBuffers,
    /// It cannot be delivered, and was counted.
    Dropped,
}

/// What was too little for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short {
    /// Buffers there were.
    pub chains: u16,
    /// Frames that had been delivered: the buffers are others when there are more.
    pub delivered: u64,
}

/// The receive queue during a burst.
pub struct Receiver<'q, 'b> {
    io: Option<&'q mut Io<'b>>,
    merge: bool,
    link: &'q LinkState,
    statistics: &'q RxStatistics,
    /// Of a driver that chooses among the frames it is given.
    chooser: Option<&'q NetConfig>,
    short: Option<Short>,
    /// This pair, if frames of other pairs are left to them.
    own: Option<u16>,
    elsewhere: Option<u16>,
}

impl<'q, 'b> Receiver<'q, 'b> {
    pub(crate) fn new(
        io: Option<&'q mut Io<'b>>,
        merge: bool,
        link: &'q LinkState,
        statistics: &'q RxStatistics,
        chooser: Option<&'q NetConfig>,
    ) -> Self {
        Self { io, merge, link, statistics, chooser, short: None, own: None, elsewhere: None }
    }

    /// This is pair `own`: a frame that the driver wants on another one finds no buffers here.
    pub(crate) fn spread(&mut self, own: u16) {
        self.own = Some(own);
    }

    /// Gives the driver a frame: a header of 12 bytes, and the data. `num_buffers` is set here.
    #[inline]
    pub fn deliver(&mut self, frame: &mut [u8]) -> Result<Delivery, Halt> {
        self.deliver_parts(frame, &[])
    }

    /// The same with a frame in two parts: `head` has the header at least.
    #[inline]
    pub fn deliver_parts(&mut self, head: &mut [u8], rest: &[u8]) -> Result<Delivery, Halt> {
        self.deliver_frame(head, Rest::Own(rest))
    }

    /// The same, whatever the rest is in.
    #[inline]
    pub(crate) fn deliver_frame(&mut self, head: &mut [u8], rest: Rest<'_, '_>) -> Result<Delivery, Halt> {
        if !self.link.is_up() {
            self.statistics.link_down.add(1);
            return Ok(Delivery::Dropped);
        }
        if let Some(config) = self.chooser.filter(|config| config.chooses())
            && let Some(decided) = self.choose(config, head, rest)?
        {
            return Ok(decided);
        }
        self.put::<HEADER>(head, rest)
    }

    /// Fills the next buffers with a frame, whose header has `LEN` bytes here.
    #[inline(always)]
    fn put<const LEN: usize>(&mut self, head: &mut [u8], rest: Rest<'_, '_>) -> Result<Delivery, Halt> {
        let short = |chains| Some(Short { chains, delivered: self.statistics.packets.get() });
        let Some(io) = self.io.as_deref_mut() else {
            self.short = short(0);
            return Ok(Delivery::NoBuffers);
        };
        let Some(chain) = (if io.has_next()? { io.take_next() } else { None }) else {
            self.short = short(0);
            return Ok(Delivery::NoBuffers);
        };
        check(io, &chain, LEN)?;
        let len = head.len() + rest.len();
        if chain.writable >= len as u64 {
            if rest.len() == 0 {
                one_buffer(head);
                io.write(&chain, 0, head)?;
            } else if !rest.forward(head, io, &chain)? {
                one_buffer(head);
                Parts { head, rest }.write(io, &chain, 0)?;
            }
            io.complete(&chain, u32::try_from(len).unwrap_or(u32::MAX));
            io.commit();
        } else {
            one_buffer(head);
            let fits = if self.merge { merge(io, chain, &Parts { head, rest }, LEN)? } else { Fit::Never };
            if fits != Fit::Yes {
                io.rewind();
            }
            match fits {
                Fit::Yes => io.commit(),
                Fit::NotNow(chains) => {
                    self.short = short(chains);
                    return Ok(Delivery::NoBuffers);
                }
                Fit::Never => {
                    self.statistics.too_long.add(1);
                    return Ok(Delivery::Dropped);
                }
            }
        }
        self.statistics.packets.add(1);
        self.statistics.bytes.add((len - LEN) as u64);
        Ok(Delivery::Delivered)
    }

    /// Asks a driver that chooses; `None`: it wants the frame as it is, and here.
    #[inline(never)]
    fn choose(&mut self, config: &NetConfig, head: &[u8], rest: Rest<'_, '_>) -> Result<Option<Delivery>, Halt> {
        let mut room = [0; START];
        let frame = rest.after(&head[HEADER..], &mut room)?;
        if !config.wants(frame) {
            self.statistics.filtered.add(1);
            return Ok(Some(Delivery::Dropped));
        }
        let (hash, pair) = config.place_of(frame);
        self.elsewhere = self.own.and_then(|own| pair.filter(|pair| *pair != own));
        match self.elsewhere {
            Some(_) => Ok(Some(Delivery::NoBuffers)),
            None if config.reports_hashes() => self.put_with(hash, head, rest).map(Some),
            None => Ok(None),
        }
    }

    /// Gives the driver a frame with its hash behind the header that it came with.
    fn put_with(&mut self, hash: Option<Hash>, head: &[u8], rest: Rest<'_, '_>) -> Result<Delivery, Halt> {
        let (plain, begun) = head.split_at(HEADER);
        let mut header = [0; HASH_HEADER];
        header[..HEADER].copy_from_slice(plain);
        header[HEADER..].copy_from_slice(&Hash::encode(hash));
        self.put::<HASH_HEADER>(&mut header, Rest::After { begun, rest: &rest })
    }

    /// Counts a frame that whoever delivers had for the driver and dropped.
    pub fn count_dropped(&self) {
        self.statistics.errors.add(1);
    }

    /// Whether a frame found too few buffers.
    pub(crate) fn short(&self) -> Option<Short> {
        self.short
    }

    /// The pair that the last frame is for, if it is another one.
    pub(crate) fn elsewhere(&self) -> Option<u16> {
        self.elsewhere
    }
}

/// What has a frame's addresses and tags, and the ports of a packet without many options.
const START: usize = 128;

/// What is behind the head of a frame.
#[derive(Clone, Copy)]
pub(crate) enum Rest<'f, 'b> {
    /// Bytes of our own.
    Own(&'f [u8]),
    /// What a chain that a driver sends has behind `offset`.
    Chain { tx: &'f Io<'b>, chain: Chain, offset: u64, len: usize },
    /// Bytes of our own, and then one of the others.
    After { begun: &'f [u8], rest: &'f Rest<'f, 'b> },
}

impl<'f> Rest<'f, '_> {
    /// The frame that it is the rest of, or as much of it as there is room for.
    fn after<'r>(self, head: &[u8], room: &'r mut [u8; START]) -> Result<&'r [u8], Halt>
    where
        'f: 'r,
    {
        if let (Self::Own(frame), true) = (self, head.is_empty()) {
            return Ok(frame);
        }
        let begun = head.len().min(START);
        room[..begun].copy_from_slice(&head[..begun]);
        let left = &mut room[begun..];
        let len = left.len().min(self.len());
        self.read(&mut left[..len])?;
        Ok(&room[..begun + len])
    }

    /// Copies its beginning, which it has.
    fn read(&self, out: &mut [u8]) -> Result<(), Halt> {
        match *self {
            Self::Own(bytes) => out.copy_from_slice(&bytes[..out.len()]),
            Self::Chain { tx, chain, offset, .. } => drop(tx.read(&chain, offset, out)?),
            Self::After { begun, rest } => {
                let (first, then) = out.split_at_mut(begun.len().min(out.len()));
                first.copy_from_slice(&begun[..first.len()]);
                rest.read(then)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Chain { len, .. } => *len,
            Self::After { begun, rest } => begun.len() + rest.len(),
        }
    }

    /// Writes `head` and this to a chain that has room for it, if that is done by one copy from a driver's memory.
    #[inline(always)]
    fn forward(&self, head: &[u8], io: &Io<'_>, into: &Chain) -> Result<bool, Halt> {
        match (*self, head.first_chunk::<NUM_BUFFERS>()) {
            (Self::Chain { tx, chain, offset, len }, Some(start))
                if head.len() == HEADER && offset == HEADER as u64 =>
            {
                tx.forward(&chain, (start, 1), (io, into), HEADER + len)
            }
            _ => Ok(false),
        }
    }

    /// Writes what is behind `done` to a chain from `at` on, and says how much of it had room there.
    #[inline]
    fn write(&self, done: usize, io: &Io<'_>, into: &Chain, at: u64) -> Result<usize, Halt> {
        match *self {
            Self::Own(bytes) => io.write(into, at, &bytes[done..]),
            Self::Chain { tx, chain, offset, len } => tx.copy(&chain, offset + done as u64, (io, into, at), len - done),
            Self::After { begun, rest } => match begun.get(done..).filter(|left| !left.is_empty()) {
                None => rest.write(done - begun.len(), io, into, at),
                Some(left) => {
                    let written = io.write(into, at, left)?;
                    if written < left.len() || rest.len() == 0 {
                        return Ok(written);
                    }
                    Ok(written + rest.write(0, io, into, at + written as u64)?)
                }
            },
        }
    }
}

/// A frame, whose two parts follow each other.
struct Parts<'f, 'b> {
    head: &'f [u8],
    rest: Rest<'f, 'b>,
}

impl Parts<'_, '_> {
    fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }

    /// Writes what is behind `done` to a chain, and says how much of it had room there.
    #[inline]
    fn write(&self, io: &Io<'_>, chain: &Chain, done: usize) -> Result<usize, Halt> {
        let Some(head) = self.head.get(done..).filter(|head| !head.is_empty()) else {
            return self.rest.write(done - self.head.len(), io, chain, 0);
        };
        let written = io.write(chain, 0, head)?;
        if written < head.len() || self.rest.len() == 0 {
            return Ok(written);
        }
        Ok(written + self.rest.write(0, io, chain, written as u64)?)
    }
}

/// A frame in one buffer says so.
#[inline]
fn one_buffer(head: &mut [u8]) {
    let one = 1u16.to_le_bytes();
    // What was written a moment ago is not to be had at once as part of something longer: the copy that follows would wait.
    if head[NUM_BUFFERS..HEADER] != one {
        head[NUM_BUFFERS..HEADER].copy_from_slice(&one);
    }
}

#[derive(PartialEq, Eq)]
enum Fit {
    Yes,
    /// Not before there are more than so many buffers.
    NotNow(u16),
    Never,
}

/// Whether a chain is a receive buffer. The header, which has `header` bytes, has to fit in it (virtio 1.3 §5.1.6.3.1).
#[inline]
fn check(io: &Io<'_>, chain: &Chain, header: usize) -> Result<(), Halt> {
    if chain.readable > 0 {
        return Err(io.refuse(chain, "readable buffer in the receive queue"));
    }
    if chain.writable < header as u64 {
        return Err(io.refuse(chain, "receive buffer smaller than the virtio-net header"));
    }
    Ok(())
}

/// Spreads `frame` over the buffers from `first` on (virtio 1.3 §5.1.6.4).
#[inline(never)]
fn merge(io: &mut Io<'_>, first: Chain, frame: &Parts<'_, '_>, header: usize) -> Result<Fit, Halt> {
    // How many buffers it takes is known last; each byte of the number may be in another descriptor.
    let [low, high] = [NUM_BUFFERS, NUM_BUFFERS + 1].map(|at| io.writable_address(&first, at as u64));
    let (mut chain, mut done, mut count) = (first, 0, 0u16);
    loop {
        let written = frame.write(io, &chain, done)?;
        io.complete(&chain, u32::try_from(written).unwrap_or(u32::MAX));
        done += written;
        count += 1;
        if done == frame.len() {
            break;
        }
        if count == io.size() {
            return Ok(Fit::Never);
        }
        let Some(next) = io.take()? else { return Ok(Fit::NotNow(count)) };
        check(io, &next, header)?;
        chain = next;
    }
    for (place, byte) in [low, high].into_iter().zip(count.to_le_bytes()) {
        if let Some(place) = place {
            io.write_at(place, &[byte])?;
        }
    }
    Ok(Fit::Yes)
}
