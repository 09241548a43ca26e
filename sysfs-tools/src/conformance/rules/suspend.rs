//! Suspend and resume of a device that runs.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{QUIET, call, owned, within};
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, RX, TX};
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
        id: "suspend.settable",
        reference: "VHOST_SET_VRING_BASE",
        expected: "while suspended a ring can be set, and after a resume the device goes on from there",
        check: settable,
    },
];

/// A driver that used 5 frames, of a device that can be suspended.
fn worked(subject: &Subject) -> Result<Driver, Ended> {
    let mut driver = Driver::start(subject)?;
    driver.demand(BACKEND_SUSPEND, "VHOST_BACKEND_F_SUSPEND")?;
    for _ in 0..5 {
        driver.exchange()?;
    }
    Ok(driver)
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
    driver.suspend()?;
    let took = begun.elapsed();
    if took > PROMPT { fail(format!("{took:.1?}")) } else { Ok(format!("{took:.1?}")) }
}

fn ring_state(subject: &Subject) -> Outcome {
    let driver = worked(subject)?;
    driver.suspend()?;
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
    driver.suspend()?;
    let before = (driver.rx.used(), driver.tx.used());
    driver.send()?;
    if within(QUIET, || (driver.rx.used(), driver.tx.used()) != before) {
        return fail(format!("used {:?} after {before:?}", (driver.rx.used(), driver.tx.used())));
    }
    Ok(format!("used {before:?}, still"))
}

fn resume(subject: &Subject) -> Outcome {
    let mut driver = worked(subject)?;
    driver.demand(BACKEND_RESUME, "VHOST_BACKEND_F_RESUME")?;
    driver.suspend()?;
    driver.send()?;
    call("VHOST_VDPA_RESUME", driver.device.order(VHOST_VDPA_RESUME))?;
    driver.sent()?;
    driver.exchange()?;
    driver.healthy()
}

fn settable(subject: &Subject) -> Outcome {
    let mut driver = worked(subject)?;
    driver.demand(BACKEND_RESUME, "VHOST_BACKEND_F_RESUME")?;
    driver.suspend()?;
    let get = |driver: &Driver| call("VHOST_GET_VRING_BASE", driver.device.vring(VHOST_GET_VRING_BASE, TX, 0));
    let set = |driver: &Driver, base| {
        call("VHOST_SET_VRING_BASE", driver.device.vring(VHOST_SET_VRING_BASE, TX, base)).map(drop)
    };
    let stood = get(&driver)?;
    for base in [stood + 1, 0xffff, stood] {
        set(&driver, base)?;
        let now = get(&driver)?;
        if now != base {
            return fail(format!("{base} set, {now} read"));
        }
    }
    let [desc, avail, used] = driver.tx.addresses();
    call("VHOST_SET_VRING_ADDR", driver.device.set_vring_addr(TX, desc, avail, used))?;
    call("VHOST_VDPA_RESUME", driver.device.order(VHOST_VDPA_RESUME))?;
    driver.exchange()?;
    driver.healthy()?;
    Ok(format!("resumed at {stood}"))
}
