//! The wire on which frames come without end.

use virtio_mdev_api::{AttributeSpec, CreateRequest, ParameterSpec, Refusal, Values};
use virtio_net::{Controls, Delivery, HEADER, Halt, Mac, NetParameters, Next, Port, Receiver, Seat, Sent, Statistics};

/// Frames of one burst, as many as are taken from a driver in one.
const BURST: usize = 64;
/// Bytes of the least frame of Ethernet, the check sequence aside.
const MIN_FRAME: u16 = 60;
const DEFAULT_FRAME: u16 = 64;
/// Ethernet header and two VLAN tags, which are not counted in an MTU.
const OVERHEAD: u16 = 22;
const FRAME: &str = "frame";
/// The EtherType for local experiments (IEEE 802).
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// Where a frame has its number, in network order.
const NUMBER: std::ops::Range<usize> = HEADER + 14..HEADER + 22;

pub fn frame_parameter() -> ParameterSpec {
    ParameterSpec {
        name: FRAME,
        values: Values::Number(MIN_FRAME..=u16::MAX),
        default: Some(DEFAULT_FRAME.to_string()),
        what: "bytes of a frame, from the Ethernet header on, without check sequence",
    }
}

/// What frames come.
pub struct Source {
    len: u16,
    mac: Mac,
}

impl Source {
    /// Frames of `len` bytes to `mac`.
    pub fn new(len: u16, mac: Mac) -> Self {
        Self { len, mac }
    }

    /// Of the parameters of `create`. EINVAL for frames that the card could not send itself.
    pub fn parse(request: &CreateRequest, card: &NetParameters) -> Result<Self, Refusal> {
        let len = match request.parameters.get(FRAME) {
            Some(written) => {
                let spec = frame_parameter();
                let len = spec.number(written)?;
                if len > card.mtu.saturating_add(OVERHEAD) {
                    return Err(spec.refuse(written, &format!("longer than mtu={} allows", card.mtu)));
                }
                len
            }
            None => DEFAULT_FRAME,
        };
        Ok(Self::new(len, card.mac))
    }

    pub fn controls(self, seat: Seat) -> SourceControls {
        SourceControls { len: self.len, _seat: seat }
    }
}

/// Frames that take turns. What was written to one is out of the processor's queue of stores when its turn comes: a copy of
/// what is still in there waits for all the stores before it, which are to memory of clients.
const FRAMES: usize = 8;

/// Frames are numbered from 0 on, so that a driver can tell whether one is missing.
pub struct SourcePort {
    /// virtio-net header and frame, of the next frames.
    frames: [Box<[u8]>; FRAMES],
    next: u64,
}

impl SourcePort {
    pub fn new(source: &Source) -> Self {
        let mut frame = vec![0; HEADER + usize::from(source.len)];
        let (destination, origin) = (source.mac.bytes(), [0x02, 0, 0, 0, 0, 1]);
        frame[HEADER..NUMBER.start].copy_from_slice(&[&destination[..], &origin, &ETHER_TYPE].concat());
        let numbered = |number: usize| {
            let mut frame = frame.clone();
            number_it(&mut frame, number as u64);
            frame.into_boxed_slice()
        };
        Self { frames: std::array::from_fn(numbered), next: 0 }
    }

    /// The next frame.
    #[inline]
    fn frame(&mut self) -> &mut [u8] {
        // Less than their number.
        let place = usize::try_from(self.next % FRAMES as u64).unwrap_or(0);
        &mut self.frames[place]
    }

    /// The driver has it.
    #[inline]
    fn advance(&mut self) {
        let again = self.next.wrapping_add(FRAMES as u64);
        number_it(self.frame(), again);
        self.next = self.next.wrapping_add(1);
    }
}

#[inline]
fn number_it(frame: &mut [u8], number: u64) {
    frame[NUMBER].copy_from_slice(&number.to_be_bytes());
}

impl Port for SourcePort {
    fn start(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn send(&mut self, _: &mut [u8], _: &mut Receiver<'_, '_>, statistics: &Statistics) -> Result<Sent, Halt> {
        statistics.tx.errors.add(1);
        Ok(Sent::Dropped)
    }

    fn may_receive(&self) -> bool {
        true
    }

    fn receive(&mut self, driver: &mut Receiver<'_, '_>, _: &Statistics) -> Result<Next, Halt> {
        let mut next = Next::Wait;
        for _ in 0..BURST {
            match driver.deliver(self.frame())? {
                Delivery::Delivered => {
                    self.advance();
                    next = Next::Again;
                }
                // No buffers, or none that a frame fits: another try would find the same.
                Delivery::NoBuffers | Delivery::Dropped => break,
            }
        }
        Ok(next)
    }
}

/// Says how long frames are, and keeps the instance's place.
pub struct SourceControls {
    len: u16,
    _seat: Seat,
}

impl Controls for SourceControls {
    fn attributes(&self) -> Vec<AttributeSpec> {
        vec![AttributeSpec { name: FRAME.to_owned(), writable: false }]
    }

    fn show(&mut self, name: &str) -> Option<Result<String, Refusal>> {
        (name == FRAME).then(|| Ok(self.len.to_string()))
    }
}
