//! Groups of queues and their address spaces.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{call, memory, owned, queues, refused};
use crate::conformance::device::{Device, Message, Subject};
use crate::conformance::report::{Ended, Outcome, fail, skip};
use nix::errno::Errno;

const PAGE: u64 = 4096;

pub const RULES: &[Rule] = &[
    Rule {
        id: "asid.groups",
        reference: "VHOST_VDPA_GET_VRING_GROUP",
        expected: "each queue's group is below the number of groups",
        check: groups,
    },
    Rule {
        id: "asid.bounds",
        reference: "VHOST_VDPA_SET_GROUP_ASID",
        expected: "an address space that is not there: EINVAL; a group that is not there: EINVAL or ENOBUFS",
        check: bounds,
    },
    Rule {
        id: "asid.message",
        reference: "VHOST_BACKEND_F_IOTLB_ASID",
        expected: "a map in an address space that is not there: EINVAL, or EFAULT for any reason",
        check: unknown_space,
    },
    Rule {
        id: "asid.separate",
        reference: "VHOST_BACKEND_F_IOTLB_ASID",
        expected: "the same IOVA can be mapped in each address space, and unmapped in one alone",
        check: separate,
    },
];

/// The number of groups and of address spaces.
pub fn counts(device: &Device) -> Result<[u32; 2], Ended> {
    let groups = call("VHOST_VDPA_GET_GROUP_NUM", device.number(VHOST_VDPA_GET_GROUP_NUM))?;
    let spaces = call("VHOST_VDPA_GET_AS_NUM", device.number(VHOST_VDPA_GET_AS_NUM))?;
    Ok([groups, spaces].map(|count| u32::try_from(count).unwrap_or(u32::MAX)))
}

fn acknowledge(device: &Device) -> Result<(), Ended> {
    let offered = call("VHOST_GET_BACKEND_FEATURES", device.number(VHOST_GET_BACKEND_FEATURES))?;
    if offered & BACKEND_ASID == 0 {
        return skip("VHOST_BACKEND_F_IOTLB_ASID is not offered");
    }
    call("VHOST_SET_BACKEND_FEATURES", device.set_backend_features(offered))
}

fn groups(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let [groups, _] = counts(&device)?;
    let queues = queues(&device)?;
    for queue in 0..queues {
        match device.vring(VHOST_VDPA_GET_VRING_GROUP, queue, 0) {
            Err(Errno::EOPNOTSUPP) => return skip("there are no groups: EOPNOTSUPP"),
            group => {
                let group = call("VHOST_VDPA_GET_VRING_GROUP", group)?;
                if group >= groups {
                    return fail(format!("queue {queue} is in group {group} of {groups}"));
                }
            }
        }
    }
    Ok(format!("{queues} queues in {groups} groups"))
}

fn bounds(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let [groups, spaces] = counts(&device)?;
    let set = |group, space| device.vring(VHOST_VDPA_SET_GROUP_ASID, group, space);
    if set(0, 0) == Err(Errno::EOPNOTSUPP) {
        return skip("there are no groups: EOPNOTSUPP");
    }
    call("group 0 into address space 0", set(0, 0))?;
    let seen = refused(&format!("address space {spaces}"), set(0, spaces), &[Errno::EINVAL])?;
    refused("address space 2^32 - 1", set(0, u32::MAX), &[Errno::EINVAL])?;
    for group in [groups, u32::MAX] {
        refused(&format!("group {group}"), set(group, 0), &[Errno::EINVAL, Errno::ENOBUFS])?;
    }
    Ok(seen)
}

fn unknown_space(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    acknowledge(&device)?;
    let [_, spaces] = counts(&device)?;
    let (memory, iova) = memory(&device)?;
    let update = |asid| Message {
        asid,
        request: IOTLB_UPDATE,
        iova,
        size: PAGE,
        address: memory.address(),
        ..Message::default()
    };
    let written = device.write(&update(spaces).bytes());
    let seen = refused(&format!("address space {spaces}"), written, &[Errno::EINVAL, Errno::EFAULT])?;
    call("address space 0", device.write(&update(0).bytes()))?;
    Ok(seen)
}

fn separate(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    acknowledge(&device)?;
    let [_, spaces] = counts(&device)?;
    if spaces < 2 {
        return skip("there is one address space");
    }
    let (memory, iova) = memory(&device)?;
    let message = |asid, request| {
        let message = Message { asid, request, iova, size: PAGE, address: memory.address(), ..Message::default() };
        device.write(&message.bytes())
    };
    for asid in 0..spaces.min(16) {
        call(&format!("UPDATE in {asid}"), message(asid, IOTLB_UPDATE))?;
    }
    call("INVALIDATE in 1", message(1, IOTLB_INVALIDATE))?;
    let seen = refused("UPDATE in 0 again", message(0, IOTLB_UPDATE), &[Errno::EEXIST, Errno::EFAULT])?;
    call("UPDATE in 1 again", message(1, IOTLB_UPDATE))?;
    Ok(format!("{spaces} address spaces; {seen}"))
}
