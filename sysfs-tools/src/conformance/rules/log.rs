//! The dirty log.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, call, owned, refused};
use crate::conformance::report::{Ended, Outcome, fail, skip};
use crate::conformance::sys::Shared;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;

/// What a bit of the log stands for.
const PAGE: usize = 4096;
const FRAMES: usize = 20;

pub const RULES: &[Rule] = &[
    Rule {
        id: "log.errno",
        reference: "VHOST_SET_LOG_BASE, VHOST_SET_LOG_FD",
        expected: "of a log: EBADF for what is no descriptor; without one, as the kernel's vdpa: ENOTTY for both",
        check: errno,
    },
    Rule {
        id: "log.complete",
        reference: "VHOST_F_LOG_ALL",
        expected: "when the device stands still, each page that it changed is in the log",
        check: complete,
    },
    Rule {
        id: "log.exact",
        reference: "VHOST_F_LOG_ALL",
        expected: "no page is in the log that is not the device's to write",
        check: exact,
    },
];

fn errno(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let set = |fd: i32| device.call(VHOST_SET_LOG_FD, &mut fd.to_le_bytes());
    if call("VHOST_GET_FEATURES", device.number(VHOST_GET_FEATURES))? & LOG_ALL == 0 {
        refused("VHOST_SET_LOG_FD", set(-1), &[Errno::ENOTTY])?;
        return refused("VHOST_SET_LOG_BASE", device.call(VHOST_SET_LOG_BASE, &mut [0; 8]), &[Errno::ENOTTY]);
    }
    call("-1", set(-1))?;
    refused("a closed descriptor", set(i32::MAX), &[Errno::EBADF])
}

/// Pages, counted from the IOVA 0.
struct Logged {
    /// Those that are not as they were.
    changed: BTreeSet<u64>,
    /// Those in the log.
    logged: BTreeSet<u64>,
    /// Those that are the driver's alone to write.
    foreign: BTreeSet<u64>,
}

/// What a device logs of some frames.
fn logged(subject: &Subject) -> Result<Logged, Ended> {
    let mut driver = Driver::unmapped(subject)?;
    if call("VHOST_GET_FEATURES", driver.device.number(VHOST_GET_FEATURES))? & LOG_ALL == 0 {
        return skip("VHOST_F_LOG_ALL is not offered, as in the kernel");
    }
    driver.features |= LOG_ALL;
    driver.map(0..driver.memory.bytes(), READ | WRITE)?;
    let end = driver.iova + driver.memory.len();
    let bytes = usize::try_from(end.div_ceil(PAGE as u64 * 8)).unwrap_or(usize::MAX).next_multiple_of(PAGE);
    let log = call("memory for a log", Shared::new(NonZeroUsize::MIN.saturating_add(bytes - 1)))?;
    driver.negotiate()?;
    call("VHOST_SET_LOG_BASE", driver.device.call(VHOST_SET_LOG_BASE, &mut log.address().to_le_bytes()))?;
    for (index, ring) in [(0, &driver.rx), (1, &driver.tx)] {
        driver.set_up(index, ring)?;
        let areas = ring.addresses();
        let set = driver.device.set_vring_addr_logged(index, RING_LOG, areas, areas[2]);
        call("VHOST_SET_VRING_ADDR with VHOST_VRING_F_LOG", set)?;
        driver.enable(index)?;
    }
    driver.run()?;
    // What the driver itself writes meanwhile is in pages of its own: descriptors, available rings, what is sent.
    let before = driver.memory.copy();
    for _ in 0..FRAMES {
        driver.exchange()?;
    }
    if driver.backend & BACKEND_SUSPEND != 0 {
        driver.suspend()?;
    }
    call("reset", driver.device.set_status(0))?;
    let after = driver.memory.copy();
    let first = driver.iova / PAGE as u64;
    let page = |offset: usize| first + (offset / PAGE) as u64;
    let foreign: BTreeSet<u64> = [&driver.rx, &driver.tx]
        .into_iter()
        .flat_map(|ring| ring.driver_pages())
        .chain(driver.tx.places()[1].clone().step_by(PAGE))
        .map(page)
        .collect();
    let offsets = (0..driver.memory.bytes()).step_by(PAGE);
    let changed = offsets.filter(|at| before[*at..at + PAGE] != after[*at..at + PAGE]).map(page);
    let changed = changed.filter(|page| !foreign.contains(page)).collect();
    let bits = log.copy();
    let set = |page: &u64| {
        let byte = usize::try_from(page / 8).ok().and_then(|byte| bits.get(byte));
        byte.is_some_and(|byte| byte >> (page % 8) & 1 != 0)
    };
    let logged = (0..(bits.len() * 8) as u64).filter(set).collect();
    Ok(Logged { changed, logged, foreign })
}

fn complete(subject: &Subject) -> Outcome {
    let Logged { changed, logged, .. } = logged(subject)?;
    match changed.difference(&logged).next() {
        Some(page) => fail(format!("page {page:#x} was changed and is not among the {} logged", logged.len())),
        None => Ok(format!("{} pages changed, {} logged", changed.len(), logged.len())),
    }
}

fn exact(subject: &Subject) -> Outcome {
    let Logged { logged, foreign, .. } = logged(subject)?;
    let Some(first) = foreign.first() else { return skip("no page is the driver's alone") };
    match logged.iter().find(|page| *page < first || foreign.contains(page)) {
        Some(page) => fail(format!("page {page:#x} was logged, which is not the device's to write")),
        None => Ok(format!("{} pages logged, none of {} of the driver's", logged.len(), foreign.len())),
    }
}
