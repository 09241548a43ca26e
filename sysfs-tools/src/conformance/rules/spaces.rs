//! Queues of one device in several address spaces.

use super::asid::counts;
use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::call;
use crate::conformance::device::Subject;
use crate::conformance::driver::{CONTROL, Driver, RX, TX};
use crate::conformance::report::{Ended, Outcome, fail, skip};
use crate::conformance::ring::Ring;
use nix::errno::Errno;
use std::sync::Arc;

/// VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, on.
const PROMISCUOUS: [u8; 3] = [0, 0, 1];

pub const RULES: &[Rule] = &[
    Rule {
        id: "asid.control",
        reference: "VHOST_VDPA_SET_GROUP_ASID",
        expected: "with the control queue's memory in an address space of its own, commands and frames pass",
        check: control,
    },
    Rule {
        id: "asid.rings",
        reference: "VHOST_VDPA_GET_VRING_DESC_GROUP",
        expected: "with the rings' memory in an address space of its own, frames pass",
        check: rings,
    },
];

/// The group of a queue, or of its ring.
fn group(driver: &Driver, cmd: u32, queue: u32) -> Result<u32, Ended> {
    match driver.device.vring(cmd, queue, 0) {
        Err(Errno::EOPNOTSUPP) => skip("there are no such groups: EOPNOTSUPP"),
        group => call("the group of a queue", group),
    }
}

/// Demands that there is more than one address space.
fn two_spaces(driver: &Driver) -> Result<(), Ended> {
    let [groups, spaces] = counts(&driver.device)?;
    if groups < 2 || spaces < 2 { skip(format!("{groups} groups, {spaces} address spaces")) } else { Ok(()) }
}

fn control(subject: &Subject) -> Outcome {
    let mut driver = Driver::unmapped(subject)?;
    driver.demand(BACKEND_ASID, "VHOST_BACKEND_F_IOTLB_ASID")?;
    let wanted = CTRL_VQ | CTRL_RX;
    if call("VHOST_GET_FEATURES", driver.device.number(VHOST_GET_FEATURES))? & wanted != wanted {
        return skip("there is no control queue");
    }
    two_spaces(&driver)?;
    driver.features |= wanted;
    let places = call("eventfd", Ring::new(Arc::clone(&driver.memory), driver.iova, 2, driver.tx.size))?.places();
    let [own, buffers] = places;
    driver.map(0..own.start, READ | WRITE)?;
    driver.map(own.end..buffers.start, READ | WRITE)?;
    driver.map_into(1, own, READ | WRITE)?;
    driver.map_into(1, buffers, READ | WRITE)?;
    let group_of = |driver: &Driver, queue| group(driver, VHOST_VDPA_GET_VRING_GROUP, queue);
    let mut ring = driver.bring_up_with_control(|driver| {
        let own = group_of(driver, CONTROL)?;
        if own == group_of(driver, RX)? {
            return skip("the control queue is in the group of the others");
        }
        call("VHOST_VDPA_SET_GROUP_ASID", driver.device.vring(VHOST_VDPA_SET_GROUP_ASID, own, 1)).map(drop)
    })?;
    driver.command(&mut ring, &PROMISCUOUS)?;
    driver.exchange()?;
    driver.healthy()
}

fn rings(subject: &Subject) -> Outcome {
    let mut driver = Driver::unmapped(subject)?;
    driver.demand(BACKEND_DESC_ASID, "VHOST_BACKEND_F_DESC_ASID")?;
    two_spaces(&driver)?;
    // All rings are before all buffers.
    let buffers = driver.rx.places()[1].start;
    driver.map_into(1, 0..buffers, READ | WRITE)?;
    driver.map(buffers..driver.memory.bytes(), READ | WRITE)?;
    driver.negotiate()?;
    let [groups, _] = counts(&driver.device)?;
    for queue in [RX, TX] {
        let own = group(&driver, VHOST_VDPA_GET_VRING_DESC_GROUP, queue)?;
        if own >= groups {
            return fail(format!("the ring of queue {queue} is in group {own} of {groups}"));
        }
        if own == group(&driver, VHOST_VDPA_GET_VRING_GROUP, queue)? {
            return skip("rings are in the group of their queues");
        }
        call("VHOST_VDPA_SET_GROUP_ASID", driver.device.vring(VHOST_VDPA_SET_GROUP_ASID, own, 1))?;
    }
    driver.go()?;
    driver.exchange()?;
    driver.healthy()
}
