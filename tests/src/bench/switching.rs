//! Frames a second through a switch, by how many ports it has: all of them send to their partners as fast as they can. One
//! thread serves a switch, on one processor, and one drives all its ports from another. The driver has written its rings
//! beforehand, so that for a burst it stores an index: what is measured is the switch.

use crate::bench::samples::on_two_processors;
use serde::Serialize;
use std::fs;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use umdev_tests::driver::abi::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, VIRTQ_DESC_F_WRITE};
use umdev_tests::driver::memory::BUFFERS;
use umdev_tests::driver::{CallResult, Client, Daemon, Descriptor, DriverError, HEADER, Options, Ring, new_uuid};

/// How many ports.
pub const PORTS: [u8; 6] = [2, 4, 8, 16, 32, 64];
/// Each of them is measured so often, in turn, for so long.
pub const TURNS: usize = 15;
pub const TIME: Duration = Duration::from_millis(100);
/// Bytes of a frame.
const BYTES: usize = 64;
/// Entries of a ring. All rings of the largest switch have room in the cache of a processor.
const ENTRIES: u16 = 64;
/// From one buffer to the next. All memory of the largest switch is known to a processor that has no large pages.
const STRIDE: usize = 192;
/// VRING_USED_F_NO_NOTIFY and VRING_AVAIL_F_NO_INTERRUPT.
const NOT: u16 = 1;

/// What passed through a switch.
#[derive(Debug, Serialize)]
pub struct Switching {
    /// Its ports.
    pub ports: u8,
    /// Frames received in a second, of all ports together: the median of all turns.
    pub frames_per_second: f64,
    /// Processor time of the thread for each, nanoseconds.
    pub thread_ns: f64,
    /// Frames that found no buffer, of a thousand that were sent.
    pub lost_of_a_thousand: f64,
    /// By what passed with the fewest ports in the same turn: median, least, most.
    pub by_fewest: [f64; 3],
    /// The same of what passed in a second of the thread's processor time, which others on the machine do not take.
    pub by_fewest_for_time: [f64; 3],
}

/// A driver whose frames all go to one other port.
struct Port {
    client: Client,
    received: u64,
    sent: u64,
}

/// A switch with all its ports.
struct Crowd {
    name: String,
    ports: Vec<Port>,
}

/// One turn.
struct Turn {
    rate: f64,
    thread_ns: f64,
    lost: f64,
}

fn address(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port]
}

fn offset(ring: &Ring, at: u16) -> usize {
    let queue = usize::try_from(ring.index).expect("a number of a queue") * usize::from(ENTRIES);
    BUFFERS + (queue + usize::from(at)) * STRIDE
}

impl Port {
    /// Port `number` of a switch, whose frames go to `to`.
    fn start(daemon: &Daemon, switch: &str, number: u8, to: u8) -> CallResult<Self> {
        let uuid = new_uuid();
        let create = format!("sys/class/mdev_bus/{switch}/mdev_supported_types/switch-access/create");
        let request = format!("{uuid} mac=02:00:00:00:00:{number:02x}");
        fs::write(daemon.path(create), request).map_err(DriverError::io("create"))?;
        let options = Options { queue_size: ENTRIES, ..Options::DEFAULT };
        let mut client = Client::open(daemon.root(), &uuid, options)?;
        client.negotiate()?;
        let frame = [&[0; HEADER][..], &address(to), &address(number), &[0x88, 0xb5], &[number; BYTES - 14]].concat();
        let len = |bytes: usize| u32::try_from(bytes).expect("a frame");
        let Client { memory, rx, tx, .. } = &mut client;
        for at in 0..ENTRIES {
            let (received, sent) = (offset(rx, at), offset(tx, at));
            memory.write(sent, &frame);
            let buffer =
                Descriptor { addr: memory.iova(received), len: len(STRIDE), flags: VIRTQ_DESC_F_WRITE, next: 0 };
            rx.write_descriptor(at, buffer);
            tx.write_descriptor(at, Descriptor { addr: memory.iova(sent), len: len(frame.len()), flags: 0, next: 0 });
            // Chains come back in order, so that what is available next is always what the ring says.
            rx.write_avail(at, at);
            tx.write_avail(at, at);
        }
        [&*rx, tx].into_iter().for_each(|ring| memory.store(ring.avail_offset(), NOT));
        client.program(&client.rx)?;
        client.program(&client.tx)?;
        client.vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)?;
        client.rx.publish(ENTRIES);
        Ok(Self { client, received: 0, sent: 0 })
    }

    /// Gives the device all buffers that came back, and all frames to send again if it is to go on. Says whether anything
    /// came back.
    fn turn(&mut self, goes_on: bool) -> CallResult<bool> {
        let (rx, tx) = (&mut self.client.rx, &mut self.client.tx);
        let (received, sent) = (take(rx), take(tx));
        self.received += u64::from(received);
        self.sent += u64::from(sent);
        if received > 0 {
            offer(rx)?;
        }
        if goes_on && tx.outstanding() < ENTRIES {
            offer(tx)?;
        }
        Ok(received > 0 || sent > 0)
    }

    /// Whether what lies in its buffers, all of which were used, is from its partner.
    fn check(&self, from: u8) -> CallResult<()> {
        for at in 0..ENTRIES {
            let mut frame = [0; HEADER + BYTES];
            self.client.memory.read(offset(&self.client.rx, at), &mut frame);
            if frame[HEADER + 6..HEADER + 12] != address(from) || frame[HEADER + 14..] != [from; BYTES - 14] {
                return Err(DriverError::Wrong { what: format!("{frame:02x?} from {from}") });
            }
        }
        Ok(())
    }
}

/// How much came back.
fn take(ring: &mut Ring) -> u16 {
    let used = ring.used_idx();
    let count = used.wrapping_sub(ring.seen);
    ring.seen = used;
    count
}

/// Makes all of a ring available.
fn offer(ring: &mut Ring) -> CallResult<()> {
    ring.publish(ring.seen.wrapping_add(ENTRIES));
    // The index is out before the flag is looked at (virtio 1.3 §2.7.10.1).
    fence(Ordering::SeqCst);
    if ring.memory().load(ring.used_offset()) & NOT == 0 { ring.notify() } else { Ok(()) }
}

impl Crowd {
    fn start(daemon: &Daemon, count: u8) -> CallResult<Self> {
        let name = name(count);
        let ports = (0..count).map(|number| Port::start(daemon, &name, number, number ^ 1));
        Ok(Self { ports: ports.collect::<CallResult<_>>()?, name })
    }

    fn turn(&mut self, daemon: &Daemon, time: Duration) -> CallResult<Turn> {
        let before = (self.totals(), daemon.thread_time(&self.name));
        let begun = Instant::now();
        while begun.elapsed() < time {
            for port in &mut self.ports {
                port.turn(true)?;
            }
        }
        let took = begun.elapsed().as_secs_f64();
        let worked = daemon.thread_time(&self.name).saturating_sub(before.1).as_secs_f64();
        let [received, sent] = self.totals();
        let [received, sent] = [received - before.0[0], sent - before.0[1]].map(float);
        // Nothing is under way when the turn is another's.
        while self.ports.iter().any(|port| port.client.tx.outstanding() > 0) {
            for port in &mut self.ports {
                port.turn(false)?;
            }
            if begun.elapsed() > time + Duration::from_secs(10) {
                return Err(DriverError::Timeout { what: "the last frames" });
            }
        }
        // What is received late counts for the next turn, which is as long.
        let lost = (1.0 - received / sent.max(1.0)).max(0.0) * 1e3;
        Ok(Turn { rate: received / took, thread_ns: worked * 1e9 / received.max(1.0), lost })
    }

    fn totals(&self) -> [u64; 2] {
        let sum = |of: fn(&Port) -> u64| self.ports.iter().map(of).sum();
        [sum(|port| port.received), sum(|port| port.sent)]
    }

    fn check(&self) -> CallResult<()> {
        (0..).zip(&self.ports).try_for_each(|(number, port): (u8, _)| port.check(number ^ 1))
    }
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn name(count: u8) -> String {
    format!("switch{count}")
}

/// On daemons of its own.
pub fn measure(turns: usize, time: Duration) -> Vec<Switching> {
    let parents = PORTS.map(|count| format!("switch:{}", name(count)));
    let arguments: Vec<&str> = parents.iter().flat_map(|parent| ["--parent", parent]).collect();
    let start = || Daemon::with(&[&arguments[..], &["--log", "warn"]].concat());
    let measure = |daemon: Daemon| -> CallResult<Vec<Switching>> {
        let mut crowds = PORTS.map(|count| Crowd::start(&daemon, count)).into_iter().collect::<CallResult<Vec<_>>>()?;
        for crowd in &mut crowds {
            crowd.turn(&daemon, time / 4)?;
            crowd.check()?;
        }
        let mut all: Vec<Vec<Turn>> = crowds.iter().map(|_| Vec::new()).collect();
        for turn in 0..turns {
            for which in 0..crowds.len() {
                // Each begins as often as the others.
                let which = (which + turn) % crowds.len();
                all[which].push(crowds[which].turn(&daemon, time)?);
            }
        }
        Ok(PORTS.iter().zip(&all).map(|(ports, turns)| figures(*ports, turns, &all[0])).collect())
    };
    on_two_processors(start, measure).unwrap_or_else(|error| panic!("a switch: {error}"))
}

fn figures(ports: u8, turns: &[Turn], fewest: &[Turn]) -> Switching {
    let sorted = |values: &mut dyn Iterator<Item = f64>| {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    let of = |figure: fn(&Turn) -> f64| {
        let values = sorted(&mut turns.iter().map(figure));
        values[values.len() / 2]
    };
    let ratios = |ratio: fn(&Turn, &Turn) -> f64| {
        let ratios = sorted(&mut turns.iter().zip(fewest).map(|(turn, fewest)| ratio(turn, fewest)));
        [ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1]]
    };
    Switching {
        ports,
        frames_per_second: of(|turn| turn.rate),
        thread_ns: of(|turn| turn.thread_ns),
        lost_of_a_thousand: of(|turn| turn.lost),
        by_fewest: ratios(|turn, fewest| turn.rate / fewest.rate.max(1.0)),
        by_fewest_for_time: ratios(|turn, fewest| fewest.thread_ns / turn.thread_ns),
    }
}

/// For people.
pub fn print(lines: &[Switching]) {
    println!();
    let head = "a switch of one thread, 64 bytes, pairs that send to each other";
    println!("{head:<64} {:>10} {:>10} {:>10}", "frames/s", "thread ns", "lost ‰");
    for line in lines {
        let Switching { ports, frames_per_second, thread_ns, lost_of_a_thousand, .. } = line;
        let name = format!("{ports} ports");
        println!("{name:<64} {frames_per_second:>10.0} {thread_ns:>10.1} {lost_of_a_thousand:>10.2}");
        for (name, [median, least, most]) in
            [("frames/s", line.by_fewest), ("frames for the thread's time", line.by_fewest_for_time)]
        {
            let name = format!("    {name}, by those with {} ports: median (least to most)", PORTS[0]);
            println!("{name:<64} {:>21}", format!("{median:.2} ({least:.2} to {most:.2})"));
        }
    }
}
