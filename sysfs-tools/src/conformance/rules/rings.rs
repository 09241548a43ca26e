//! Setting rings up, and their eventfds.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, TX, call, owned, refused, rung};
use crate::conformance::report::{Outcome, fail};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsRawFd;
use std::time::Duration;

pub const RULES: &[Rule] = &[
    Rule {
        id: "rings.index",
        reference: "VHOST_SET_VRING_*",
        expected: "a queue that is not there: ENOBUFS",
        check: index,
    },
    Rule {
        id: "rings.size",
        reference: "VHOST_SET_VRING_NUM",
        expected: "powers of two up to the limit are taken; 0, 3, and more than the limit: EINVAL",
        check: size,
    },
    Rule {
        id: "rings.base",
        reference: "VHOST_SET_VRING_BASE",
        expected: "16 bits are taken; more: EINVAL",
        check: base,
    },
    Rule {
        id: "rings.alignment",
        reference: "VHOST_SET_VRING_ADDR",
        expected: "misaligned available and used rings: EINVAL",
        check: alignment,
    },
    Rule {
        id: "rings.start",
        reference: "virtio 1.3 §3.1",
        expected: "a network card comes up and keeps its status",
        check: start,
    },
    Rule {
        id: "rings.running",
        reference: "VHOST_SET_VRING_ADDR, _BASE",
        expected: "refused while the driver runs: EINVAL or EBUSY",
        check: running,
    },
    Rule {
        id: "eventfds.bad",
        reference: "VHOST_SET_VRING_KICK, _CALL",
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

fn index(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let queues = call("VHOST_VDPA_GET_VQS_COUNT", device.number(VHOST_VDPA_GET_VQS_COUNT))?;
    let behind = u32::try_from(queues).unwrap_or(u32::MAX);
    for index in [behind, u32::MAX] {
        let errnos = [Errno::ENOBUFS];
        for cmd in [VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE, VHOST_GET_VRING_BASE, VHOST_VDPA_SET_VRING_ENABLE] {
            refused(&format!("{cmd:#x} of queue {index}"), device.vring(cmd, index, 1), &errnos)?;
        }
        refused("VHOST_SET_VRING_ADDR", device.set_vring_addr(index, 0, 0, 0), &errnos)?;
        refused("VHOST_SET_VRING_KICK", device.vring_fd(VHOST_SET_VRING_KICK, index, -1), &errnos)?;
    }
    Ok(format!("queue {behind}: ENOBUFS"))
}

fn size(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let limit = call("VHOST_VDPA_GET_VRING_NUM", device.number(VHOST_VDPA_GET_VRING_NUM))?;
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let set = |size| device.vring(VHOST_SET_VRING_NUM, 0, size);
    let largest = 1 << limit.ilog2();
    call(&format!("{largest} entries"), set(largest))?;
    for wrong in [0, 3, largest.saturating_mul(2), 1 << 16, u32::MAX] {
        refused(&format!("{wrong} entries"), set(wrong), &[Errno::EINVAL])?;
    }
    Ok(format!("up to {largest}"))
}

fn base(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    for base in [0xffff, 77, 0] {
        call("VHOST_SET_VRING_BASE", device.vring(VHOST_SET_VRING_BASE, 0, base))?;
        let now = call("VHOST_GET_VRING_BASE", device.vring(VHOST_GET_VRING_BASE, 0, 0))?;
        if now != base {
            return fail(format!("{base} set, {now} read"));
        }
    }
    refused("0x10000", device.vring(VHOST_SET_VRING_BASE, 0, 0x1_0000), &[Errno::EINVAL])
}

fn alignment(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    refused("available ring at 0x1001", device.set_vring_addr(0, 0, 0x1001, 0x2000), &[Errno::EINVAL])?;
    refused("used ring at 0x2002", device.set_vring_addr(0, 0, 0x1000, 0x2002), &[Errno::EINVAL])
}

fn start(subject: &Subject) -> Outcome {
    Driver::start(subject)?.healthy()
}

fn running(subject: &Subject) -> Outcome {
    let driver = Driver::start(subject)?;
    let errnos = [Errno::EINVAL, Errno::EBUSY];
    let [desc, avail, used] = driver.tx.addresses();
    let address = driver.device.set_vring_addr(TX, desc, avail, used);
    let seen = refused("VHOST_SET_VRING_ADDR", address, &errnos)?;
    let base = refused("VHOST_SET_VRING_BASE", driver.device.vring(VHOST_SET_VRING_BASE, TX, 0), &errnos)?;
    driver.healthy()?;
    Ok(format!("{seen}, {base}"))
}

fn bad_eventfds(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let null = call("open", std::fs::File::open("/dev/null").map_err(|error| crate::error::errno_of(&error)))?;
    for cmd in [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL] {
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
