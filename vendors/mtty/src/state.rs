//! The state of a card as bytes.
//!
//! | Bytes | |
//! |---|---|
//! | 4 | `mtty` |
//! | 2 | version, 1 |
//! | 2 | ports |
//! | 256 | configuration space |
//! | 44 for each port | IER, FCR, LCR, MCR, SCR, divisor (2), flags (1 overrun, 2 transmitter empty untold), changes and last look of the modem status, then received and unsent bytes: their number and 16 of them |
//!
//! Numbers are little-endian. Bytes beyond those of a FIFO are zero.

use crate::config::CONFIG_SIZE;
use crate::fifo::{FIFO_SIZE, Fifo};
use crate::uart::Registers;
use nix::errno::Errno;

const MAGIC: [u8; 4] = *b"mtty";
const VERSION: u16 = 1;
const OVERRUN: u8 = 1;
const EMPTY_UNTOLD: u8 = 2;
const HEADER: usize = 8;
const PORT: usize = 10 + 2 * (1 + FIFO_SIZE);

/// Why bytes are no state of this card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadState {
    /// It is none of a card, of another version, or cut short.
    Format,
    /// That of a card with another number of ports.
    Ports,
    /// The configuration space is another card's.
    Config,
    /// No port has such registers.
    Registers,
}

impl BadState {
    /// In words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Format => "the state is not one of a serial card, version 1",
            Self::Ports => "the state is of a card with another number of ports",
            Self::Config => "the state has the configuration space of another card",
            Self::Registers => "the state has registers that no port can have",
        }
    }
}

impl From<BadState> for virtio_mdev_api::Refusal {
    fn from(bad: BadState) -> Self {
        Self::new(Errno::EINVAL, bad.reason())
    }
}

/// What a state of a card with so many ports fits.
pub fn identity(ports: usize) -> Vec<u8> {
    format!("mtty version {VERSION} ports {ports}").into_bytes()
}

/// The bytes of a state.
pub fn encode(config: &[u8; CONFIG_SIZE], ports: &[Registers]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + CONFIG_SIZE + ports.len() * PORT);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(u16::try_from(ports.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend(config);
    for port in ports {
        let overrun = if port.overrun { OVERRUN } else { 0 };
        let flags = overrun | if port.empty_untold { EMPTY_UNTOLD } else { 0 };
        bytes.extend([port.ier, port.fcr, port.lcr, port.mcr, port.scr]);
        bytes.extend(port.divisor);
        bytes.extend([flags, port.changes, port.seen]);
        for fifo in [&port.rx, &port.tx] {
            bytes.push(u8::try_from(fifo.len()).unwrap_or(u8::MAX));
            bytes.extend(fifo.iter());
            bytes.extend(std::iter::repeat_n(0, FIFO_SIZE - fifo.len()));
        }
    }
    bytes
}

/// Configuration space and registers of a card with so many ports.
pub fn decode(bytes: &[u8], ports: usize) -> Result<([u8; CONFIG_SIZE], Vec<Registers>), BadState> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(BadState::Format)?;
    if header[..4] != MAGIC || header[4..6] != VERSION.to_le_bytes() {
        return Err(BadState::Format);
    }
    if usize::from(u16::from_le_bytes([header[6], header[7]])) != ports {
        return Err(BadState::Ports);
    }
    let (config, rest) = rest.split_first_chunk::<CONFIG_SIZE>().ok_or(BadState::Format)?;
    let (each, beyond) = rest.as_chunks::<PORT>();
    if each.len() != ports || !beyond.is_empty() {
        return Err(BadState::Format);
    }
    let registers = each.iter().map(port).collect::<Option<_>>().ok_or(BadState::Registers)?;
    Ok((*config, registers))
}

fn port(bytes: &[u8; PORT]) -> Option<Registers> {
    let [ier, fcr, lcr, mcr, scr, low, high, flags, changes, seen, fifos @ ..] = bytes;
    if flags & !(OVERRUN | EMPTY_UNTOLD) != 0 {
        return None;
    }
    let (rx, tx) = fifos.split_at(1 + FIFO_SIZE);
    Some(Registers {
        ier: *ier,
        fcr: *fcr,
        lcr: *lcr,
        mcr: *mcr,
        scr: *scr,
        divisor: [*low, *high],
        overrun: flags & OVERRUN != 0,
        empty_untold: flags & EMPTY_UNTOLD != 0,
        changes: *changes,
        seen: *seen,
        rx: fifo(rx)?,
        tx: fifo(tx)?,
    })
}

fn fifo(bytes: &[u8]) -> Option<Fifo> {
    let (len, bytes) = bytes.split_first()?;
    let (used, unused) = bytes.split_at_checked(usize::from(*len))?;
    if unused.iter().any(|byte| *byte != 0) {
        return None;
    }
    Fifo::of(used)
}
