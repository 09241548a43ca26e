//! What a look into the address space costs a queue's thread while somebody maps and unmaps.

use crate::bench::samples::quantile;
use nix::errno::Errno;
use serde::Serialize;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use virtio_mdev_api::dma::{AddressSpace, Backing, Limits, Lookup, Permissions, Reader, Region, RemoteMemory};

const PAGE: u64 = 4096;
const REGIONS: u64 = 60_000;
/// Lookups of one burst.
const BURST: u64 = 32;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(100);

/// Rounds with nothing changing and with maps and unmaps as fast as they go, in turn.
#[derive(Debug, Serialize)]
pub struct Snapshot {
    /// How many regions are mapped.
    pub regions: u64,
    /// Median, nanoseconds a lookup, its share in the burst included.
    pub quiet_ns: f64,
    /// The same beside the changes.
    pub busy_ns: f64,
    /// Median, least and greatest of the ratios of neighbouring rounds.
    pub busy_by_quiet: [f64; 3],
    /// Changes a second meanwhile.
    pub changes_per_second: f64,
}

/// Memory that is only looked for.
#[derive(Debug)]
struct Nothing;

impl RemoteMemory for Nothing {
    fn read(&self, _addr: u64, _buf: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn write(&self, _addr: u64, _buf: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn set_bits(&self, _addr: u64, _bits: u8) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn another(self: Arc<Self>) -> Arc<dyn RemoteMemory> {
        self
    }

    fn revoke(&self) {}
}

fn region(number: u64) -> Region {
    let backing = Backing::Remote { memory: Arc::new(Nothing), addr: 0 };
    Region { iova: number * 2 * PAGE, len: PAGE, permissions: Permissions::READ | Permissions::WRITE, backing }
}

/// One thread looks, another changes.
pub fn measure() -> Snapshot {
    let space = AddressSpace::new(Limits::default());
    space.map_all((0..REGIONS).map(region).collect()).expect("room");
    let mut reader = space.reader("looks", Arc::new(|_: &str| ()));
    let (changing, ended, changes) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut rounds: [Vec<f64>; 2] = Default::default();
    let mut busy_time = Duration::ZERO;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                if changing.load(Ordering::Relaxed) {
                    let spare = region(REGIONS);
                    let (first, last) = (spare.iova, spare.last());
                    space.map(spare).expect("room");
                    assert_eq!(space.unmap(first, last).regions, 1);
                    changes.fetch_add(2, Ordering::Relaxed);
                } else {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        for round in 0..2 * ROUNDS {
            let busy = round % 2 == 1;
            changing.store(busy, Ordering::Relaxed);
            let begun = Instant::now();
            rounds[usize::from(busy)].push(look(&mut reader));
            busy_time += if busy { begun.elapsed() } else { Duration::ZERO };
        }
        ended.store(true, Ordering::Relaxed);
    });
    let mut ratios: Vec<f64> = rounds[1].iter().zip(&rounds[0]).map(|(busy, quiet)| busy / quiet).collect();
    ratios.sort_by(f64::total_cmp);
    let [quiet_ns, busy_ns] = rounds.map(|mut times| {
        times.sort_by(f64::total_cmp);
        quantile(&times, 50)
    });
    let count = f64::from(u32::try_from(changes.into_inner()).unwrap_or(u32::MAX));
    Snapshot {
        regions: REGIONS,
        quiet_ns,
        busy_ns,
        busy_by_quiet: [quantile(&ratios, 50), ratios[0], ratios[ratios.len() - 1]],
        changes_per_second: count / busy_time.as_secs_f64(),
    }
}

/// Nanoseconds a lookup, at places all over the address space.
fn look(reader: &mut Reader) -> f64 {
    let (begun, mut lookups, mut at) = (Instant::now(), 0_u32, 1_u64);
    while begun.elapsed() < ROUND {
        // The clock is dear beside a lookup.
        for _ in 0..64 {
            let burst = reader.enter();
            let view = burst.view();
            for _ in 0..BURST {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let iova = (at >> 33) % REGIONS * 2 * PAGE;
                assert!(matches!(black_box(view.lookup(black_box(iova), 64, Permissions::READ)), Lookup::Hit(_)));
            }
            lookups += 32;
        }
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(lookups)
}
