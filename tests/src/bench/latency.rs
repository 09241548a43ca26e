//! From a kick to the used chain, the driver on one processor and the device on another, beside what an eventfd takes there:
//! a thread that is woken by it and answers by a store. Both in turn, and both seen by looking at memory.

use crate::bench::samples::{micros, on_two_processors, quantile};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use umdev_tests::driver::{Client, Daemon, Options};

/// Kicks that come after a rest.
const RESTED: usize = 400;
/// Longer than the device looks for work before it sleeps.
const REST: Duration = Duration::from_millis(3);
/// Kicks that come one after the other, and how many before it is the other's turn.
const BUSY: usize = 20_000;
const TURN: usize = 500;
const BYTES: usize = 64;
/// VRING_USED_F_NO_NOTIFY.
const NO_NOTIFY: u16 = 1;
/// The answer after which the eventfd's thread ends.
const END: u64 = u64::MAX >> 1;

/// One way to be kicked.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Which.
    pub name: &'static str,
    /// From the kick to the used chain: median, and all but one in a hundred.
    pub device_us: [f64; 2],
    /// The eventfd: the same two.
    pub eventfd_us: [f64; 2],
    /// Device by eventfd, of the medians.
    pub times_floor: f64,
}

/// A device that takes what it is sent.
struct Device {
    client: Client,
}

impl Device {
    /// Sends a frame, and looks at the ring until it is used.
    fn kick(&mut self) -> Duration {
        let client = &mut self.client;
        let begun = Instant::now();
        client.queue(&[0x5a; BYTES]);
        // The index is out before the flag is looked at (virtio 1.3 §2.7.10.1).
        std::sync::atomic::fence(Ordering::SeqCst);
        if client.memory.load(client.tx.used_offset()) & NO_NOTIFY == 0 {
            client.tx.notify().expect("a kick");
        }
        while client.tx.used_idx() == client.tx.seen {
            std::hint::spin_loop();
        }
        let took = begun.elapsed();
        client.tx.take();
        took
    }
}

/// A thread that answers an eventfd.
struct Floor {
    kick: Arc<EventFd>,
    answer: Arc<AtomicU64>,
    asked: u64,
}

impl Floor {
    /// Started on the device's processor.
    fn start() -> Self {
        let kick = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("eventfd"));
        let answer = Arc::new(AtomicU64::new(0));
        let (own_kick, own_answer) = (Arc::clone(&kick), Arc::clone(&answer));
        std::thread::spawn(move || {
            let mut seen = 0;
            while seen < END {
                let _ = poll(&mut [PollFd::new(own_kick.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                seen += own_kick.read().unwrap_or(0);
                own_answer.store(seen, Ordering::Release);
            }
        });
        Self { kick, answer, asked: 0 }
    }

    fn kick(&mut self) -> Duration {
        self.asked += 1;
        let begun = Instant::now();
        self.kick.write(1).expect("a kick");
        while self.answer.load(Ordering::Acquire) != self.asked {
            std::hint::spin_loop();
        }
        begun.elapsed()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.kick.write(END);
    }
}

/// On a daemon that `start` starts.
pub fn measure(start: &dyn Fn() -> Daemon) -> Vec<Latency> {
    on_two_processors(
        || (start(), Floor::start()),
        |(daemon, mut floor)| {
            let uuid = daemon.create_of("loopback-sink");
            let client = Client::start(daemon.root(), &uuid, Options::default()).expect("a driver");
            let mut device = Device { client };
            let mut rested = [Vec::new(), Vec::new()];
            for _ in 0..RESTED {
                std::thread::sleep(REST);
                rested[0].push(device.kick());
                std::thread::sleep(REST);
                rested[1].push(floor.kick());
            }
            let mut busy = [Vec::new(), Vec::new()];
            for _ in 0..BUSY / TURN {
                busy[0].extend((0..TURN).map(|_| device.kick()));
                busy[1].extend((0..TURN).map(|_| floor.kick()));
            }
            vec![figures("after a rest of 3 ms: both sleep", rested), figures("one after the other", busy)]
        },
    )
}

fn figures(name: &'static str, times: [Vec<Duration>; 2]) -> Latency {
    let [device_us, eventfd_us] = times.map(|mut times| {
        times.sort_unstable();
        [50, 99].map(|percent| micros(quantile(&times, percent)))
    });
    Latency { name, device_us, eventfd_us, times_floor: device_us[0] / eventfd_us[0].max(1e-9) }
}

/// For people.
pub fn print(latencies: &[Latency]) {
    println!();
    let head = "from a kick to the used chain, between two processors";
    println!("{head:<64} {:>10} {:>10} {:>10} {:>10} {:>10}", "median µs", "p99 µs", "eventfd", "p99 µs", "× floor");
    for Latency { name, device_us: [device, device_p99], eventfd_us: [eventfd, eventfd_p99], times_floor } in latencies
    {
        println!(
            "{name:<64} {device:>10.1} {device_p99:>10.1} {eventfd:>10.1} {eventfd_p99:>10.1} {times_floor:>10.2}"
        );
    }
}
