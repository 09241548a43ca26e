//! Setting rings up, and their eventfds.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{PATIENCE, QUIET, call, owned, plain_features, queues, refused, rung, within};
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, RX, TX};
use crate::conformance::report::{Outcome, fail, skip};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd};

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
        id: "rings.where",
        reference: "VHOST_GET_VRING_BASE",
        expected: "of a running ring: EBUSY, or what the device used",
        check: position,
    },
    Rule {
        id: "rings.disabled",
        reference: "VHOST_VDPA_SET_VRING_ENABLE",
        expected: "a ring that is not enabled is not served; enabled after DRIVER_OK, it is",
        check: disabled,
    },
    Rule {
        id: "rings.packed",
        reference: "VIRTIO_F_RING_PACKED",
        expected: "of packed rings, both indices and wrap counters are kept, and are 0 and 1 to begin with",
        check: packed,
    },
    Rule {
        id: "rings.broken",
        reference: "virtio 1.3 §2.1.2, VHOST_SET_VRING_ERR",
        expected: "a chain that is none stops the device, which says so or not, and a reset heals it",
        check: broken,
    },
];

fn index(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let behind = queues(&device)?;
    for index in [behind, u32::MAX] {
        let errnos = [Errno::ENOBUFS];
        for cmd in [VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE, VHOST_GET_VRING_BASE, VHOST_VDPA_SET_VRING_ENABLE] {
            refused(&format!("{cmd:#x} of queue {index}"), device.vring(cmd, index, 1), &errnos)?;
        }
        // Not every device has these.
        let errnos_or_none = [Errno::ENOBUFS, Errno::EOPNOTSUPP, Errno::ENOTTY];
        for cmd in [VHOST_VDPA_GET_VRING_GROUP, VHOST_VDPA_GET_VRING_DESC_GROUP, VHOST_VDPA_GET_VRING_SIZE] {
            refused(&format!("{cmd:#x} of queue {index}"), device.vring(cmd, index, 0), &errnos_or_none)?;
        }
        refused("VHOST_SET_VRING_ADDR", device.set_vring_addr(index, 0, 0, 0), &errnos)?;
        for cmd in [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR] {
            refused(&format!("{cmd:#x} of queue {index}"), device.vring_fd(cmd, index, -1), &errnos)?;
        }
    }
    Ok(format!("queue {behind}: ENOBUFS"))
}

fn size(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let limit = call("VHOST_VDPA_GET_VRING_NUM", device.number(VHOST_VDPA_GET_VRING_NUM))?;
    let set = |size| device.vring(VHOST_SET_VRING_NUM, 0, size);
    let Some(largest) = u32::try_from(limit).unwrap_or(u32::MAX).checked_ilog2().map(|log| 1u32 << log) else {
        return fail("rings of no entries");
    };
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

fn position(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    for _ in 0..3 {
        driver.exchange()?;
    }
    match driver.device.vring(VHOST_GET_VRING_BASE, TX, 0) {
        Err(Errno::EBUSY) => Ok("EBUSY".to_owned()),
        base if base == Ok(u32::from(driver.tx.used())) => Ok("taken from the running ring".to_owned()),
        base => fail(format!("{base:?}, with {} used", driver.tx.used())),
    }
}

fn disabled(subject: &Subject) -> Outcome {
    let mut driver = Driver::unmapped(subject)?;
    driver.demand(BACKEND_ENABLE_LATE, "VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK")?;
    driver.map(0..driver.memory.bytes(), READ | WRITE)?;
    driver.negotiate()?;
    driver.set_up(RX, &driver.rx)?;
    driver.set_up(TX, &driver.tx)?;
    driver.run()?;
    driver.send()?;
    if within(QUIET, || driver.tx.used() != 0) {
        return fail("a ring was served that is not enabled");
    }
    driver.enable(RX)?;
    driver.enable(TX)?;
    driver.sent()?;
    driver.healthy()
}

fn packed(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    if call("VHOST_GET_FEATURES", device.number(VHOST_GET_FEATURES))? & RING_PACKED == 0 {
        return skip("VIRTIO_F_RING_PACKED is not offered");
    }
    call("VHOST_SET_FEATURES", device.set_features(plain_features(&device)? | RING_PACKED))?;
    let get = || call("VHOST_GET_VRING_BASE", device.vring(VHOST_GET_VRING_BASE, 0, 0));
    // Bits 15 and 31 are the wrap counters, those below them the indices.
    for base in [0x8000_8000, 0x0000_0000, 0x0005_8005, 0x8007_0007] {
        if base != 0x8000_8000 {
            call("VHOST_SET_VRING_BASE", device.vring(VHOST_SET_VRING_BASE, 0, base))?;
        }
        let now = get()?;
        if now != base {
            return fail(format!("{now:#x}, not {base:#x}"));
        }
    }
    Ok("0x80008000 to begin with".to_owned())
}

/// The chain has a head beyond the ring. What the device says of it is up to the device, but an interrupt of
/// configuration space goes with DEVICE_NEEDS_RESET.
fn broken(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    let event = || call("eventfd", EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK));
    let (error, changed) = (event()?, event()?);
    call("VHOST_SET_VRING_ERR", driver.device.set_event(VHOST_SET_VRING_ERR, TX, &error))?;
    let mut number = changed.as_fd().as_raw_fd().to_le_bytes();
    call("VHOST_VDPA_SET_CONFIG_CALL", driver.device.call(VHOST_VDPA_SET_CONFIG_CALL, &mut number))?;
    let used = driver.tx.used();
    driver.tx.publish(driver.tx.size);
    call("kick", driver.tx.kick.write(1))?;
    let mut said = Vec::new();
    if within(QUIET, || driver.device.status().is_ok_and(|status| status & NEEDS_RESET != 0)) {
        if !rung(&changed, PATIENCE) {
            return fail("DEVICE_NEEDS_RESET without an interrupt of configuration space");
        }
        said.push("DEVICE_NEEDS_RESET");
    }
    if rung(&error, QUIET) {
        said.push("VRING_ERR");
    }
    if said.is_empty() {
        said.push("nothing");
    }
    if driver.tx.used() != used {
        return fail("the chain was used");
    }
    driver.restart()?;
    driver.exchange()?;
    driver.healthy()?;
    Ok(format!("the device says {}", said.join(", ")))
}
