//! `umdev-exchange ROOT UUID [FRAMES]`: sends frames to a loopback instance and has every byte back.

use std::path::Path;
use std::process::ExitCode;
use umdev_tests::driver::{CallResult, Client, DriverError, Options};

const FRAMES: usize = 1000;
/// Without a header: the smallest Ethernet frame, odd ones, and the largest of an MTU of 1,500.
const SIZES: [usize; 6] = [60, 61, 127, 256, 1023, 1514];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match arguments.as_slice() {
        [root, uuid] => Some((root, uuid, FRAMES)),
        [root, uuid, frames] => frames.parse().ok().map(|frames| (root, uuid, frames)),
        _ => None,
    };
    let Some((root, uuid, frames)) = parsed else {
        eprintln!("usage: umdev-exchange ROOT UUID [FRAMES]");
        return ExitCode::from(2);
    };
    match exchange(Path::new(root), uuid, frames) {
        Ok(()) => {
            println!("exchange: PASS");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("exchange: FAIL: {error}");
            ExitCode::FAILURE
        }
    }
}

fn exchange(root: &Path, uuid: &str, frames: usize) -> CallResult<()> {
    let mut client = Client::start(root, uuid, Options::default())?;
    println!("exchange: running");
    for number in 0..frames {
        let frame = frame(number, SIZES[number % SIZES.len()]);
        let failed = |error: DriverError| DriverError::Wrong { what: format!("frame {number}: {error}") };
        client.exchange(&frame).map_err(failed)?;
    }
    client.vhost.set_status(0)
}

/// No two frames in a row are alike, and no byte is like its neighbours.
fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number.wrapping_mul(31) + at.wrapping_mul(7) + at / 256).to_le_bytes()[0]).collect()
}
