//! Prints what the DMA address space costs: lookups by number of regions, and maps as the table fills.
//!
//! `cargo run --release -p virtio-mdev-api --example dma_cost`

#[path = "../tests/dma/memory.rs"]
mod memory;

use memory::{RW, Window, shared};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use virtio_mdev_api::dma::{AddressSpace, Limits, Lookup, Reader, Region};

const PAGE: u64 = 4096;

fn region(window: &Arc<Window>, n: u64) -> Region {
    shared(window, n * 2 * PAGE, PAGE, 0, RW)
}

fn nanoseconds(times: u64, mut body: impl FnMut(u64)) -> f64 {
    let mut rounds: Vec<f64> = (0..7)
        .map(|_| {
            let begun = Instant::now();
            (0..times).for_each(&mut body);
            begun.elapsed().as_secs_f64() * 1e9 / times as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn lookups(window: &Arc<Window>, count: u64) {
    let space = AddressSpace::new(Limits::default());
    space.map_all((0..count).map(|n| region(window, n)).collect()).unwrap();
    let mut reader: Reader = space.reader("cost", Arc::new(|_: &str| ()));
    let mut bursts = 0;
    let burst = nanoseconds(1_000_000, |_| {
        bursts += reader.enter().generation() & 1;
    });
    black_box(bursts);
    let burst_guard = reader.enter();
    let view = burst_guard.view();
    let hit = |iova| matches!(black_box(view.lookup(black_box(iova), 64, RW)), Lookup::Hit(_));
    let same = nanoseconds(2_000_000, |n| assert!(hit(n & 0xf00)));
    let mut at = 0u64;
    let random = nanoseconds(1_000_000, |_| {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        assert!(hit((at >> 33) % count * 2 * PAGE));
    });
    println!("{count:>6} regions: burst {burst:6.1} ns, same region {same:6.1} ns, random region {random:6.1} ns");
}

fn maps(window: &Arc<Window>) {
    let space = AddressSpace::new(Limits::default());
    let mut mapped = 0u64;
    for stop in [256, 1024, 8192, 32_768, 65_535] {
        while mapped + 256 < stop {
            space.map(region(window, mapped)).unwrap();
            mapped += 1;
        }
        let (begun, from) = (Instant::now(), mapped);
        while mapped < stop {
            space.map(region(window, mapped)).unwrap();
            mapped += 1;
        }
        let each = begun.elapsed().as_secs_f64() * 1e9 / (mapped - from) as f64;
        println!("{mapped:>6} regions: map {each:8.0} ns (mean of the last {})", mapped - from);
    }
    let begun = Instant::now();
    for n in 0..256 {
        space.unmap(n * 200 * 2 * PAGE, n * 200 * 2 * PAGE);
    }
    println!("        unmap one of them {:8.0} ns", begun.elapsed().as_secs_f64() * 1e9 / 256.0);
    let begun = Instant::now();
    space.unmap_all();
    println!("        unmap all         {:8.2} ms", begun.elapsed().as_secs_f64() * 1e3);
}

fn main() {
    let window = Window::new(4096);
    for count in [1, 8, 512, 60_000] {
        lookups(&window, count);
    }
    maps(&window);
}
