//! One cell: both backends, in turn.

use super::backend::{Backend, Ours};
use super::cell::{Cell, Way};
use super::testpmd::Testpmd;
use serde::Serialize;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use umdev_tests::lab::{LabError, LabResult};

/// Entries of a ring.
pub const RING: usize = 1024;
/// Frames on their way in a loop, in bursts of 32.
const BURSTS: usize = 8;
/// What is under way when everything stands still has arrived after this.
const SETTLED: Duration = Duration::from_millis(60);

/// How long and how often.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Effort {
    /// Measurements of each backend.
    pub pairs: usize,
    /// Of each, not counted.
    pub warm_up: Duration,
    /// Of each.
    pub time: Duration,
}

/// One backend's part of a cell.
#[derive(Debug, Serialize)]
pub struct Side {
    /// Frames a second, each measurement, by the client's port.
    pub rates: Vec<f64>,
    /// Least cycles that the client worked for a frame.
    pub client_cycles: Option<f64>,
    /// Frames that one side counts as passed and the other does not.
    pub lost: i64,
    /// Frames that the client could not place in its ring.
    pub refused: u64,
    /// All that passed, by the client's count.
    pub frames: u64,
}

/// What became of a cell.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Figures of both.
    Measured {
        /// DPDK's vhost.
        dpdk: Side,
        /// Ours.
        ours: Side,
        /// Ours by DPDK's: median of the pairs, least, most.
        ratio: [f64; 3],
    },
    /// One of them cannot do it: which, and what it lacks.
    Absent(String),
}

/// A backend and the client that drives it.
struct Stand<'d> {
    backend: Backend<'d>,
    client: Testpmd,
    cell: Cell,
    started: bool,
    side: Side,
}

impl<'d> Stand<'d> {
    fn new(backend: Backend<'d>, cpu: usize, cell: &Cell, name: &str) -> LabResult<Self> {
        let [forwarding, _] = cell.way.forwarding();
        let device = format!(
            "--vdev net_virtio_user0,path={},queues=1,queue_size={RING},{}",
            backend.socket().display(),
            cell.device_options()
        );
        let options = format!("--rxd={RING} --txd={RING} --forward-mode={forwarding} --txpkts={}", cell.bytes);
        let name = format!("umdev-{}-{name}", std::process::id());
        let client = Testpmd::start(&name, cpu, &device, &options)?;
        let side = Side { rates: Vec::new(), client_cycles: None, lost: 0, refused: 0, frames: 0 };
        Ok(Self { backend, client, cell: *cell, started: false, side })
    }

    /// Frames pass for a while; adds how many a second.
    fn measure(&mut self, effort: &Effort) -> LabResult<()> {
        self.backend.begin()?;
        let first = self.cell.way == Way::Loop && !std::mem::replace(&mut self.started, true);
        self.client.say(&if first { format!("start tx_first {BURSTS}") } else { "start".to_owned() })?;
        sleep(effort.warm_up);
        self.client.stats()?;
        sleep(effort.time);
        let stats = self.client.stats()?;
        let forwarded = self.client.stop()?;
        self.backend.end()?;
        self.side.rates.push(match self.cell.way {
            Way::Loop | Way::Enqueue => stats.received_per_second,
            Way::Dequeue => stats.sent_per_second,
        });
        self.side.refused += forwarded.dropped;
        let least = [self.side.client_cycles, forwarded.cycles].into_iter().flatten().min_by(f64::total_cmp);
        self.side.client_cycles = least;
        Ok(())
    }

    /// Lets what is under way arrive, and compares what both counted.
    fn settle(mut self) -> LabResult<Side> {
        self.backend.begin()?;
        if self.cell.way == Way::Loop {
            // what comes back is not sent again
            self.client.ask("set fwd rxonly", "Set rxonly")?;
            self.client.say("start")?;
            sleep(SETTLED);
            self.client.stop()?;
        }
        sleep(SETTLED);
        self.backend.end()?;
        if self.cell.way == Way::Enqueue {
            self.client.say("start")?;
            sleep(SETTLED);
            self.client.stop()?;
        }
        let (client, backend) = (self.client.stats()?, self.backend.counted()?);
        let difference = |sent: u64, arrived: u64| sent.cast_signed() - arrived.cast_signed();
        self.side.lost = match self.cell.way {
            Way::Loop => {
                let there = difference(client.sent, backend.taken);
                let back = difference(backend.given, client.received);
                if there == 0 { back } else { there }
            }
            Way::Dequeue => difference(client.sent, backend.taken),
            Way::Enqueue => {
                let under_way = difference(backend.given, client.received);
                // a source of ours does not stop: what it put into the ring last lies there
                let ours = matches!(self.backend, Backend::Ours { .. });
                let ring = RING.cast_signed() as i64;
                if ours && (0..=ring).contains(&under_way) { 0 } else { under_way }
            }
        };
        self.side.frames = if self.cell.way == Way::Dequeue { client.sent } else { client.received };
        Ok(self.side)
    }
}

/// Measures a cell.
pub fn cell(
    ours: &Ours,
    dir: &Path,
    [client_cpu, backend_cpu]: [usize; 2],
    cell: &Cell,
    effort: &Effort,
) -> LabResult<Outcome> {
    let mut ours = Stand::new(ours.backend(dir, cell)?, client_cpu, cell, "client-ours")?;
    if let Some(why) = cell.misses(ours.client.features()?) {
        return Ok(Outcome::Absent(format!("ours: {why}")));
    }
    let mut dpdk = Stand::new(Backend::dpdk(dir, backend_cpu, cell)?, client_cpu, cell, "client-dpdk")?;
    if let Some(why) = cell.misses(dpdk.client.features()?) {
        return Ok(Outcome::Absent(format!("DPDK: {why}")));
    }
    for pair in 0..effort.pairs {
        // neither is always first
        let (first, second) = if pair % 2 == 0 { (&mut dpdk, &mut ours) } else { (&mut ours, &mut dpdk) };
        first.measure(effort)?;
        second.measure(effort)?;
    }
    let (dpdk, ours) = (dpdk.settle()?, ours.settle()?);
    if dpdk.rates.iter().chain(&ours.rates).any(|rate| *rate == 0.0) {
        return Err(LabError::Wrong(format!("{cell}: nothing passed: {dpdk:?} {ours:?}")));
    }
    let mut ratios: Vec<f64> = dpdk.rates.iter().zip(&ours.rates).map(|(dpdk, ours)| ours / dpdk).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let ratio = [median(&ratios), ratios[0], ratios[ratios.len() - 1]];
    Ok(Outcome::Measured { dpdk, ours, ratio })
}

/// Of sorted values.
pub fn median(sorted: &[f64]) -> f64 {
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}
