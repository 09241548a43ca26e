//! What the switch dropped at a port, by reason. Senders count drops at other ports, so any thread counts. The card counts
//! all of them together, as errors.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drop {
    /// Its driver had no buffer for it, or is not there.
    RxNoBuffers,
    /// More than `rx-pps` or `rx-bps`.
    RxLimited,
    /// It sent what `tx-pps` or `tx-bps` did not allow.
    TxLimited,
    /// Of a VLAN that the port is not in.
    TxVlan,
    /// Its source is the address of no station.
    TxBadSource,
    /// Its source is another one than the port's own.
    TxSpoofed,
    /// To a group that is not forwarded (01:80:c2:00:00:0x).
    TxReserved,
    /// Nobody else is there, or its station is at this port.
    TxNoPort,
}

const NAMES: [(Drop, &str); 8] = [
    (Drop::RxNoBuffers, "rx_no_buffers"),
    (Drop::RxLimited, "rx_limited"),
    (Drop::TxLimited, "tx_limited"),
    (Drop::TxVlan, "tx_vlan"),
    (Drop::TxBadSource, "tx_bad_source"),
    (Drop::TxSpoofed, "tx_spoofed"),
    (Drop::TxReserved, "tx_reserved"),
    (Drop::TxNoPort, "tx_no_port"),
];

/// The counts of a port.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    /// Counts one.
    #[cold]
    pub fn count(&self, reason: Drop) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(_, name)| *name)
    }

    /// The count of this name.
    pub fn show(&self, name: &str) -> Option<u64> {
        let (reason, _) = NAMES.iter().find(|(_, known)| *known == name)?;
        Some(self.0[*reason as usize].load(Ordering::Relaxed))
    }
}
