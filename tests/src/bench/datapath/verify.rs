//! Every frame that passes ours is looked at: none lost, none changed, none out of order. Times are not.

use super::backend::Ours;
use super::cell::{Cell, Way};
use super::measure::RING;
use super::testpmd::Testpmd;
use std::path::Path;
use std::time::{Duration, Instant};
use umdev_tests::lab::{LabError, LabResult, read_pcap, write_pcap};

const FRAMES: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(20);
const SETTLED: Duration = Duration::from_millis(100);

/// Each carries its number, and the bytes after it depend on that.
fn frame(number: usize, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..bytes).map(|at| (number.wrapping_mul(131) ^ at.wrapping_mul(17)).to_le_bytes()[0]));
    frame
}

/// Passes frames on a cell's ring; what was seen, in words. An error is a frame that is not as it should be.
pub fn cell(ours: &Ours, dir: &Path, cpu: usize, cell: &Cell) -> LabResult<String> {
    let mut backend = ours.backend(dir, cell)?;
    let (input, output) = (dir.join("in.pcap"), dir.join("out.pcap"));
    let sent: Vec<_> = (0..FRAMES).map(|number| frame(number, cell.bytes)).collect();
    write_pcap(&input, if cell.way == Way::Enqueue { &[] } else { &sent })?;
    let devices = format!(
        "--vdev net_virtio_user0,path={},queues=1,queue_size={RING},{} --vdev net_pcap0,rx_pcap={},tx_pcap={}",
        backend.socket().display(),
        cell.device_options(),
        input.display(),
        output.display()
    );
    let name = format!("umdev-{}-verify", std::process::id());
    let mut client = Testpmd::start(&name, cpu, &devices, "--forward-mode=io")?;
    if let Some(why) = cell.misses(client.features()?) {
        return Ok(format!("absent ({why})"));
    }
    // a full ring is waited for instead of losing the frame in testpmd itself
    client.say("set fwd io retry\nset burst tx delay 10 retry 10000")?;
    client.say("start")?;
    let begun = Instant::now();
    let all = FRAMES as u64;
    loop {
        let passed = match cell.way {
            Way::Loop | Way::Enqueue => client.stats()?.received,
            Way::Dequeue => backend.counted()?.taken,
        };
        if passed >= all {
            break;
        }
        if begun.elapsed() > PATIENCE {
            return Err(LabError::Wrong(format!("{cell}: {passed} of {FRAMES} frames came")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if cell.way == Way::Dequeue {
        // any more would be too many
        std::thread::sleep(SETTLED);
    }
    client.stop()?;
    let counted = backend.counted()?;
    drop(client);
    drop(backend);
    let back = read_pcap(&output)?;
    match cell.way {
        Way::Loop => same(cell, &sent, &back),
        Way::Enqueue => numbered(cell, &back),
        Way::Dequeue if counted.taken == all => Ok(format!("{FRAMES} frames taken, none more")),
        Way::Dequeue => Err(LabError::Wrong(format!("{cell}: {} of {FRAMES} frames were taken", counted.taken))),
    }
}

fn same(cell: &Cell, sent: &[Vec<u8>], back: &[Vec<u8>]) -> LabResult<String> {
    let changed = sent.iter().zip(back).position(|(sent, back)| sent != back);
    if back.len() == sent.len() && changed.is_none() {
        return Ok(format!("{FRAMES} frames came back as they were, in order"));
    }
    Err(LabError::Wrong(format!("{cell}: {} of {FRAMES} frames came back, changed is {changed:?}", back.len())))
}

/// What a source sends: numbers without a gap, and nothing after them.
fn numbered(cell: &Cell, back: &[Vec<u8>]) -> LabResult<String> {
    for (number, frame) in (0_u64..).zip(back) {
        let right = frame.len() == cell.bytes
            && frame[14..22] == number.to_be_bytes()
            && frame[22..].iter().all(|byte| *byte == 0);
        if !right {
            return Err(LabError::Wrong(format!("{cell}: frame {number} is {} bytes: {frame:02x?}", frame.len())));
        }
    }
    Ok(format!("{} frames came, numbered without a gap", back.len()))
}
