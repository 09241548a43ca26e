//! Counters of an instance. One thread counts, any reads.

use std::sync::atomic::{AtomicU64, Ordering};
use virtio_mdev_api::AttributeSpec;

/// A counter that one thread increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Called on the device's thread alone, so a load and a store do.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters as the driver sees them: `rx` is what it receives, `tx` what it sends.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Frames given to the driver.
    pub rx_packets: Counter,
    /// Their bytes, without virtio-net header.
    pub rx_bytes: Counter,
    /// Frames taken from the driver and passed on.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Dropped: larger than the driver's buffers, which cannot be merged.
    pub rx_too_long: Counter,
    /// Dropped: the link is down.
    pub rx_link_down: Counter,
    /// Dropped: the back end failed.
    pub rx_errors: Counter,
    /// Dropped: not even an Ethernet header.
    pub tx_too_short: Counter,
    /// Dropped: longer than the MTU allows, or than any frame can be.
    pub tx_too_long: Counter,
    /// Dropped: the virtio-net header asks for what was not negotiated, or points beyond the frame.
    pub tx_bad_header: Counter,
    /// Dropped: the link is down.
    pub tx_link_down: Counter,
    /// Dropped: the back end did not take it.
    pub tx_errors: Counter,
}

impl Statistics {
    fn all(&self) -> [(&'static str, u64); 14] {
        let rx_dropped = [&self.rx_too_long, &self.rx_link_down, &self.rx_errors];
        let tx_dropped =
            [&self.tx_too_short, &self.tx_too_long, &self.tx_bad_header, &self.tx_link_down, &self.tx_errors];
        let sum = |counters: &[&Counter]| counters.iter().map(|counter| counter.get()).fold(0, u64::wrapping_add);
        [
            ("rx_packets", self.rx_packets.get()),
            ("rx_bytes", self.rx_bytes.get()),
            ("rx_dropped", sum(&rx_dropped)),
            ("rx_too_long", self.rx_too_long.get()),
            ("rx_link_down", self.rx_link_down.get()),
            ("rx_errors", self.rx_errors.get()),
            ("tx_packets", self.tx_packets.get()),
            ("tx_bytes", self.tx_bytes.get()),
            ("tx_dropped", sum(&tx_dropped)),
            ("tx_too_short", self.tx_too_short.get()),
            ("tx_too_long", self.tx_too_long.get()),
            ("tx_bad_header", self.tx_bad_header.get()),
            ("tx_link_down", self.tx_link_down.get()),
            ("tx_errors", self.tx_errors.get()),
        ]
    }

    /// One attribute a counter, in the group `statistics` as the kernel's network devices have it.
    pub fn attributes() -> Vec<AttributeSpec> {
        let all = Self::default().all();
        all.iter().map(|(name, _)| AttributeSpec { name: format!("statistics/{name}"), writable: false }).collect()
    }

    /// The counter behind an attribute.
    pub fn show(&self, attribute: &str) -> Option<u64> {
        let wanted = attribute.strip_prefix("statistics/")?;
        self.all().iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
    }
}
