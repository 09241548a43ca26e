//! Passes frames of 64 bytes through the device's side of a queue pair, on one thread, for a profiler that counts.
//!
//! `packets loop|enqueue|dequeue split|packed|in-order plain|mergeable NUMBER`
//!
//! Everything the device does for them is below `Bare::serve`. Exits with 3 where the ring is not offered.

#[path = "../src/port.rs"]
mod port;
#[path = "../src/sink.rs"]
mod sink;
#[path = "../src/source.rs"]
#[allow(dead_code, reason = "the parameters of an instance, which there is none of")]
mod source;

use port::LoopbackPort;
use sink::SinkPort;
use source::{Source, SourcePort};
use std::process::ExitCode;
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED};
use virtio_net::features::{Profile, VIRTIO_NET_F_MRG_RXBUF};
use virtio_net::testing::Bare;
use virtio_net::{HEADER, Mac, Port};
use virtqueue::testing::{Driver, Interrupts, Ram, map};

const RING: u16 = 256;
/// Frames that a driver announces at once, as DPDK's does.
const BURST: u32 = 32;
const BYTES: u16 = 64;
const INBOX: u64 = 0x20_0000;
const OUTBOX: u64 = 0x40_0000;
const SLOT: u32 = 2048;

struct Rings {
    rx: Driver,
    tx: Driver,
}

impl Rings {
    /// A burst of frames on their way, and room for as many.
    fn offer(&mut self, [receive, send]: [bool; 2]) {
        for n in (0..BURST).map(u64::from).map(|n| n * u64::from(SLOT)) {
            if receive {
                self.rx.stage(&[(INBOX + n, SLOT, true)]);
            }
            if send {
                let len = u32::from(BYTES) + u32::try_from(HEADER).expect("a header");
                self.tx.stage(&[(OUTBOX + n, len, false)]);
            }
        }
        self.rx.publish();
        self.tx.publish();
    }

    /// Takes back what was used, which has to be all.
    fn collect(&mut self) {
        for ring in [&mut self.rx, &mut self.tx] {
            while ring.take_used().is_some() {}
            assert_eq!(ring.outstanding(), 0, "chains that were not used");
        }
    }
}

fn pass<P: Port>(port: P, features: u64, directions: [bool; 2], number: u32) {
    let (ram, space) = (Ram::shared(8 << 20), AddressSpace::new(Limits::default()));
    map(&space, &ram);
    let ring = |base| {
        let ring = Driver::with_features(ram.clone(), base, RING, features);
        ring.ask_for(Interrupts::Never);
        ring
    };
    let mut rings = Rings { rx: ring(0x1000), tx: ring(0x10_0000) };
    let mut bare = Bare::start(port, features, [rings.rx.config(), rings.tx.config()], &space);
    for _ in 0..number.div_ceil(BURST) {
        rings.offer(directions);
        let _ = bare.serve();
        rings.collect();
    }
}

fn run(words: &[&str]) -> Option<ExitCode> {
    let &[way, format, mergeable, number] = words else { return None };
    let number = number.parse().ok()?;
    let format = match format {
        "split" => 0,
        "packed" => VIRTIO_F_RING_PACKED,
        "in-order" => VIRTIO_F_IN_ORDER,
        _ => return None,
    };
    let mergeable = match mergeable {
        "plain" => 0,
        "mergeable" => VIRTIO_NET_F_MRG_RXBUF,
        _ => return None,
    };
    let features = REQUIRED | format | mergeable;
    if features & !Profile::Fast.features() != 0 {
        return Some(ExitCode::from(3));
    }
    match way {
        "loop" => pass(LoopbackPort, features, [true, true], number),
        "enqueue" => {
            let source = Source::new(BYTES, Mac::from([2, 0, 0, 0, 0, 1]));
            pass(SourcePort::new(&source), features, [true, false], number);
        }
        "dequeue" => pass(SinkPort, features, [false, true], number),
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run(&words).unwrap_or_else(|| {
        eprintln!("usage: packets loop|enqueue|dequeue split|packed|in-order plain|mergeable NUMBER");
        ExitCode::from(2)
    })
}
