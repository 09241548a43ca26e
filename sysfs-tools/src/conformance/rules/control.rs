//! Opening, what the device says of itself, and errnos.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::device::Device;
use crate::conformance::driver::{call, owned, refused};
use crate::conformance::report::{Outcome, fail};
use nix::errno::Errno;
use std::path::Path;

pub const RULES: &[Rule] = &[
    Rule { id: "reset.open", reference: "vhost-vdpa open", expected: "open resets: status 0", check: open },
    Rule { id: "open.exclusive", reference: "vhost-vdpa open", expected: "a second open: EBUSY", check: exclusive },
    Rule {
        id: "limits.told",
        reference: "vhost-vdpa GET_*",
        expected: "a device id, a queue, a ring size, a group, an address space, a range of IOVAs",
        check: limits,
    },
    Rule {
        id: "limits.groups",
        reference: "VHOST_VDPA_GET_VRING_GROUP",
        expected: "each queue's group is below the number of groups",
        check: groups,
    },
    Rule {
        id: "owner.needed",
        reference: "VHOST_SET_OWNER",
        expected: "calls on rings without an owner: EPERM",
        check: owner_needed,
    },
    Rule { id: "owner.once", reference: "VHOST_SET_OWNER", expected: "a second time: EBUSY", check: owner_once },
    Rule { id: "errno.unknown", reference: "ioctl(2)", expected: "a call that is none: ENOTTY", check: unknown },
    Rule { id: "errno.log", reference: "VHOST_SET_LOG_BASE", expected: "not for vdpa: ENOTTY", check: log },
];

fn open(path: &Path) -> Outcome {
    let device = call("open", Device::open(path))?;
    match call("VHOST_VDPA_GET_STATUS", device.status())? {
        0 => Ok("status 0".to_owned()),
        status => fail(format!("status {status:#x}")),
    }
}

fn exclusive(path: &Path) -> Outcome {
    let _device = call("open", Device::open(path))?;
    refused("open", Device::try_open(path), &[Errno::EBUSY])
}

fn limits(path: &Path) -> Outcome {
    let device = call("open", Device::open(path))?;
    let mut seen = Vec::new();
    for (name, cmd) in [
        ("device id", VHOST_VDPA_GET_DEVICE_ID),
        ("queues", VHOST_VDPA_GET_VQS_COUNT),
        ("ring size", VHOST_VDPA_GET_VRING_NUM),
        ("groups", VHOST_VDPA_GET_GROUP_NUM),
        ("address spaces", VHOST_VDPA_GET_AS_NUM),
    ] {
        match call(name, device.number(cmd))? {
            0 => return fail(format!("{name}: 0")),
            number => seen.push(format!("{name} {number}")),
        }
    }
    let (first, last) = call("VHOST_VDPA_GET_IOVA_RANGE", device.iova_range())?;
    if first >= last {
        return fail(format!("IOVAs from {first:#x} to {last:#x}"));
    }
    seen.push(format!("IOVAs {first:#x}-{last:#x}"));
    Ok(seen.join(", "))
}

fn groups(path: &Path) -> Outcome {
    let device = owned(path)?;
    let groups = call("VHOST_VDPA_GET_GROUP_NUM", device.number(VHOST_VDPA_GET_GROUP_NUM))?;
    let queues = call("VHOST_VDPA_GET_VQS_COUNT", device.number(VHOST_VDPA_GET_VQS_COUNT))?;
    for queue in 0..u32::try_from(queues).unwrap_or(u32::MAX) {
        match device.vring(VHOST_VDPA_GET_VRING_GROUP, queue, 0) {
            Err(Errno::EOPNOTSUPP) => return Ok("there are no groups: EOPNOTSUPP".to_owned()),
            group => {
                let group = call("VHOST_VDPA_GET_VRING_GROUP", group)?;
                if u64::from(group) >= groups {
                    return fail(format!("queue {queue} is in group {group} of {groups}"));
                }
            }
        }
    }
    Ok(format!("{queues} queues in {groups} groups"))
}

fn owner_needed(path: &Path) -> Outcome {
    let device = call("open", Device::open(path))?;
    refused("VHOST_SET_VRING_NUM", device.vring(VHOST_SET_VRING_NUM, 0, 2), &[Errno::EPERM])?;
    refused("VHOST_GET_VRING_BASE", device.vring(VHOST_GET_VRING_BASE, 0, 0), &[Errno::EPERM])?;
    let enabled = device.vring(VHOST_VDPA_SET_VRING_ENABLE, 0, 1);
    refused("VHOST_VDPA_SET_VRING_ENABLE", enabled, &[Errno::EPERM])
}

fn owner_once(path: &Path) -> Outcome {
    refused("VHOST_SET_OWNER", owned(path)?.order(VHOST_SET_OWNER), &[Errno::EBUSY])
}

fn unknown(path: &Path) -> Outcome {
    refused("0xaf6f", owned(path)?.order(UNKNOWN), &[Errno::ENOTTY])
}

fn log(path: &Path) -> Outcome {
    refused("VHOST_SET_LOG_BASE", owned(path)?.call(VHOST_SET_LOG_BASE, &mut [0; 8]), &[Errno::ENOTTY])
}
