//! Prints how many frames a second go through a loopback instance, with a driver in the same process.
//!
//! `cargo run --release -p loopback --example loopback_cost`
//!
//! The driver is a model, not a fast one: `driver alone` says what its own work costs, to be seen beside the rest.

use loopback::Loopback;
use std::time::{Duration, Instant};
use uuid::Uuid;
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_EVENT_IDX};
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent};
use virtio_net::testing::{Guest, RX, TX};

const RING: u16 = 256;
const RUN: Duration = Duration::from_millis(500);
const INBOX: u64 = 0x20_0000;
const OUTBOX: u64 = 0x40_0000;

fn guest(features: u64) -> Guest {
    let request = CreateRequest {
        uuid: Uuid::from_u128(1),
        type_name: "net".to_owned(),
        parameters: std::collections::BTreeMap::new(),
        doorbell_pages: false,
        owner: None,
        link: DeviceLink::new("cost"),
    };
    let Ok(Device::Virtio(device)) = Loopback::new("loopback0", 1).create(request) else {
        panic!("no device");
    };
    Guest::new(device, REQUIRED | features, RING)
}

/// Keeps both rings busy, moving `burst` frames of `len` bytes at a time. Frames a second.
fn throughput(features: u64, len: u32, burst: u16) -> f64 {
    let mut guest = guest(features);
    guest.start();
    let (mut received, begun) = (0u32, Instant::now());
    while begun.elapsed() < RUN {
        let mut idle = true;
        let room = RING - guest.rx.outstanding();
        if room >= burst {
            for _ in 0..room {
                let addr = INBOX + 2048 * u64::from(guest.rx.next_head());
                guest.rx.stage(&[(addr, 2048, true)]);
            }
            guest.rx.publish();
            if wants_kick(&guest, RX, features) {
                guest.kick(RX);
            }
            idle = false;
        }
        let room = RING - guest.tx.outstanding();
        if room >= burst {
            for _ in 0..room {
                let addr = OUTBOX + 2048 * u64::from(guest.tx.next_head());
                guest.tx.stage(&[(addr, 12 + len, false)]);
            }
            guest.tx.publish();
            if wants_kick(&guest, TX, features) {
                guest.kick(TX);
            }
            idle = false;
        }
        while guest.tx.take_used().is_some() {
            idle = false;
        }
        while guest.rx.take_used().is_some() {
            received += 1;
            idle = false;
        }
        if idle {
            std::hint::spin_loop();
        }
    }
    let rate = f64::from(received) / begun.elapsed().as_secs_f64();
    guest.stop();
    rate
}

fn wants_kick(guest: &Guest, queue: u16, features: u64) -> bool {
    let ring = if queue == RX { &guest.rx } else { &guest.tx };
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    if features & VIRTIO_F_EVENT_IDX == 0 {
        return ring.used_flags() & 1 == 0;
    }
    // Asked for an index in the last ring of them.
    ring.next_avail().wrapping_sub(ring.avail_event()).wrapping_sub(1) < RING
}

/// The nanoseconds of the driver's own work for a frame.
fn driver_alone() -> f64 {
    let mut guest = guest(0);
    let begun = Instant::now();
    let rounds = 200_000u32;
    for _ in 0..rounds {
        guest.rx.stage(&[(INBOX, 2048, true)]);
        guest.tx.stage(&[(OUTBOX, 76, false)]);
        guest.tx.ram.store(guest.tx.used + 2, guest.tx.next_avail());
        guest.rx.ram.store(guest.rx.used + 2, guest.rx.next_avail());
        assert!(guest.tx.take_used().is_some() && guest.rx.take_used().is_some());
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(rounds)
}

fn main() {
    println!("driver alone: {:.0} ns a frame", driver_alone());
    for (name, features) in [("flags", 0), ("event indices", VIRTIO_F_EVENT_IDX)] {
        for len in [64, 1500] {
            let mut rates: Vec<f64> = (0..5).map(|_| throughput(features, len, 32)).collect();
            rates.sort_by(f64::total_cmp);
            let [low, .., high] = rates[..] else { continue };
            let median = rates[rates.len() / 2];
            println!(
                "{len:>5} B, {name:<13}: {:.2} M frames/s ({:.2}..{:.2}), {:.0} ns a frame",
                median / 1e6,
                low / 1e6,
                high / 1e6,
                1e9 / median
            );
        }
    }
}
