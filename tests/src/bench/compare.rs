//! Two builds of the daemon in one run, in turn, so that whatever else the machine does it does to both.

use crate::bench::samples::{Samples, micros, on_one_processor};
use crate::bench::{calls, frames, iotlb};
use serde::Serialize;
use std::path::Path;
use umdev_tests::driver::Daemon;

/// Pairs that are measured; each begins with the other build than the one before.
const PAIRS: usize = 30;
const ROUNDS: usize = 100;
const CREATIONS: usize = 15;

/// This build against the other, for one figure.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// What was measured.
    pub name: String,
    /// Its median with the other build: microseconds, or frames a second.
    pub base: f64,
    /// With this one.
    pub this: f64,
    /// How many times slower this build is: the median of all pairs. Less than 1 is faster.
    pub slower: f64,
    /// The least of them.
    pub least: f64,
    /// The most.
    pub most: f64,
}

/// One figure of one daemon.
struct Figure {
    name: String,
    value: f64,
    more_is_better: bool,
}

/// What calls and messages take.
fn control(daemon: &Daemon) -> Vec<Figure> {
    let less = |name: &str, value| Figure { name: name.to_owned(), value, more_is_better: false };
    let calls = calls::measure(daemon, ROUNDS, CREATIONS);
    let lines = iotlb::measure(daemon, iotlb::FEW);
    let calls = calls.iter().map(|call: &Samples| less(call.name(), micros(call.median())));
    calls.chain(lines.iter().map(|line| less(line.name, line.each_us))).collect()
}

/// What frames of so many bytes cost the daemon, and how many pass.
fn frames(daemon: &Daemon, bytes: usize) -> Vec<Figure> {
    let passed = frames::measure(daemon, &[bytes], frames::BRIEF).into_iter();
    let figures = passed.flat_map(|frames| {
        let (cost, rate) = (frames.daemon_ns, frames.frames_per_second);
        [
            Figure {
                name: format!("the daemon's processor time for a frame of {bytes} bytes, ns"),
                value: cost,
                more_is_better: false,
            },
            Figure { name: format!("frames of {bytes} bytes a second"), value: rate, more_is_better: true },
        ]
    });
    figures.collect()
}

/// Measures both, `base` being the program of the other build.
pub fn measure(base: &Path, start: &dyn Fn(Option<&Path>) -> Daemon) -> Vec<Comparison> {
    let in_turn = |figures: &dyn Fn(&Daemon) -> Vec<Figure>| {
        let daemons = [start(Some(base)), start(None)];
        let mut runs: [Vec<Vec<Figure>>; 2] = [Vec::new(), Vec::new()];
        for pair in 0..PAIRS {
            for turn in [pair % 2, 1 - pair % 2] {
                runs[turn].push(figures(&daemons[turn]));
            }
        }
        (0..runs[0][0].len()).map(|index| compare(&runs, index)).collect::<Vec<_>>()
    };
    let mut all = on_one_processor(|| in_turn(&control));
    for bytes in [64, 256, 1514] {
        all.extend(in_turn(&|daemon| frames(daemon, bytes)));
    }
    all
}

fn compare(runs: &[Vec<Vec<Figure>>; 2], index: usize) -> Comparison {
    let sorted = |mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    let of = |build: usize| sorted(runs[build].iter().map(|run| run[index].value).collect());
    let ratios = runs[0].iter().zip(&runs[1]).map(|(base, this)| {
        let (base, this) = (&base[index], &this[index]);
        if this.more_is_better { base.value / this.value } else { this.value / base.value }
    });
    let ratios = sorted(ratios.collect());
    let middle = |values: &[f64]| (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    Comparison {
        name: runs[0][0][index].name.clone(),
        base: middle(&of(0)),
        this: middle(&of(1)),
        slower: middle(&ratios),
        least: ratios[0],
        most: ratios[ratios.len() - 1],
    }
}

/// For people.
pub fn print(comparisons: &[Comparison]) {
    println!();
    println!(
        "{:<64} {:>10} {:>10} {:>8} {:>16}",
        "this build and the base, in turn", "base", "this", "slower", "least … most"
    );
    for Comparison { name, base, this, slower, least, most } in comparisons {
        println!("{name:<64} {base:>10.1} {this:>10.1} {slower:>7.2}× {:>16}", format!("{least:.2} … {most:.2}"));
    }
}
