//! Frames a second through a loopback instance, there and back, none lost and none changed.

use serde::Serialize;
use std::time::{Duration, Instant};
use umdev_tests::driver::{CallResult, Client, Daemon, DriverError, HEADER, Options};

/// Long enough for a figure that stands alone.
pub const LONG: Duration = Duration::from_secs(2);
/// For one of many.
pub const BRIEF: Duration = Duration::from_millis(200);
const BURST: usize = 64;

/// What passed.
#[derive(Debug, Serialize)]
pub struct Frames {
    /// Bytes of a frame.
    pub bytes: usize,
    /// Frames that came back.
    pub frames: u64,
    /// A second.
    pub frames_per_second: f64,
    /// Processor time that the daemon takes for each, nanoseconds.
    pub daemon_ns: f64,
}

/// One driver thread and the device's, with frames of these sizes.
pub fn measure(daemon: &Daemon, sizes: &[usize], time: Duration) -> Vec<Frames> {
    sizes
        .iter()
        .map(|&bytes| run(daemon, bytes, time).unwrap_or_else(|error| panic!("{bytes} bytes: {error}")))
        .collect()
}

fn run(daemon: &Daemon, bytes: usize, time: Duration) -> CallResult<Frames> {
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, Options::default())?;
    let frames = pass(&mut client, bytes, time, || daemon.processor_time())?;
    drop(client);
    daemon.remove(&uuid, "1").map_err(DriverError::io("remove"))?;
    Ok(frames)
}

/// Frames of this size for a while; `worked` says how long the device has worked so far.
pub fn pass(client: &mut Client, bytes: usize, time: Duration, worked: impl Fn() -> Duration) -> CallResult<Frames> {
    let mut frame = vec![0x5a; bytes];
    let (mut sent, mut received, mut in_flight) = (0_u64, 0_u64, 0);
    let (begun, before) = (Instant::now(), worked());
    while begun.elapsed() < time || received < sent {
        let mut posted = 0;
        while begun.elapsed() < time && posted < BURST && in_flight < client.tx.size {
            frame[..8].copy_from_slice(&sent.to_le_bytes());
            client.queue(&frame);
            (sent, posted, in_flight) = (sent + 1, posted + 1, in_flight + 1);
        }
        if posted > 0 {
            client.tx.notify()?;
        }
        while client.tx.take().is_some() {
            in_flight -= 1;
        }
        if !receive_burst(client, &mut received, bytes)? && posted == 0 {
            // Nothing to do: the device's thread may need this core.
            std::thread::yield_now();
        }
        if begun.elapsed() > time * 5 + LONG {
            return Err(DriverError::Timeout { what: "the last frames" });
        }
    }
    let took = begun.elapsed().as_secs_f64();
    // What was used since it was last looked for: who goes on with this driver begins with nothing under way.
    while client.tx.take().is_some() {}
    let worked = worked().saturating_sub(before).as_secs_f64();
    let count = f64::from(u32::try_from(received).unwrap_or(u32::MAX));
    Ok(Frames { bytes, frames: received, frames_per_second: count / took, daemon_ns: worked * 1e9 / count })
}

/// Takes what has come; each frame carries its number.
fn receive_burst(client: &mut Client, received: &mut u64, bytes: usize) -> CallResult<bool> {
    let mut any = false;
    while let Some(used) = client.rx.take() {
        any = true;
        let mut number = [0; 8];
        let head = u16::try_from(used.id).map_err(|_| DriverError::Wrong { what: format!("{used:?}") })?;
        client.memory.read(client.rx.buffer(head) + HEADER, &mut number);
        if u64::from_le_bytes(number) != *received || usize::try_from(used.len) != Ok(HEADER + bytes) {
            let number = u64::from_le_bytes(number);
            return Err(DriverError::Wrong { what: format!("frame {number}, {used:?} where {received} was due") });
        }
        *received += 1;
        client.rx.offer(head);
    }
    if any {
        client.rx.notify()?;
    }
    Ok(any)
}
