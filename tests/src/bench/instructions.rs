//! Instructions that the device's side spends on a frame of 64 bytes, counted by valgrind. They do not depend on what else the
//! machine does, so that a change that adds some shows.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use umdev_tests::lab::{LabError, LabResult, program, run};

/// Packets of a short run and of a long one: what both begin with falls out of the difference.
const PACKETS: [u32; 2] = [2048, 10_240];
/// The exit status of a ring that is not offered.
const NOT_OFFERED: i32 = 3;
/// More than this part is more, and not the compiler's mood.
const TOLERANCE: f64 = 0.01;

/// What is kept in the repository.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// Whose code was counted.
    pub compiler: String,
    /// By way, ring and receive buffers.
    pub instructions: BTreeMap<String, f64>,
}

/// A count beside the one that was kept.
#[derive(Debug, Serialize)]
pub struct Count {
    /// Way, ring and receive buffers.
    pub name: String,
    /// Instructions a frame; `None` where the ring is not offered.
    pub counted: Option<f64>,
    /// Those that were kept.
    pub kept: Option<f64>,
}

impl Count {
    /// Whether a frame costs more than it did.
    pub fn is_more(&self) -> bool {
        matches!((self.counted, self.kept), (Some(counted), Some(kept)) if counted > kept * (1.0 + TOLERANCE))
    }
}

/// Where counts are kept.
pub fn file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml"))
}

/// What was kept.
pub fn kept() -> LabResult<Kept> {
    let text = std::fs::read_to_string(file()).map_err(LabError::path("read", &file()))?;
    toml::from_str(&text).map_err(|error| LabError::Wrong(format!("{}: {error}", file().display())))
}

/// The compiler of this machine.
pub fn compiler() -> LabResult<String> {
    Ok(run(Command::new("rustc").arg("--version"))?.trim().to_owned())
}

/// Counts all.
pub fn count() -> LabResult<Vec<Count>> {
    let kept = kept().unwrap_or_default();
    let mut counts = Vec::new();
    for way in ["loop", "enqueue", "dequeue"] {
        for format in ["split", "packed", "in-order"] {
            for buffers in ["plain", "mergeable"] {
                let name = format!("{way}/{format}/{buffers}");
                let counted = a_frame([way, format, buffers])?;
                counts.push(Count { kept: kept.instructions.get(&name).copied(), name, counted });
            }
        }
    }
    Ok(counts)
}

/// Instructions for one frame; `None` where the ring is not offered.
fn a_frame(words: [&str; 3]) -> LabResult<Option<f64>> {
    let mut totals = [0; 2];
    for (total, packets) in totals.iter_mut().zip(PACKETS) {
        let Some(counted) = collected(words, packets)? else { return Ok(None) };
        *total = counted;
    }
    let [short, long] = totals.map(|total| f64::from(u32::try_from(total).unwrap_or(u32::MAX)));
    let frame = (long - short) / f64::from(PACKETS[1] - PACKETS[0]);
    // a tenth is more than anybody wants to know
    Ok(Some((frame * 10.0).round() / 10.0))
}

fn collected(words: [&str; 3], packets: u32) -> LabResult<Option<u64>> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*Bare*serve*"]);
    command.arg(program("examples/packets")?).args(words).arg(packets.to_string());
    let output = command.output().map_err(LabError::io("valgrind"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NOT_OFFERED) {
        return Ok(None);
    }
    let behind = said.rsplit_once("Collected :").map(|(_, behind)| behind.trim_start());
    let number = behind.and_then(|behind| behind.split_whitespace().next()?.parse().ok());
    match number {
        Some(number) if output.status.success() && number > 0 => Ok(Some(number)),
        _ => Err(LabError::Wrong(format!("{command:?}: {}\n{said}", output.status))),
    }
}

/// For people.
pub fn print(counts: &[Count]) {
    println!("{:<64} {:>10} {:>10}", "instructions for a frame of 64 bytes, in bursts of 32", "kept", "now");
    if let (Ok(then), Ok(now)) = (kept().map(|kept| kept.compiler), compiler())
        && then != now
    {
        println!("kept of {then}, now of {now}: a difference may be the compiler's");
    }
    for count in counts {
        let Count { name, counted, kept } = count;
        let text =
            |number: Option<f64>, none: &str| number.map_or_else(|| none.to_owned(), |number| format!("{number:.1}"));
        let more = match (counted, kept) {
            (Some(counted), Some(kept)) if counted != kept => format!(" {:+.1} %", (counted / kept - 1.0) * 100.0),
            _ => String::new(),
        };
        let loud = if count.is_more() { ", MORE" } else { "" };
        println!("{name:<64} {:>10} {:>10}{more}{loud}", text(*kept, "-"), text(*counted, "absent"));
    }
}
