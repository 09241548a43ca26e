//! Mapping page by page: whether the last of many entries costs more time than the first.

use crate::bench::samples::{micros, timed};
use serde::Serialize;
use std::time::Duration;
use umdev_tests::driver::{Daemon, Memory, Vhost};

const ENTRIES: u64 = 60_000;
/// The ends of the line are compared by this many.
const END: usize = 3000;
const PAGE: u64 = 4096;

/// One kind of message.
#[derive(Debug, Serialize)]
pub struct Maps {
    /// What was measured.
    pub name: &'static str,
    /// How many.
    pub entries: u64,
    /// Mean of the first 3,000.
    pub first_us: f64,
    /// Mean of the last 3,000.
    pub last_us: f64,
    /// Mean of all, the end of a batch included.
    pub each_us: f64,
}

/// Maps and unmaps 60,000 pages one by one, and in a batch each.
pub fn measure(daemon: &Daemon) -> Vec<Maps> {
    let uuid = daemon.create();
    let vhost = Vhost::open(daemon.root(), &uuid).expect("the node");
    vhost.set_owner().expect("an owner");
    let memory = Memory::new().expect("memory");
    let update = |n: u64| vhost.iotlb_update(2 * n * PAGE, PAGE, memory.address()).expect("UPDATE");
    let invalidate = |n: u64| vhost.iotlb_invalidate(2 * n * PAGE, PAGE).expect("INVALIDATE");
    let begin = || vhost.iotlb_begin().expect("BATCH_BEGIN");
    let end = || vhost.iotlb_end().expect("BATCH_END");
    let maps = vec![
        line("UPDATE", &update, || ()),
        line("INVALIDATE", &invalidate, || ()),
        {
            begin();
            line("UPDATE in a batch", &update, end)
        },
        {
            begin();
            line("INVALIDATE in a batch", &invalidate, end)
        },
    ];
    drop(vhost);
    daemon.remove(&uuid, "1").expect("remove");
    maps
}

fn line(name: &'static str, message: &dyn Fn(u64), end: impl FnOnce()) -> Maps {
    let times: Vec<Duration> = (0..ENTRIES).map(|n| timed(|| message(n)).1).collect();
    let ((), closing) = timed(end);
    let mean = |times: &[Duration]| {
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        micros(times.iter().sum::<Duration>() / count)
    };
    let entries = u32::try_from(ENTRIES).unwrap_or(u32::MAX);
    Maps {
        name,
        entries: ENTRIES,
        first_us: mean(&times[..END]),
        last_us: mean(&times[times.len() - END..]),
        each_us: mean(&times) + micros(closing / entries),
    }
}
