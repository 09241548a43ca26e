//! Reset of a device that runs.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, PATIENCE, QUIET, TX, call, within};
use crate::conformance::report::{Outcome, fail, skip};
use std::os::fd::AsFd;

/// Frames that are under way when the reset comes.
const BURST: usize = 32;
const RESETS: usize = 4;
/// Frames that are to wait for a kick.
const ATTEMPTS: usize = 3;

pub const RULES: &[Rule] = &[
    Rule {
        id: "reset.forgets",
        reference: "VHOST_VDPA_SET_STATUS",
        expected: "after a reset status and ring states are 0",
        check: forgets,
    },
    Rule {
        id: "reset.stale_kick",
        reference: "VHOST_VDPA_SET_STATUS",
        expected: "after a reset a kick does not make the device look at the old ring",
        check: stale_kick,
    },
    Rule {
        id: "reset.again",
        reference: "virtio 1.3 §2.1",
        expected: "after a reset the device comes up on the same file, and works",
        check: again,
    },
    Rule {
        id: "reset.midway",
        reference: "VHOST_VDPA_SET_STATUS",
        expected: "in the midst of frames: when it returns, memory is not touched any more",
        check: midway,
    },
    Rule {
        id: "reset.old_kick",
        reference: "VHOST_SET_VRING_KICK",
        expected: "a kick of before the reset does not make the device look at the new ring",
        check: old_kick,
    },
];

fn forgets(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    call("reset", driver.device.set_status(0))?;
    let status = call("VHOST_VDPA_GET_STATUS", driver.device.status())?;
    let base = call("VHOST_GET_VRING_BASE", driver.device.vring(VHOST_GET_VRING_BASE, TX, 0))?;
    if (status, base) == (0, 0) {
        Ok("status 0, ring at 0".to_owned())
    } else {
        fail(format!("status {status:#x}, ring at {base}"))
    }
}

fn stale_kick(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    call("reset", driver.device.set_status(0))?;
    let before = driver.tx.used();
    driver.send()?;
    if within(QUIET, || driver.tx.used() != before) {
        return fail("the frame was used");
    }
    Ok(format!("still {before} used"))
}

fn again(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    for _ in 0..3 {
        call("reset", driver.device.set_status(0))?;
        driver.renew()?;
        driver.bring_up()?;
        driver.exchange()?;
    }
    if !within(PATIENCE, || driver.tx.used() == 1) {
        return fail(format!("{} used of 1", driver.tx.used()));
    }
    driver.healthy()
}

fn midway(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    let mut left = 0;
    for _ in 0..RESETS {
        for _ in 0..BURST.min(usize::from(driver.tx.size) / 2) {
            driver.offer();
        }
        call("kick", driver.tx.kick.write(1))?;
        call("reset", driver.device.set_status(0))?;
        let before = driver.memory.copy();
        left += usize::from(driver.tx.available.wrapping_sub(driver.tx.used()));
        if within(QUIET / 4, || driver.memory.copy() != before) {
            return fail("memory was written behind a reset");
        }
        driver.renew()?;
        driver.bring_up()?;
    }
    driver.exchange()?;
    driver.healthy()?;
    Ok(format!("{RESETS} resets, with {left} frames left"))
}

fn old_kick(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    call("reset", driver.device.set_status(0))?;
    let old = call("eventfd", driver.tx.kick.as_fd().try_clone_to_owned().map_err(|e| crate::error::errno_of(&e)))?;
    driver.renew()?;
    driver.bring_up()?;
    driver.exchange()?;
    let mut told = 0;
    for _ in 0..ATTEMPTS {
        let before = driver.tx.used();
        driver.offer();
        // A device may look for reasons of its own, such as a frame that came.
        if within(QUIET, || driver.tx.used() != before) {
            continue;
        }
        call("the old kick", nix::unistd::write(&old, &1u64.to_ne_bytes()))?;
        if !within(QUIET, || driver.tx.used() != before) {
            call("kick", driver.tx.kick.write(1))?;
            driver.sent()?;
            return driver.healthy();
        }
        told += 1;
    }
    match told {
        ATTEMPTS => fail(format!("{told} of {ATTEMPTS} frames were used after the old kick alone")),
        _ => skip("the device looks at the ring without a kick"),
    }
}
