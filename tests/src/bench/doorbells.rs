//! Kicks by eventfd and by a store to a doorbell page, in turn in one run.

use crate::bench::frames;
use crate::bench::samples::{median, micros, quantile};
use serde::Serialize;
use std::time::{Duration, Instant};
use umdev_tests::driver::{Client, Daemon, Options};

const ROUNDS: usize = 10;
/// Kicks of a round that come one after the other.
const BUSY: usize = 2000;
/// Kicks of a round that come after a rest.
const RESTED: usize = 40;
/// Longer than the device waits before it sleeps at its deepest.
const REST: Duration = Duration::from_millis(5);
const BYTES: usize = 64;

/// What one way to kick costs.
#[derive(Debug, Serialize)]
pub struct Doorbell {
    /// Which.
    pub name: &'static str,
    /// The kick itself, as the driver's thread sees it, nanoseconds.
    pub kick_ns: f64,
    /// From a kick to the used chain, kicks one after the other.
    pub busy_us: f64,
    /// The same, all but one in a hundred.
    pub busy_p99_us: f64,
    /// From a kick after a rest to the used chain.
    pub rested_us: f64,
    /// The same, all but one in a hundred.
    pub rested_p99_us: f64,
    /// Frames there and back, a kick for up to 64.
    pub frames_per_second: f64,
    /// Processor time of the device's thread for each, nanoseconds.
    pub frame_ns: f64,
    /// What it takes of a processor when nothing happens, percent.
    pub idle_percent: f64,
}

struct Way {
    name: &'static str,
    client: Client,
    daemon: Daemon,
    kicks: Vec<Duration>,
    busy: Vec<Duration>,
    rested: Vec<Duration>,
    frames: Vec<frames::Frames>,
    idle: Vec<Duration>,
}

/// The ways there are here, each with a daemon of its own, whose thread serves nobody else: pages cannot be mapped
/// everywhere.
pub fn measure(start: impl Fn() -> Daemon) -> Vec<Doorbell> {
    let mut ways: Vec<Way> = ["eventfd", "page"].into_iter().filter_map(|name| Way::new(start(), name)).collect();
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.round();
        }
    }
    ways.into_iter().map(Way::figures).collect()
}

impl Way {
    fn new(daemon: Daemon, name: &'static str) -> Option<Self> {
        let uuid = daemon.try_create_with(&format!("doorbell={name}")).ok()?;
        let mut client = Client::open(daemon.root(), &uuid, Options::default()).expect("a driver");
        if name == "page" {
            client.map_doorbells().expect("doorbells");
        }
        client.run().expect("a device that runs");
        let (kicks, busy, rested) = (Vec::new(), Vec::new(), Vec::new());
        Some(Self { name, client, daemon, kicks, busy, rested, frames: Vec::new(), idle: Vec::new() })
    }

    /// A frame: how long its kick took, and how long it was until the device had used it.
    fn kick(&mut self) -> (Duration, Duration) {
        let client = &mut self.client;
        client.queue(&[0x5a; BYTES]);
        let begun = Instant::now();
        client.tx.notify().expect("a kick");
        let kicked = begun.elapsed();
        while client.tx.used_idx() == client.tx.seen {
            std::hint::spin_loop();
        }
        let used = begun.elapsed();
        client.tx.take();
        // It is on its way back.
        let frame = loop {
            match client.rx.take() {
                Some(frame) => break frame,
                None => std::hint::spin_loop(),
            }
        };
        client.rx.offer(u16::try_from(frame.id).expect("a descriptor"));
        (kicked, used)
    }

    fn round(&mut self) {
        for _ in 0..BUSY {
            let (kicked, used) = self.kick();
            self.kicks.push(kicked);
            self.busy.push(used);
        }
        for _ in 0..RESTED {
            std::thread::sleep(REST);
            let (_, used) = self.kick();
            self.rested.push(used);
        }
        let daemon = &self.daemon;
        let worked = || daemon.thread_time("loopback0");
        self.frames.push(frames::pass(&mut self.client, BYTES, frames::BRIEF, worked).expect("frames"));
        std::thread::sleep(REST);
        let before = worked();
        std::thread::sleep(frames::BRIEF);
        self.idle.push(worked() - before);
    }

    fn figures(self) -> Doorbell {
        let [busy, rested] = [self.busy, self.rested].map(|mut times| {
            times.sort_unstable();
            [50, 99].map(|percent| micros(quantile(&times, percent)))
        });
        let middle = |of: fn(&frames::Frames) -> f64| {
            let mut values: Vec<f64> = self.frames.iter().map(of).collect();
            values.sort_unstable_by(f64::total_cmp);
            quantile(&values, 50)
        };
        Doorbell {
            name: self.name,
            kick_ns: median(&self.kicks).as_secs_f64() * 1e9,
            busy_us: busy[0],
            busy_p99_us: busy[1],
            rested_us: rested[0],
            rested_p99_us: rested[1],
            frames_per_second: middle(|frames| frames.frames_per_second),
            frame_ns: middle(|frames| frames.daemon_ns),
            idle_percent: median(&self.idle).as_secs_f64() / frames::BRIEF.as_secs_f64() * 100.0,
        }
    }
}

type Figure = fn(&Doorbell) -> f64;

/// For people.
pub fn print(ways: &[Doorbell]) {
    println!();
    print!("{:<64}", "a kick, loopback, one driver thread that looks at its ring");
    ways.iter().for_each(|way| print!(" {:>10}", way.name));
    println!();
    let lines: [(&str, Figure); 8] = [
        ("the kick itself, median ns", |way| way.kick_ns),
        ("until used, one kick after the other, median µs", |way| way.busy_us),
        ("the same, p99", |way| way.busy_p99_us),
        ("until used, after a rest of 5 ms, median µs", |way| way.rested_us),
        ("the same, p99", |way| way.rested_p99_us),
        ("frames of 64 bytes a second, thousands", |way| way.frames_per_second / 1e3),
        ("and the device thread's processor time for each, ns", |way| way.frame_ns),
        ("of a processor when nothing happens, percent", |way| way.idle_percent),
    ];
    for (name, figure) in lines {
        print!("{name:<64}");
        for way in ways {
            print!(" {:>10.1}", figure(way));
        }
        println!();
    }
}
