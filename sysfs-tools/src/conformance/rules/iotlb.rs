//! IOTLB messages.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{call, memory, owned, refused};
use crate::conformance::device::{Device, Message, Subject};
use crate::conformance::report::{Ended, Outcome, fail, skip};
use crate::conformance::sys::Shared;
use nix::errno::Errno;
use std::sync::Arc;

const PAGE: u64 = 4096;

pub const RULES: &[Rule] = &[
    Rule {
        id: "iotlb.versions",
        reference: "struct vhost_msg, vhost_msg_v2",
        expected: "messages of both versions are taken whole: 72",
        check: versions,
    },
    Rule {
        id: "iotlb.malformed",
        reference: "vhost-vdpa write",
        expected: "a short message, a type or request that is none: refused, EINVAL or EFAULT",
        check: malformed,
    },
    Rule { id: "iotlb.empty", reference: "VHOST_IOTLB_UPDATE", expected: "a map of no bytes: EINVAL", check: empty },
    Rule {
        id: "iotlb.overlap",
        reference: "VHOST_IOTLB_UPDATE",
        expected: "a map that overlaps another: EEXIST, or EFAULT for any reason; mapped anew when it is gone",
        check: overlap,
    },
    Rule {
        id: "iotlb.range",
        reference: "VHOST_VDPA_GET_IOVA_RANGE",
        expected: "a map beyond the range or around its end: EINVAL, or EFAULT for any reason",
        check: range,
    },
    Rule {
        id: "iotlb.invalidate",
        reference: "VHOST_IOTLB_INVALIDATE",
        expected: "what is not mapped, or in part, or all there is, can be unmapped",
        check: invalidate,
    },
    Rule {
        id: "iotlb.untouched",
        reference: "VHOST_IOTLB_INVALIDATE",
        expected: "where nothing was ever mapped: taken, or refused with EINVAL or EFAULT",
        check: untouched,
    },
    Rule {
        id: "iotlb.batch",
        reference: "VHOST_BACKEND_F_IOTLB_BATCH",
        expected: "messages between BATCH_BEGIN and BATCH_END are taken and in effect",
        check: batch,
    },
];

/// A device and memory for it.
fn ready(subject: &Subject) -> Result<(Device, Arc<Shared>, u64), Ended> {
    let device = owned(subject)?;
    let (memory, iova) = memory(&device)?;
    Ok((device, memory, iova))
}

fn update(iova: u64, size: u64, memory: &Shared) -> Message {
    Message { request: IOTLB_UPDATE, iova, size, address: memory.address(), ..Message::default() }
}

fn taken(name: &str, written: nix::Result<usize>) -> Result<(), Ended> {
    match call(name, written)? {
        MESSAGE => Ok(()),
        short => fail(format!("{name}: {short}")),
    }
}

fn versions(subject: &Subject) -> Outcome {
    let (device, memory, iova) = ready(subject)?;
    for version in [1, 2] {
        let update = Message { version, ..update(iova, PAGE, &memory) };
        taken(&format!("UPDATE, version {version}"), device.write(&update.bytes()))?;
        let invalidate = Message { request: IOTLB_INVALIDATE, ..update };
        taken(&format!("INVALIDATE, version {version}"), device.write(&invalidate.bytes()))?;
    }
    // In version 1 it is padding, which clients leave as it was.
    let padded = Message { version: 1, asid: 0xdead_beef, ..update(iova, PAGE, &memory) };
    taken("UPDATE, version 1, with something in its padding", device.write(&padded.bytes()))?;
    Ok("72 bytes each".to_owned())
}

fn malformed(subject: &Subject) -> Outcome {
    let (device, memory, iova) = ready(subject)?;
    let whole = update(iova, PAGE, &memory);
    let bytes = whole.bytes();
    let errnos = [Errno::EINVAL, Errno::EFAULT];
    refused("3 bytes", device.write(&bytes[..3]), &errnos)?;
    refused("39 bytes", device.write(&bytes[..39]), &errnos)?;
    refused("type 9", device.write(&Message { version: 9, ..whole }.bytes()), &errnos)?;
    refused("request 0x77", device.message(0x77, iova, PAGE, memory.address()), &errnos)
}

fn empty(subject: &Subject) -> Outcome {
    let (device, memory, iova) = ready(subject)?;
    refused("0 bytes", device.message(IOTLB_UPDATE, iova, 0, memory.address()), &[Errno::EINVAL])
}

fn overlap(subject: &Subject) -> Outcome {
    let (device, memory, iova) = ready(subject)?;
    let update = |iova, size| device.message(IOTLB_UPDATE, iova, size, memory.address());
    taken("UPDATE", update(iova, 2 * PAGE))?;
    let errnos = [Errno::EEXIST, Errno::EFAULT];
    let seen = refused("the same", update(iova, 2 * PAGE), &errnos)?;
    refused("its last page", update(iova + PAGE, 2 * PAGE), &errnos)?;
    taken("the page behind it", update(iova + 2 * PAGE, PAGE))?;
    taken("INVALIDATE", device.message(IOTLB_INVALIDATE, iova, 3 * PAGE, 0))?;
    taken("the same again", update(iova, 2 * PAGE))?;
    Ok(seen)
}

fn range(subject: &Subject) -> Outcome {
    let (device, memory, _) = ready(subject)?;
    let (first, last) = call("VHOST_VDPA_GET_IOVA_RANGE", device.iova_range())?;
    let errnos = [Errno::EINVAL, Errno::EFAULT];
    let update = |iova, size| device.message(IOTLB_UPDATE, iova, size, memory.address());
    let seen = refused("a map that wraps around", update(u64::MAX - PAGE + 1, 2 * PAGE), &errnos)?;
    if last < u64::MAX - PAGE {
        refused("a map beyond the last IOVA", update((last + 1).next_multiple_of(PAGE), PAGE), &errnos)?;
    }
    if first >= PAGE {
        refused("a map before the first IOVA", update(0, PAGE), &errnos)?;
    }
    let lowest = first.checked_next_multiple_of(PAGE);
    let highest = last.checked_sub(PAGE - 1).map(|page| page / PAGE * PAGE);
    let (Some(lowest), Some(highest)) = (lowest, highest) else {
        return skip(format!("no page from {first:#x} to {last:#x}"));
    };
    taken("a map of the first page", update(lowest, PAGE))?;
    taken("a map of the last page", update(highest, PAGE))?;
    Ok(format!("{seen}; pages at {lowest:#x} and {highest:#x} taken"))
}

fn invalidate(subject: &Subject) -> Outcome {
    let (device, memory, iova) = ready(subject)?;
    let update = || taken("UPDATE", device.message(IOTLB_UPDATE, iova, 2 * PAGE, memory.address()));
    let invalidate = |name: &str, iova, size| taken(name, device.message(IOTLB_INVALIDATE, iova, size, 0));
    update()?;
    invalidate("INVALIDATE of more than there is", iova, 16 * PAGE)?;
    invalidate("INVALIDATE of nothing", iova, PAGE)?;
    update()?;
    invalidate("INVALIDATE of one page of two", iova + PAGE, PAGE)?;
    update()?;
    invalidate("INVALIDATE of all there is", 0, u64::MAX)?;
    update()?;
    Ok("mapped anew each time".to_owned())
}

/// The kernel makes an address space when something is first mapped in it.
fn untouched(subject: &Subject) -> Outcome {
    let (device, _, iova) = ready(subject)?;
    match device.message(IOTLB_INVALIDATE, iova, PAGE, 0) {
        Err(errno @ (Errno::EINVAL | Errno::EFAULT)) => Ok(format!("{errno:?}")),
        written => taken("INVALIDATE", written).map(|()| "taken".to_owned()),
    }
}

fn batch(subject: &Subject) -> Outcome {
    let (device, memory, iova) = ready(subject)?;
    let offered = call("VHOST_GET_BACKEND_FEATURES", device.number(VHOST_GET_BACKEND_FEATURES))?;
    if offered & BACKEND_BATCH == 0 {
        return skip("VHOST_BACKEND_F_IOTLB_BATCH is not offered");
    }
    call("VHOST_SET_BACKEND_FEATURES", device.set_backend_features(offered))?;
    taken("BATCH_BEGIN", device.message(IOTLB_BATCH_BEGIN, 0, 0, 0))?;
    taken("UPDATE", device.message(IOTLB_UPDATE, iova, PAGE, memory.address()))?;
    taken("BATCH_END", device.message(IOTLB_BATCH_END, 0, 0, 0))?;
    let again = device.message(IOTLB_UPDATE, iova, PAGE, memory.address());
    refused("the same map", again, &[Errno::EEXIST, Errno::EFAULT])
}
