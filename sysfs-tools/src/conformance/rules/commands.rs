//! What the control queue does.

use super::config::{MAC, another};
use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{QUIET, call, rung};
use crate::conformance::device::Subject;
use crate::conformance::driver::Driver;
use crate::conformance::report::{Outcome, fail, skip};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd};

/// VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET.
const SET_MAC: [u8; 2] = [1, 1];

pub const RULES: &[Rule] = &[Rule {
    id: "config.changed",
    reference: "virtio 1.3 §5.1.6.5.2",
    expected: "a MAC address set by the control queue is the one that is read",
    check: changed,
}];

fn changed(subject: &Subject) -> Outcome {
    let mut driver = Driver::unmapped(subject)?;
    let wanted = CTRL_VQ | CTRL_MAC_ADDR;
    if call("VHOST_GET_FEATURES", driver.device.number(VHOST_GET_FEATURES))? & wanted != wanted {
        return skip("no control queue takes a MAC address");
    }
    driver.features |= wanted;
    driver.map(0..driver.memory.bytes(), READ | WRITE)?;
    let changed = call("eventfd", EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK))?;
    let mut number = changed.as_fd().as_raw_fd().to_le_bytes();
    let mut ring = driver.bring_up_with_control(|driver| {
        call("VHOST_VDPA_SET_CONFIG_CALL", driver.device.call(VHOST_VDPA_SET_CONFIG_CALL, &mut number))
    })?;
    let first = call("VHOST_VDPA_GET_CONFIG", driver.device.config(0, MAC))?;
    for mac in [another(&first), first] {
        driver.command(&mut ring, &[&SET_MAC[..], &mac].concat())?;
        let now = call("VHOST_VDPA_GET_CONFIG", driver.device.config(0, MAC))?;
        if now != mac {
            return fail(format!("{mac:02x?} set, {now:02x?} read"));
        }
    }
    driver.healthy()?;
    let told = if rung(&changed, QUIET) { "with an interrupt" } else { "without an interrupt" };
    Ok(format!("there and back, {told}"))
}
