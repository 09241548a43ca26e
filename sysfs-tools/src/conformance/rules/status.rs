//! The status byte.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{call, owned, plain_features};
use crate::conformance::device::{Device, Subject};
use crate::conformance::report::{Ended, Outcome, fail};
use nix::errno::Errno;

pub const RULES: &[Rule] = &[
    Rule {
        id: "status.walk",
        reference: "virtio 1.3 §2.1, VHOST_VDPA_SET_STATUS",
        expected: "between all pairs of states: bits are added and read back, cleared by 0 alone, else EINVAL and unchanged",
        check: walk,
    },
    Rule {
        id: "status.reserved",
        reference: "virtio 1.3 §2.1",
        expected: "bits that are no driver's: EINVAL and unchanged, or read back",
        check: reserved,
    },
];

const BITS: [u8; 5] = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, FAILED];

/// All sets of the bits a driver may set.
fn states() -> impl Iterator<Item = u8> {
    (0..1u8 << BITS.len()).map(|set| {
        let chosen = BITS.iter().enumerate().filter(|(at, _)| set >> at & 1 != 0);
        chosen.fold(0, |state, (_, bit)| state | bit)
    })
}

/// DRIVER_OK without FEATURES_OK: a legacy driver's, which a device need not serve.
fn is_legacy(state: u8) -> bool {
    state & DRIVER_OK != 0 && state & FEATURES_OK == 0
}

/// From reset to `state`.
fn reach(device: &Device, features: u64, state: u8) -> Result<(), Ended> {
    call("reset", device.set_status(0))?;
    call("VHOST_SET_FEATURES", device.set_features(features))?;
    if state != 0 {
        call(&format!("status {state:#x}"), device.set_status(state))?;
    }
    Ok(())
}

/// How the device answers to `to` while its status is `from`.
fn step(device: &Device, from: u8, to: u8) -> Result<(nix::Result<()>, u8), Ended> {
    let written = device.set_status(to);
    let now = call(&format!("VHOST_VDPA_GET_STATUS after {to:#x} at {from:#x}"), device.status())?;
    Ok((written, now))
}

fn walk(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let features = plain_features(&device)?;
    let mut pairs = 0;
    for from in states().filter(|state| !is_legacy(*state)) {
        for to in states() {
            reach(&device, features, from)?;
            let (written, now) = step(&device, from, to)?;
            let kept = written == Err(Errno::EINVAL) && now == from;
            let taken = written.is_ok() && now == to;
            let legal = if to == 0 {
                taken
            } else if from & !to != 0 {
                kept
            } else if is_legacy(to) {
                kept || taken
            } else {
                taken
            };
            if !legal {
                return fail(format!("{to:#x} written at {from:#x}: {written:?}, and then {now:#x}"));
            }
            pairs += 1;
        }
    }
    Ok(format!("{pairs} pairs"))
}

fn reserved(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let features = plain_features(&device)?;
    let from = ACKNOWLEDGE | DRIVER;
    let mut seen = Vec::new();
    for bit in [0x10, 0x20, NEEDS_RESET] {
        reach(&device, features, from)?;
        let (written, now) = step(&device, from, from | bit)?;
        match written {
            Err(Errno::EINVAL) if now == from => seen.push(format!("{bit:#x}: EINVAL")),
            Ok(()) if now == from | bit => seen.push(format!("{bit:#x}: taken")),
            _ => return fail(format!("{:#x} written at {from:#x}: {written:?}, and then {now:#x}", from | bit)),
        }
    }
    Ok(seen.join(", "))
}
