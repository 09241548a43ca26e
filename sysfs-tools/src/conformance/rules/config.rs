//! Configuration space.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{call, owned, refused};
use crate::conformance::device::{Device, Subject};
use crate::conformance::report::{Ended, Outcome, fail, skip};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd};

/// Reads of the whole space that are compared.
const READS: usize = 64;
/// QEMU reads this much whatever the size, so a device may have it to be read.
const READABLE: u32 = 8;
/// No device has as much (virtio 1.3 §5).
const LARGEST: u32 = 4096;
/// Bytes of a MAC address, the first field of a network card.
pub const MAC: u32 = 6;

pub const RULES: &[Rule] = &[
    Rule {
        id: "config.bounds",
        reference: "VHOST_VDPA_GET_CONFIG",
        expected: "no bytes, and bytes beyond the space: EINVAL",
        check: bounds,
    },
    Rule {
        id: "config.generation",
        reference: "virtio 1.3 §2.5.2",
        expected: "all reads are alike while no configuration interrupt comes",
        check: generation,
    },
    Rule {
        id: "config.pieces",
        reference: "virtio 1.3 §2.5",
        expected: "byte by byte there is what is read at once",
        check: pieces,
    },
    Rule {
        id: "config.write",
        reference: "VHOST_VDPA_SET_CONFIG",
        expected: "a MAC address is taken, and then read back or without effect; beyond the space: EINVAL",
        check: write,
    },
    Rule {
        id: "config.call",
        reference: "VHOST_VDPA_SET_CONFIG_CALL",
        expected: "an eventfd and -1 are taken; EBADF, EINVAL for what is no eventfd",
        check: interrupt,
    },
];

fn size(device: &Device) -> Result<u32, Ended> {
    let size = call("VHOST_VDPA_GET_CONFIG_SIZE", device.number(VHOST_VDPA_GET_CONFIG_SIZE))?;
    match u32::try_from(size) {
        Ok(0) => skip("a configuration space of no bytes"),
        Ok(size) if size <= LARGEST => Ok(size),
        _ => fail(format!("a configuration space of {size} bytes")),
    }
}

fn bounds(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let size = size(&device)?;
    call("the whole space", device.config(0, size))?;
    call("the last byte", device.config(size - 1, 1))?;
    let end = size.max(READABLE);
    for (offset, len) in [(0, 0), (end, 1), (end - 1, 2), (0, end + 1), (u32::MAX, 2), (1, u32::MAX)] {
        refused(&format!("{len} bytes at {offset}"), device.config(offset, len), &[Errno::EINVAL])?;
    }
    Ok(format!("{size} bytes; all else EINVAL"))
}

fn generation(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let size = size(&device)?;
    let changed = call("eventfd", EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK))?;
    let mut number = changed.as_fd().as_raw_fd().to_le_bytes();
    call("VHOST_VDPA_SET_CONFIG_CALL", device.call(VHOST_VDPA_SET_CONFIG_CALL, &mut number))?;
    let mut before = call("VHOST_VDPA_GET_CONFIG", device.config(0, size))?;
    for read in 1..READS {
        let now = call("VHOST_VDPA_GET_CONFIG", device.config(0, size))?;
        if now != before && changed.read().is_err() {
            return fail(format!("read {read}: {now:02x?} after {before:02x?}, and no interrupt"));
        }
        before = now;
    }
    Ok(format!("{READS} reads alike"))
}

fn pieces(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let size = size(&device)?;
    let whole = call("VHOST_VDPA_GET_CONFIG", device.config(0, size))?;
    let mut bytes = Vec::new();
    for offset in 0..size {
        bytes.extend(call("VHOST_VDPA_GET_CONFIG", device.config(offset, 1))?);
    }
    if bytes == whole {
        Ok(format!("{size} bytes"))
    } else {
        fail(format!("{bytes:02x?} in pieces, {whole:02x?} at once"))
    }
}

fn write(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let size = size(&device)?;
    if device.number(VHOST_VDPA_GET_DEVICE_ID) != Ok(NET.into()) || size < MAC {
        return skip("the device has no MAC address");
    }
    let get = || call("VHOST_VDPA_GET_CONFIG", device.config(0, MAC));
    let set = |mac: &[u8]| call("VHOST_VDPA_SET_CONFIG", device.set_config(0, mac));
    let mac = get()?;
    let other = another(&mac);
    set(&other)?;
    let (between, _) = (get()?, set(&mac)?);
    let now = get()?;
    if now != mac {
        return fail(format!("{mac:02x?} written, {now:02x?} read"));
    }
    refused("a write beyond the space", device.set_config(size, &[0]), &[Errno::EINVAL])?;
    refused("a write of nothing", device.set_config(0, &[]), &[Errno::EINVAL])?;
    match between {
        kept if kept == other => Ok("kept".to_owned()),
        kept if kept == mac => Ok("without effect".to_owned()),
        torn => fail(format!("{other:02x?} written, {torn:02x?} read")),
    }
}

/// Another MAC address of the same kind.
pub fn another(mac: &[u8]) -> Vec<u8> {
    mac.iter().enumerate().map(|(at, byte)| if at < 3 { *byte } else { !byte }).collect()
}

fn interrupt(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let set = |number: i32| device.call(VHOST_VDPA_SET_CONFIG_CALL, &mut number.to_le_bytes());
    let event = call("eventfd", EventFd::from_flags(EfdFlags::EFD_CLOEXEC))?;
    call("an eventfd", set(event.as_fd().as_raw_fd()))?;
    call("-1", set(-1))?;
    refused("a closed descriptor", set(i32::MAX), &[Errno::EBADF])?;
    let file = call("open", std::fs::File::open("/dev/null").map_err(|error| crate::error::errno_of(&error)))?;
    refused("a descriptor of /dev/null", set(file.as_raw_fd()), &[Errno::EINVAL])
}
