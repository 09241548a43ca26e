//! What a driver leaves to the device and another one does not take: done here, in software.

use crate::checksum::{add, finish, finish_transport};
use crate::frame::{CSUM_OFFSET, CSUM_START, GSO_NONE, GSO_SIZE, NEEDS_CSUM, Parsed, field};
use virtio_net::HEADER;
use virtio_net::features::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6};

pub const GSO_TCPV4: u8 = 1;
pub const GSO_TCPV6: u8 = 4;

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;
const TCP_HEADER: usize = 20;
const TCP_FLAGS: usize = 13;
/// Flags of the last segment alone, and of the first.
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
const TCP: u8 = 6;
/// Smaller pieces than any TCP sends (Linux: TCP_MIN_MSS): work for nothing.
const SMALLEST: usize = 48;

/// What has to be done to a frame before a driver that accepted `features` can take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// It must not be told of checksums.
    Silence,
    /// Its checksum is to be completed.
    Checksum,
    /// It is to be cut into segments.
    Segments,
}

impl Need {
    /// By the frame's header.
    #[inline]
    pub fn of(frame: &[u8], features: u64) -> Self {
        let takes = match frame[1] {
            GSO_NONE => true,
            GSO_TCPV4 => features & VIRTIO_NET_F_GUEST_TSO4 != 0,
            GSO_TCPV6 => features & VIRTIO_NET_F_GUEST_TSO6 != 0,
            _ => false,
        };
        match frame[0] {
            _ if !takes => Self::Segments,
            _ if features & VIRTIO_NET_F_GUEST_CSUM != 0 => Self::Nothing,
            flags if flags & NEEDS_CSUM != 0 => Self::Checksum,
            _ => Self::Silence,
        }
    }
}

/// Whether what the header asks for lies where it may: a checksum behind the link's header, which decided where the
/// frame goes, and segments of what is TCP. The fields were checked to lie in the frame.
#[inline]
pub fn is_sane(frame: &[u8], len: usize, parsed: &Parsed) -> bool {
    let checksum = frame[0] & NEEDS_CSUM == 0 || field(frame, CSUM_START) >= parsed.link_len();
    checksum && (frame[1] == GSO_NONE || Segments::new(frame, len, parsed).is_some())
}

/// The header of a frame that leaves nothing to do, `num_buffers` aside.
pub fn silence(frame: &mut [u8]) {
    frame[..HEADER].fill(0);
}

/// Completes the checksum of a frame that has a partial one.
pub fn complete(frame: &mut [u8]) {
    let (start, offset) = (HEADER + field(frame, CSUM_START), field(frame, CSUM_OFFSET));
    // What is there is the sum of the pseudo header.
    let checksum = finish_transport(add(0, frame.get(start..).unwrap_or(&[])));
    if let Some(place) = frame.get_mut(start + offset..start + offset + 2) {
        place.copy_from_slice(&checksum);
    }
    silence(frame);
}

/// A large TCP frame, as the segments it stands for.
#[derive(Debug, Clone, Copy)]
pub struct Segments<'f> {
    frame: &'f [u8],
    /// Bytes of all of it.
    len: usize,
    v6: bool,
    /// Where the network header, the transport's and the payload begin.
    network: usize,
    transport: usize,
    payload: usize,
    /// Payload of one segment.
    size: usize,
}

impl<'f> Segments<'f> {
    /// Of a frame of `len` bytes, of which its headers are there at least. `None`: its header says of it what it is not.
    pub fn new(frame: &'f [u8], len: usize, parsed: &Parsed) -> Option<Self> {
        let network = HEADER + parsed.link_len();
        let transport = HEADER + field(frame, CSUM_START);
        let v6 = match frame[1] {
            GSO_TCPV4 => false,
            GSO_TCPV6 => true,
            _ => return None,
        };
        let kind: &[u8] = if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] };
        if frame.get(network - 2..network)? != kind || frame.len() < transport + TCP_HEADER {
            return None;
        }
        let header = frame.get(network..transport)?;
        let is_tcp = match (v6, header) {
            (false, [first, .., _, _, _, _]) => {
                let whole = usize::from(first & 0xf) * 4;
                first >> 4 == 4 && whole >= 20 && whole == header.len() && header[9] == TCP
            }
            (true, [first, ..]) => first >> 4 == 6 && header.len() == 40 && header[6] == TCP,
            _ => false,
        };
        let payload = transport + usize::from(frame[transport + 12] >> 4) * 4;
        let size = field(frame, GSO_SIZE);
        let fits = payload >= transport + TCP_HEADER && payload < len && size >= SMALLEST;
        let fits = fits && field(frame, CSUM_OFFSET) == TCP_CHECKSUM && frame[0] & NEEDS_CSUM != 0;
        (is_tcp && fits).then_some(Self { frame, len, v6, network, transport, payload, size })
    }

    /// How many there are: at least one.
    pub fn count(&self) -> usize {
        (self.len - self.payload).div_ceil(self.size)
    }

    /// Bytes that all of them have on the wire.
    pub fn wire_len(&self) -> usize {
        self.len - HEADER + (self.count() - 1) * (self.payload - HEADER)
    }

    /// Writes segment `number` of a frame that is all there, with its virtio-net header, all checksums complete, and says how long it is.
    pub fn write(&self, number: usize, out: &mut [u8]) -> Option<usize> {
        let skip = number * self.size;
        let data = self.frame.get(self.payload + skip..)?;
        let data = &data[..self.size.min(data.len())];
        let is_last = number + 1 == self.count();
        let out = out.get_mut(..self.payload + data.len())?;
        out[..self.payload].copy_from_slice(&self.frame[..self.payload]);
        out[self.payload..].copy_from_slice(data);
        silence(out);
        self.write_network(number, out);
        self.write_transport(skip, number == 0, is_last, out);
        Some(out.len())
    }

    fn write_network(&self, number: usize, out: &mut [u8]) {
        let len = out.len() - self.network;
        let header = &mut out[self.network..self.transport];
        // As long as a frame can be; what was longer would have been cut before.
        let be = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes();
        if self.v6 {
            header[4..6].copy_from_slice(&be(len - 40));
            return;
        }
        header[2..4].copy_from_slice(&be(len));
        let id = u16::from_be_bytes([header[4], header[5]]);
        header[4..6].copy_from_slice(&id.wrapping_add(u16::try_from(number).unwrap_or(0)).to_be_bytes());
        header[10..12].fill(0);
        let checksum = finish(add(0, header));
        header[10..12].copy_from_slice(&checksum);
    }

    fn write_transport(&self, skip: usize, is_first: bool, is_last: bool, out: &mut [u8]) {
        let len = u32::try_from(out.len() - self.transport).unwrap_or(0);
        let (before, segment) = out.split_at_mut(self.transport);
        if let Some(sequence) = segment.get_mut(4..8).and_then(|bytes| bytes.as_mut_array::<4>()) {
            *sequence = u32::from_be_bytes(*sequence).wrapping_add(u32::try_from(skip).unwrap_or(0)).to_be_bytes();
        }
        if !is_first {
            segment[TCP_FLAGS] &= !CWR;
        }
        if !is_last {
            segment[TCP_FLAGS] &= !FIN_PSH;
        }
        segment[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0);
        let network = &before[self.network..];
        let addresses = if self.v6 { &network[8..40] } else { &network[12..20] };
        let [a, b, c, d] = len.to_be_bytes();
        let pseudo = add(add(0, addresses), &[a, b, c, d, 0, TCP, 0, 0]);
        let checksum = finish_transport(add(pseudo, segment));
        segment[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&checksum);
    }
}

/// Packets and bytes of a frame on the wire.
pub fn on_the_wire(frame: &[u8], len: usize, parsed: &Parsed) -> (u64, u64) {
    let segments = if frame[1] == GSO_NONE { None } else { Segments::new(frame, len, parsed) };
    match segments {
        Some(segments) => (segments.count() as u64, segments.wire_len() as u64),
        None => (1, (len - HEADER) as u64),
    }
}

#[cfg(test)]
mod tests;
