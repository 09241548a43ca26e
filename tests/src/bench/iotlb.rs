//! What an IOTLB entry costs when there are few, and when there are tens of thousands.

use crate::bench::samples::{median, micros, timed};
use serde::Serialize;
use std::time::Duration;
use umdev_tests::driver::{Client, Daemon, Options, Vhost, Via};

/// As many as a client with a virtual IOMMU may have, near the limit of a container.
pub const MANY: u64 = 60_000;
/// For one figure of many.
pub const FEW: u64 = 300;
const PAGE: u64 = 4096;
const FIRST: u64 = 1 << 40;

/// One kind of message or call, for all entries in turn.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Which.
    pub name: &'static str,
    /// Median of the first sixtieth: one entry's time is mostly noise.
    pub first_us: f64,
    /// Median of the last.
    pub last_us: f64,
    /// The one divided by the other: how far from flat.
    pub last_by_first: f64,
    /// Median of all, and for a batch a share in its end.
    pub each_us: f64,
}

/// UPDATE and INVALIDATE of each of so many entries, alone and within a batch.
pub fn measure(daemon: &Daemon, entries: u64) -> Vec<Line> {
    let uuid = daemon.create();
    let options = Options { via: Via::Iotlb, ..Options::default() };
    let client = Client::start(daemon.root(), &uuid, options).expect("a driver");
    let vhost = &client.vhost;
    let pages = client.memory.size() / PAGE;
    // Every other page, so that no two neighbours could be one mapping.
    let update = |entry: u64| {
        let address = client.memory.address() + entry * 2 % pages * PAGE;
        vhost.iotlb_update(FIRST + entry * PAGE, PAGE, address).expect("update");
    };
    let invalidate = |entry: u64| vhost.iotlb_invalidate(FIRST + entry * PAGE, PAGE).expect("invalidate");
    let lines = vec![
        line("IOTLB UPDATE of a page", None, entries, &update),
        line("IOTLB INVALIDATE", None, entries, &invalidate),
        line("IOTLB UPDATE of a page, in one batch", Some(vhost), entries, &update),
        line("IOTLB INVALIDATE, in one batch", Some(vhost), entries, &invalidate),
    ];
    drop(client);
    daemon.remove(&uuid, "1").expect("remove");
    lines
}

/// `message` for each of so many entries, within a batch of a vhost file if one is given.
pub fn line(name: &'static str, batch: Option<&Vhost>, entries: u64, message: &dyn Fn(u64)) -> Line {
    batch.inspect(|vhost| vhost.iotlb_begin().expect("begin"));
    let times: Vec<Duration> = (0..entries).map(|entry| timed(|| message(entry)).1).collect();
    let (_, closing) = timed(|| batch.inspect(|vhost| vhost.iotlb_end().expect("end")));
    let end = times.len() / 60;
    let first_us = micros(median(&times[..end]));
    let last_us = micros(median(&times[times.len() - end..]));
    let shares = u32::try_from(entries).unwrap_or(u32::MAX);
    let each_us = micros(median(&times) + if batch.is_some() { closing / shares } else { Duration::ZERO });
    Line { name, first_us, last_us, last_by_first: last_us / first_us, each_us }
}
