//! Opening, what the device says of itself, and errnos.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{call, owned, queues, refused};
use crate::conformance::device::{Device, Subject, pair};
use crate::conformance::report::{Outcome, fail, skip};
use nix::errno::Errno;

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
        id: "limits.rings",
        reference: "VHOST_VDPA_GET_VRING_SIZE",
        expected: "each queue has a ring size of its own, none below that of all",
        check: ring_sizes,
    },
    Rule {
        id: "owner.needed",
        reference: "VHOST_SET_OWNER",
        expected: "calls on rings without an owner: EPERM",
        check: owner_needed,
    },
    Rule { id: "owner.once", reference: "VHOST_SET_OWNER", expected: "a second time: EBUSY", check: owner_once },
    Rule {
        id: "owner.elsewhere",
        reference: "VHOST_SET_OWNER",
        expected: "calls on rings from a process that is not the owner: EPERM, and the owner's go on",
        check: owner_elsewhere,
    },
    Rule {
        id: "owner.status",
        reference: "VHOST_VDPA_SET_STATUS",
        expected: "the status from a process that is not the owner: taken, or EPERM and unchanged",
        check: owner_status,
    },
    Rule {
        id: "errno.unknown",
        reference: "ioctl(2)",
        expected: "a call that is none, of any type: ENOTTY",
        check: unknown,
    },
    Rule {
        id: "errno.address",
        reference: "ioctl(2)",
        expected: "an argument at an address where nothing is: EFAULT",
        check: address,
    },
    Rule {
        id: "errno.net",
        reference: "VHOST_SET_MEM_TABLE, VHOST_NET_SET_BACKEND",
        expected: "calls of vhost-net alone: ENOTTY or EOPNOTSUPP; an empty memory table may be taken",
        check: net_alone,
    },
];

/// No such number has more than 16 bits (virtio 1.3 §2.6, §5).
const TOO_MANY: u64 = 1 << 16;

fn open(subject: &Subject) -> Outcome {
    let device = call("open", Device::open(subject))?;
    match call("VHOST_VDPA_GET_STATUS", device.status())? {
        0 => Ok("status 0".to_owned()),
        status => fail(format!("status {status:#x}")),
    }
}

fn exclusive(subject: &Subject) -> Outcome {
    let _device = call("open", Device::open(subject))?;
    refused("open", Device::try_open(subject), &[Errno::EBUSY])
}

fn limits(subject: &Subject) -> Outcome {
    let device = call("open", Device::open(subject))?;
    let mut seen = Vec::new();
    for (name, cmd) in [
        ("device id", VHOST_VDPA_GET_DEVICE_ID),
        ("queues", VHOST_VDPA_GET_VQS_COUNT),
        ("ring size", VHOST_VDPA_GET_VRING_NUM),
        ("groups", VHOST_VDPA_GET_GROUP_NUM),
        ("address spaces", VHOST_VDPA_GET_AS_NUM),
    ] {
        match call(name, device.number(cmd))? {
            number @ (0 | TOO_MANY..) => return fail(format!("{name}: {number}")),
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

fn ring_sizes(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let least = call("VHOST_VDPA_GET_VRING_NUM", device.number(VHOST_VDPA_GET_VRING_NUM))?;
    let mut seen = Vec::new();
    for queue in 0..queues(&device)? {
        match device.vring(VHOST_VDPA_GET_VRING_SIZE, queue, 0) {
            Err(errno @ (Errno::EOPNOTSUPP | Errno::ENOTTY)) => {
                return skip(format!("not told of each queue: {errno:?}"));
            }
            size => seen.push(call("VHOST_VDPA_GET_VRING_SIZE", size)?),
        }
    }
    match seen.iter().position(|size| u64::from(*size) < least) {
        Some(queue) => fail(format!("queue {queue} has {} entries, the least is {least}", seen[queue])),
        None => Ok(format!("{seen:?}, all {least}")),
    }
}

fn owner_needed(subject: &Subject) -> Outcome {
    let device = call("open", Device::open(subject))?;
    refused("VHOST_SET_VRING_NUM", device.vring(VHOST_SET_VRING_NUM, 0, 2), &[Errno::EPERM])?;
    refused("VHOST_GET_VRING_BASE", device.vring(VHOST_GET_VRING_BASE, 0, 0), &[Errno::EPERM])?;
    let enabled = device.vring(VHOST_VDPA_SET_VRING_ENABLE, 0, 1);
    refused("VHOST_VDPA_SET_VRING_ENABLE", enabled, &[Errno::EPERM])
}

fn owner_once(subject: &Subject) -> Outcome {
    refused("VHOST_SET_OWNER", owned(subject)?.order(VHOST_SET_OWNER), &[Errno::EBUSY])
}

/// Calls on rings, with an argument that their owner might give.
const RING_CALLS: [(&str, u32, [u32; 2]); 5] = [
    ("VHOST_SET_VRING_NUM", VHOST_SET_VRING_NUM, [0, 2]),
    ("VHOST_GET_VRING_BASE", VHOST_GET_VRING_BASE, [0, 0]),
    ("VHOST_SET_VRING_BASE", VHOST_SET_VRING_BASE, [0, 7]),
    ("VHOST_VDPA_SET_VRING_ENABLE", VHOST_VDPA_SET_VRING_ENABLE, [0, 1]),
    ("VHOST_SET_VRING_KICK", VHOST_SET_VRING_KICK, [0, u32::MAX]),
];

fn owner_elsewhere(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    for (name, cmd, [index, number]) in RING_CALLS {
        let mut argument = pair(index, number);
        refused(name, device.call_elsewhere(cmd, &mut argument), &[Errno::EPERM])?;
    }
    match call("VHOST_GET_VRING_BASE of the owner", device.vring(VHOST_GET_VRING_BASE, 0, 0))? {
        0 => Ok(format!("{} calls: EPERM", RING_CALLS.len())),
        base => fail(format!("another process set the ring to {base}")),
    }
}

fn owner_status(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let written = device.call_elsewhere(VHOST_VDPA_SET_STATUS, &mut [ACKNOWLEDGE]);
    let now = call("VHOST_VDPA_GET_STATUS", device.status())?;
    match (written, now) {
        (Ok(()), ACKNOWLEDGE) => Ok("taken".to_owned()),
        (Err(Errno::EPERM), 0) => Ok("EPERM".to_owned()),
        (written, now) => fail(format!("{written:?}, and then {now:#x}")),
    }
}

fn unknown(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    for cmd in UNKNOWN {
        refused(&format!("{cmd:#x}"), device.call(cmd, &mut [0; 64]), &[Errno::ENOTTY])?;
    }
    Ok(format!("{} calls: ENOTTY", UNKNOWN.len()))
}

fn address(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let calls = [
        VHOST_GET_FEATURES,
        VHOST_SET_FEATURES,
        VHOST_GET_BACKEND_FEATURES,
        VHOST_SET_BACKEND_FEATURES,
        VHOST_VDPA_GET_DEVICE_ID,
        VHOST_VDPA_GET_STATUS,
        VHOST_VDPA_SET_STATUS,
        VHOST_VDPA_GET_CONFIG,
        VHOST_VDPA_SET_CONFIG,
        VHOST_VDPA_SET_CONFIG_CALL,
        VHOST_VDPA_GET_IOVA_RANGE,
        VHOST_VDPA_GET_VRING_NUM,
        VHOST_SET_VRING_NUM,
        VHOST_SET_VRING_BASE,
        VHOST_GET_VRING_BASE,
        VHOST_SET_VRING_ADDR,
        VHOST_SET_VRING_KICK,
        VHOST_SET_VRING_CALL,
        VHOST_VDPA_SET_VRING_ENABLE,
    ];
    for cmd in calls {
        refused(&format!("{cmd:#x}"), device.call_nowhere(cmd), &[Errno::EFAULT])?;
    }
    Ok(format!("{} calls: EFAULT", calls.len()))
}

/// The kernel's vhost-vdpa takes a memory table, and never looks at it.
fn net_alone(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let errnos = [Errno::ENOTTY, Errno::EOPNOTSUPP];
    let table = match device.call(VHOST_SET_MEM_TABLE, &mut [0; 64]) {
        Ok(()) => "VHOST_SET_MEM_TABLE: taken".to_owned(),
        written => refused("VHOST_SET_MEM_TABLE", written, &errnos)?,
    };
    let backend = device.call(VHOST_NET_SET_BACKEND, &mut [0; 8]);
    Ok(format!("{table}, {}", refused("VHOST_NET_SET_BACKEND", backend, &errnos)?))
}
