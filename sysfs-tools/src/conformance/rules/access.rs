//! What a device does with what is mapped.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{PATIENCE, QUIET, call, within};
use crate::conformance::device::Subject;
use crate::conformance::driver::Driver;
use crate::conformance::report::{Outcome, fail, skip};
use nix::errno::Errno;

const PAGE: u64 = 4096;

pub const RULES: &[Rule] = &[
    Rule {
        id: "iotlb.permission",
        reference: "VHOST_ACCESS_RO",
        expected: "what is mapped to be read alone is not written",
        check: permission,
    },
    Rule {
        id: "iotlb.gone",
        reference: "VHOST_IOTLB_INVALIDATE",
        expected: "of a running device: memory is not touched any more, and after a reset it works",
        check: gone,
    },
    Rule {
        id: "iotlb.miss",
        reference: "VHOST_IOTLB_MISS",
        expected: "where misses can be read: of a frame that is not mapped, one that names its page; mapped then, it is sent",
        check: miss,
    },
];

/// What is mapped for a device to read, it does not write.
fn permission(subject: &Subject) -> Outcome {
    let mut driver = Driver::unmapped(subject)?;
    let [_, buffers] = driver.rx.places();
    driver.map(0..buffers.start, READ | WRITE)?;
    driver.map(buffers.clone(), READ)?;
    driver.map(buffers.end..driver.memory.bytes(), READ | WRITE)?;
    driver.bring_up()?;
    let before = driver.memory.copy();
    driver.send()?;
    let changed = || driver.memory.copy()[buffers.clone()] != before[buffers.clone()];
    if within(QUIET, changed) {
        return fail("a receive buffer that is mapped to be read was written");
    }
    let seen = format!("not written; {}", driver.words());
    if driver.healthy().is_err() {
        return Ok(seen);
    }
    // It might have had nothing to write.
    call("reset", driver.device.set_status(0))?;
    driver.remap()?;
    driver.restart()?;
    if driver.loops()? { Ok(seen) } else { skip("frames do not come back, so the device writes none") }
}

/// What the device may not use any more, it does not: a frame from there goes nowhere, and the device can be reset.
fn gone(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    call("INVALIDATE", driver.device.message(IOTLB_INVALIDATE, 0, u64::MAX, 0))?;
    driver.offer();
    // The driver's own writes are not the device's.
    let before = driver.memory.copy();
    call("kick", driver.tx.kick.write(1))?;
    if within(QUIET, || driver.memory.copy() != before) {
        return fail("memory was written behind an INVALIDATE");
    }
    call("reset", driver.device.set_status(0))?;
    driver.remap()?;
    driver.restart()?;
    driver.exchange()?;
    driver.healthy()
}

fn miss(subject: &Subject) -> Outcome {
    let mut driver = Driver::unmapped(subject)?;
    let mut bytes = [0; MESSAGE];
    // The kernel's vhost-vdpa has no read, and a file without a poll is always ready.
    match driver.device.read(&mut bytes) {
        Err(Errno::EAGAIN) => {}
        Err(errno) => return skip(format!("misses are not read, as in the kernel: {errno:?}")),
        Ok(len) => return fail(format!("{len} bytes to be read before the device ran")),
    }
    let [_, buffers] = driver.tx.places();
    driver.map(0..buffers.start, READ | WRITE)?;
    driver.bring_up()?;
    driver.send()?;
    let mut asked = false;
    let faulted = || driver.device.status().is_ok_and(|status| status & NEEDS_RESET != 0);
    within(PATIENCE, || {
        asked = driver.device.read(&mut bytes).is_ok();
        asked || faulted()
    });
    if !asked && faulted() {
        return skip("the device does not ask: what is not mapped is a fault");
    }
    if !asked {
        return fail(format!("neither a miss nor a fault; {}", driver.words()));
    }
    let [.., a, b, c, d, e, f, g, h] = bytes.first_chunk::<16>().copied().unwrap_or_default();
    let (iova, request) = (u64::from_le_bytes([a, b, c, d, e, f, g, h]), bytes[33]);
    let wanted = driver.iova + buffers.start as u64;
    if request != IOTLB_MISS || iova / PAGE != wanted / PAGE {
        return fail(format!("request {request} at {iova:#x}, not a miss at {wanted:#x}"));
    }
    driver.map(buffers, READ)?;
    driver.sent()?;
    driver.healthy()?;
    Ok(format!("a miss at {iova:#x}"))
}
