//! Counters of a card, one set a queue. Whoever works on a queue counts, anybody reads.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use virtio_mdev_api::AttributeSpec;

/// A counter that one thread at a time increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Called by whoever has the queue, so a load and a store do.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a receive queue counts: frames for the driver.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RxStatistics {
    /// Frames given to the driver.
    pub packets: Counter,
    /// Their bytes, without virtio-net header.
    pub bytes: Counter,
    /// Dropped: larger than the driver's buffers, which cannot be merged.
    pub too_long: Counter,
    /// Dropped: the link is down.
    pub link_down: Counter,
    /// Dropped: the back end failed.
    pub errors: Counter,
    /// Dropped: the driver does not want them, by its receive modes and filter tables.
    pub filtered: Counter,
}

/// What a transmit queue counts: frames of the driver.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct TxStatistics {
    /// Frames taken from the driver and passed on.
    pub packets: Counter,
    /// Their bytes, without virtio-net header.
    pub bytes: Counter,
    /// Dropped: not even an Ethernet header.
    pub too_short: Counter,
    /// Dropped: longer than the MTU allows, or than any frame can be.
    pub too_long: Counter,
    /// Dropped: the virtio-net header asks for what was not negotiated, or points beyond the frame.
    pub bad_header: Counter,
    /// Dropped: the link is down.
    pub link_down: Counter,
    /// Dropped: the back end did not take it.
    pub errors: Counter,
}

/// Counters of a queue pair as the driver sees them. Each half has cache lines of its own: the two may be counted by
/// different threads.
#[derive(Debug, Default)]
pub struct Statistics {
    /// What it receives.
    pub rx: RxStatistics,
    /// What it sends.
    pub tx: TxStatistics,
}

/// Packets, bytes, and drops by reason.
struct Counts<'c> {
    packets: &'c Counter,
    bytes: &'c Counter,
    dropped: Vec<(&'static str, &'c Counter)>,
}

impl Counts<'_> {
    /// Every name with its count; `dropped` is what the sum of drops is called.
    fn named(self, dropped: &'static str) -> impl Iterator<Item = (&'static str, u64)> {
        let drops = self.dropped.iter().map(|(_, counter)| counter.get()).fold(0, u64::wrapping_add);
        let reasons: Vec<_> = self.dropped.iter().map(|(name, counter)| (*name, counter.get())).collect();
        let sums = [("packets", self.packets.get()), ("bytes", self.bytes.get()), (dropped, drops)];
        sums.into_iter().chain(reasons)
    }
}

impl Statistics {
    fn half(&self, direction: Direction) -> Counts<'_> {
        let Self { rx, tx } = self;
        match direction {
            Direction::Rx => Counts {
                packets: &rx.packets,
                bytes: &rx.bytes,
                dropped: vec![
                    ("too_long", &rx.too_long),
                    ("link_down", &rx.link_down),
                    ("errors", &rx.errors),
                    ("filtered", &rx.filtered),
                ],
            },
            Direction::Tx => Counts {
                packets: &tx.packets,
                bytes: &tx.bytes,
                dropped: vec![
                    ("too_short", &tx.too_short),
                    ("too_long", &tx.too_long),
                    ("bad_header", &tx.bad_header),
                    ("link_down", &tx.link_down),
                    ("errors", &tx.errors),
                ],
            },
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Rx,
    Tx,
}

const DIRECTIONS: [(Direction, &str); 2] = [(Direction::Rx, "rx"), (Direction::Tx, "tx")];

/// The counters of all queues of a card.
///
/// As attributes they are in the group `statistics`: sums by the names that the kernel's network devices have
/// (`rx_packets`), those of a queue by the names that its virtio-net driver tells ethtool (`rx_queue_0_packets`).
#[derive(Debug)]
pub struct CardStatistics {
    pairs: Box<[Statistics]>,
}

impl CardStatistics {
    /// Of a card with so many queue pairs.
    pub fn new(pairs: u16) -> Arc<Self> {
        Arc::new(Self { pairs: (0..pairs).map(|_| Statistics::default()).collect() })
    }

    /// Those of one pair, which must exist.
    #[inline]
    pub fn pair(&self, number: u16) -> &Statistics {
        &self.pairs[usize::from(number)]
    }

    fn all(&self) -> impl Iterator<Item = (String, u64)> {
        let directions = || DIRECTIONS.into_iter();
        let sums = directions().flat_map(|(direction, word)| {
            self.sums(direction).into_iter().map(move |(name, count)| (format!("{word}_{name}"), count))
        });
        let of_queue = move |(number, pair): (usize, &Statistics)| -> Vec<(String, u64)> {
            let counts = directions().flat_map(|(direction, word)| {
                let counts = pair.half(direction).named("drops");
                counts.map(move |(name, count)| (format!("{word}_queue_{number}_{name}"), count))
            });
            counts.collect()
        };
        sums.chain(self.pairs.iter().enumerate().flat_map(of_queue))
    }

    fn sums(&self, direction: Direction) -> Vec<(&'static str, u64)> {
        let add = |mut sums: Vec<_>, pair: &Statistics| {
            let counts = pair.half(direction).named("dropped");
            if sums.is_empty() {
                return counts.collect();
            }
            iter::zip(&mut sums, counts).for_each(|((_, sum), (_, count))| *sum = u64::wrapping_add(*sum, count));
            sums
        };
        self.pairs.iter().fold(Vec::new(), add)
    }

    /// One attribute a counter.
    pub fn attributes(&self) -> Vec<AttributeSpec> {
        self.all().map(|(name, _)| AttributeSpec { name: format!("statistics/{name}"), writable: false }).collect()
    }

    /// The counter behind an attribute.
    pub fn show(&self, attribute: &str) -> Option<u64> {
        let wanted = attribute.strip_prefix("statistics/")?;
        self.all().find(|(name, _)| name == wanted).map(|(_, count)| count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_all_queues_and_drops_those_of_all_reasons() {
        let card = CardStatistics::new(2);
        card.pair(0).rx.packets.add(3);
        card.pair(1).rx.packets.add(4);
        card.pair(1).tx.bad_header.add(1);
        card.pair(1).tx.errors.add(5);
        let shown = |name: &str| card.show(&format!("statistics/{name}"));
        assert_eq!(["rx_packets", "rx_queue_0_packets", "rx_queue_1_packets"].map(shown), [Some(7), Some(3), Some(4)]);
        assert_eq!(["tx_dropped", "tx_queue_0_drops", "tx_queue_1_drops"].map(shown), [Some(6), Some(0), Some(6)]);
        assert_eq!(["tx_bad_header", "tx_queue_1_bad_header"].map(shown), [Some(1), Some(1)]);
        assert_eq!(["rx_queue_2_packets", "rx_drops", "rx_queue_0_dropped"].map(shown), [None; 3]);
        assert_eq!(card.show("rx_packets"), None);
    }

    #[test]
    fn every_attribute_has_a_count() {
        let card = CardStatistics::new(3);
        let attributes = card.attributes();
        assert_eq!(attributes.len(), 4 * (7 + 8));
        assert!(attributes.iter().all(|spec| card.show(&spec.name) == Some(0) && !spec.writable));
    }

    #[test]
    fn no_two_queues_count_on_one_cache_line() {
        assert_eq!((align_of::<RxStatistics>(), size_of::<RxStatistics>()), (64, 64));
        assert_eq!((align_of::<TxStatistics>(), size_of::<TxStatistics>()), (64, 64));
    }
}
