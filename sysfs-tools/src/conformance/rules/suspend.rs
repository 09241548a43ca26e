//! Suspend, resume and reset of a device that runs.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, PATIENCE, QUIET, RX, TX, call, owned, within};
use crate::conformance::report::{Ended, Outcome, fail, skip};
use std::time::{Duration, Instant};

/// How long a suspend may take: a guest that migrates stands still meanwhile.
const PROMPT: Duration = Duration::from_millis(500);

pub const RULES: &[Rule] = &[
    Rule {
        id: "suspend.idle",
        reference: "VHOST_VDPA_SUSPEND",
        expected: "without DRIVER_OK it does nothing, and succeeds",
        check: idle,
    },
    Rule { id: "suspend.prompt", reference: "VHOST_VDPA_SUSPEND", expected: "it returns within 500 ms", check: prompt },
    Rule {
        id: "suspend.ring_state",
        reference: "VHOST_GET_VRING_BASE",
        expected: "after suspend a ring stands at what the device used",
        check: ring_state,
    },
    Rule {
        id: "suspend.quiet",
        reference: "VHOST_VDPA_SUSPEND",
        expected: "while suspended nothing is used, kicked or not",
        check: quiet,
    },
    Rule {
        id: "suspend.resume",
        reference: "VHOST_VDPA_RESUME",
        expected: "what was made available meanwhile is used, once",
        check: resume,
    },
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
];

/// A driver that used 5 frames, of a device that can be suspended.
fn worked(subject: &Subject) -> Result<Driver, Ended> {
    let mut driver = Driver::start(subject)?;
    let offered = call("VHOST_GET_BACKEND_FEATURES", driver.device.number(VHOST_GET_BACKEND_FEATURES))?;
    if offered & BACKEND_SUSPEND == 0 {
        return skip("VHOST_BACKEND_F_SUSPEND is not offered");
    }
    for _ in 0..5 {
        driver.exchange()?;
    }
    Ok(driver)
}

fn suspend(driver: &Driver) -> Result<(), Ended> {
    call("VHOST_VDPA_SUSPEND", driver.device.order(VHOST_VDPA_SUSPEND))
}

fn idle(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let offered = call("VHOST_GET_BACKEND_FEATURES", device.number(VHOST_GET_BACKEND_FEATURES))?;
    if offered & BACKEND_SUSPEND == 0 {
        return skip("VHOST_BACKEND_F_SUSPEND is not offered");
    }
    call("VHOST_VDPA_SUSPEND", device.order(VHOST_VDPA_SUSPEND))?;
    Ok("0".to_owned())
}

fn prompt(subject: &Subject) -> Outcome {
    let driver = worked(subject)?;
    let begun = Instant::now();
    suspend(&driver)?;
    let took = begun.elapsed();
    if took > PROMPT { fail(format!("{took:.1?}")) } else { Ok(format!("{took:.1?}")) }
}

fn ring_state(subject: &Subject) -> Outcome {
    let driver = worked(subject)?;
    suspend(&driver)?;
    for (index, name, used) in [(TX, "transmit", driver.tx.used()), (RX, "receive", driver.rx.used())] {
        let base = call("VHOST_GET_VRING_BASE", driver.device.vring(VHOST_GET_VRING_BASE, index, 0))?;
        if base != u32::from(used) {
            return fail(format!("the {name} ring stands at {base}; {used} were used"));
        }
    }
    Ok(format!("transmit {}, receive {}", driver.tx.used(), driver.rx.used()))
}

fn quiet(subject: &Subject) -> Outcome {
    let mut driver = worked(subject)?;
    suspend(&driver)?;
    let before = (driver.rx.used(), driver.tx.used());
    driver.send()?;
    if within(QUIET, || (driver.rx.used(), driver.tx.used()) != before) {
        return fail(format!("used {:?} after {before:?}", (driver.rx.used(), driver.tx.used())));
    }
    Ok(format!("used {before:?}, still"))
}

fn resume(subject: &Subject) -> Outcome {
    let mut driver = worked(subject)?;
    let offered = call("VHOST_GET_BACKEND_FEATURES", driver.device.number(VHOST_GET_BACKEND_FEATURES))?;
    if offered & BACKEND_RESUME == 0 {
        return skip("VHOST_BACKEND_F_RESUME is not offered");
    }
    suspend(&driver)?;
    driver.send()?;
    call("VHOST_VDPA_RESUME", driver.device.order(VHOST_VDPA_RESUME))?;
    driver.sent()?;
    driver.exchange()?;
    driver.healthy()
}

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
