//! Features.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{call, owned, plain_features, refused};
use crate::conformance::device::{Device, Subject};
use crate::conformance::report::{Outcome, fail, skip};
use nix::errno::Errno;

pub const OFFER: &[Rule] = &[
    Rule {
        id: "features.offer",
        reference: "virtio 1.3 §6",
        expected: "VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM are offered",
        check: offer,
    },
    Rule { id: "features.subset", reference: "VHOST_SET_FEATURES", expected: "a subset is taken", check: subset },
    Rule {
        id: "features.backend",
        reference: "VHOST_SET_BACKEND_FEATURES",
        expected: "what is offered is taken, and a bit that is not: EOPNOTSUPP",
        check: backend,
    },
];

/// Those about the status bit that accepts features.
pub const RULES: &[Rule] = &[
    Rule {
        id: "features.unoffered",
        reference: "VHOST_SET_FEATURES, virtio 1.3 §2.2",
        expected: "a bit that is not offered: EINVAL, or FEATURES_OK is not kept",
        check: unoffered,
    },
    Rule {
        id: "features.required",
        reference: "virtio 1.3 §6.1",
        expected: "neither bit of VERSION_1 and ACCESS_PLATFORM can be left out: EINVAL, or FEATURES_OK is not kept",
        check: required,
    },
    Rule {
        id: "features.fixed",
        reference: "VHOST_SET_FEATURES",
        expected: "after FEATURES_OK: EBUSY; after a reset they can be set again",
        check: fixed,
    },
];

fn offer(subject: &Subject) -> Outcome {
    let features = call("VHOST_GET_FEATURES", owned(subject)?.number(VHOST_GET_FEATURES))?;
    let wanted = VERSION_1 | ACCESS_PLATFORM;
    if features & wanted == wanted { Ok(format!("{features:#x}")) } else { fail(format!("{features:#x}")) }
}

fn subset(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let offered = call("VHOST_GET_FEATURES", device.number(VHOST_GET_FEATURES))?;
    let plain = plain_features(&device)?;
    for features in [plain, offered, plain] {
        call("VHOST_SET_FEATURES", device.set_features(features))?;
    }
    Ok(format!("{plain:#x} of {offered:#x}"))
}

fn unoffered(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let offered = call("VHOST_GET_FEATURES", device.number(VHOST_GET_FEATURES))?;
    let Some(bit) = (0..64).rev().map(|bit| 1u64 << bit).find(|bit| offered & bit == 0) else {
        return skip("all features are offered");
    };
    let features = plain_features(&device)? | bit;
    not_kept(&device, features)
}

fn required(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let plain = plain_features(&device)?;
    let mut seen = Vec::new();
    for bit in [VERSION_1, ACCESS_PLATFORM] {
        call("reset", device.set_status(0))?;
        seen.push(not_kept(&device, plain & !bit)?);
    }
    Ok(seen.join(", "))
}

/// Demands that features are refused, at once or at FEATURES_OK.
fn not_kept(device: &Device, features: u64) -> Outcome {
    call("VHOST_VDPA_SET_STATUS", device.set_status(ACKNOWLEDGE | DRIVER))?;
    let set = device.set_features(features);
    if set != Ok(()) {
        return refused(&format!("features {features:#x}"), set, &[Errno::EINVAL]);
    }
    let written = device.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    match call("VHOST_VDPA_GET_STATUS", device.status())? & FEATURES_OK {
        0 => Ok(format!("features {features:#x}: FEATURES_OK is not kept")),
        _ => fail(format!("features {features:#x}: accepted, FEATURES_OK {written:?} and kept")),
    }
}

fn fixed(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let features = plain_features(&device)?;
    let set = |status| call("VHOST_VDPA_SET_STATUS", device.set_status(status));
    set(ACKNOWLEDGE | DRIVER)?;
    call("VHOST_SET_FEATURES", device.set_features(features))?;
    set(ACKNOWLEDGE | DRIVER | FEATURES_OK)?;
    let seen = refused("VHOST_SET_FEATURES", device.set_features(features), &[Errno::EBUSY])?;
    set(0)?;
    call("VHOST_SET_FEATURES after a reset", device.set_features(features))?;
    Ok(seen)
}

fn backend(subject: &Subject) -> Outcome {
    let device: Device = owned(subject)?;
    let offered = call("VHOST_GET_BACKEND_FEATURES", device.number(VHOST_GET_BACKEND_FEATURES))?;
    call("VHOST_SET_BACKEND_FEATURES", device.set_backend_features(offered))?;
    refused("bit 63", device.set_backend_features(1 << 63), &[Errno::EOPNOTSUPP])?;
    Ok(format!("{offered:#x}"))
}
