//! The eventfds of rings.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{call, owned, refused, rung};
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, TX};
use crate::conformance::report::{Outcome, fail};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsRawFd;
use std::time::Duration;

pub const RULES: &[Rule] = &[
    Rule {
        id: "eventfds.bad",
        reference: "VHOST_SET_VRING_KICK, _CALL, _ERR",
        expected: "-1 is taken; closed: EBADF; no eventfd: EINVAL",
        check: bad_eventfds,
    },
    Rule {
        id: "eventfds.replaced",
        reference: "VHOST_SET_VRING_KICK, _CALL",
        expected: "of a running ring they can be replaced, with effect at once",
        check: replaced,
    },
];

fn bad_eventfds(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let null = call("open", std::fs::File::open("/dev/null").map_err(|error| crate::error::errno_of(&error)))?;
    for cmd in [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR] {
        call("-1", device.vring_fd(cmd, 0, -1))?;
        refused("a closed descriptor", device.vring_fd(cmd, 0, i32::MAX), &[Errno::EBADF])?;
        refused("a descriptor of /dev/null", device.vring_fd(cmd, 0, null.as_raw_fd()), &[Errno::EINVAL])?;
    }
    Ok("EBADF, EINVAL".to_owned())
}

/// Interrupts have rules of their own: here it is enough that the old eventfd gets none.
fn replaced(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let kick = std::mem::replace(&mut driver.tx.kick, call("eventfd", event())?);
    call("VHOST_SET_VRING_KICK", driver.device.set_event(VHOST_SET_VRING_KICK, TX, &driver.tx.kick))?;
    let old = std::mem::replace(&mut driver.tx.call, call("eventfd", event())?);
    call("VHOST_SET_VRING_CALL", driver.device.set_event(VHOST_SET_VRING_CALL, TX, &driver.tx.call))?;
    // What was signalled before is no fault.
    rung(&old, Duration::ZERO);
    drop(kick);
    for _ in 0..4 {
        driver.exchange()?;
    }
    if rung(&old, Duration::ZERO) {
        return fail("the former call was signalled");
    }
    driver.healthy()
}
