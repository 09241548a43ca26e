//! Reset of a device that runs.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{PATIENCE, QUIET, call, within};
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, TX, frame};
use crate::conformance::report::{Outcome, fail, skip};
use crate::conformance::ring::Ring;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// So many frames were sent when the reset comes, and more are under way.
const UNDER_WAY: u16 = 100;
/// How long the driver goes on behind it.
const MORE: Duration = Duration::from_millis(2);
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
        driver.restart()?;
        driver.exchange()?;
    }
    if !within(PATIENCE, || driver.tx.used() == 1) {
        return fail(format!("{} used of 1", driver.tx.used()));
    }
    driver.healthy()
}

fn midway(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    let (mut passed, mut left) = (0, 0);
    for _ in 0..RESETS {
        let Driver { device, rx, tx, .. } = &mut driver;
        let (received, sent) = (rx.counter(), tx.counter());
        let stop = AtomicBool::new(false);
        let (busy, reset, stood) = std::thread::scope(|scope| {
            let pump = scope.spawn(|| pump(rx, tx, &stop));
            let busy = within(PATIENCE, || sent() >= UNDER_WAY);
            let reset = device.set_status(0);
            let stood = (received(), sent());
            // More is offered, so that there is something to use.
            std::thread::sleep(MORE);
            stop.store(true, Ordering::Relaxed);
            // It has nothing to say.
            let _ = pump.join();
            (busy, reset, stood)
        });
        call("reset", reset)?;
        if !busy {
            return fail(format!("{} frames taken after {PATIENCE:?}", stood.1));
        }
        let before = driver.memory.copy();
        let is_touched = || (received(), sent()) != stood || driver.memory.copy() != before;
        if within(QUIET / 4, is_touched) {
            return fail("memory was written behind a reset");
        }
        passed += usize::from(stood.1);
        left += usize::from(driver.tx.available.wrapping_sub(driver.tx.used()));
        driver.restart()?;
    }
    driver.exchange()?;
    driver.healthy()?;
    Ok(format!("{RESETS} resets, behind {passed} frames, with {left} left"))
}

/// Keeps a device busy: what it used is offered anew.
fn pump(rx: &mut Ring, tx: &mut Ring, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        // One at a time, so that a device that never ends to use is left all the same.
        if let Some((id, _)) = rx.take() {
            u16::try_from(id).ok().filter(|at| *at < rx.size).into_iter().for_each(|at| rx.post(at));
        }
        tx.take();
        if tx.available.wrapping_sub(tx.taken) < tx.size {
            number += 1;
            tx.send(tx.available % tx.size, &frame(number));
        }
        // An eventfd that is full was rung.
        let _ = (tx.kick.write(1), rx.kick.write(1));
    }
}

fn old_kick(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    let old = call("eventfd", driver.tx.kick.as_fd().try_clone_to_owned().map_err(|e| crate::error::errno_of(&e)))?;
    driver.restart()?;
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
