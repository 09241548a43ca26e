//! The dirty log.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{call, memory, owned, refused};
use crate::conformance::device::{Device, Subject};
use crate::conformance::driver::{Driver, RX, TX};
use crate::conformance::report::{Ended, Outcome, fail, skip};
use crate::conformance::ring::Ring;
use crate::conformance::sys::Shared;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;

/// What a bit of the log stands for.
const PAGE: usize = 4096;
const FRAMES: usize = 20;
/// More than this is not used for a log.
const LARGEST: usize = 1 << 28;

pub const RULES: &[Rule] = &[
    Rule {
        id: "log.errno",
        reference: "VHOST_SET_LOG_BASE, VHOST_SET_LOG_FD",
        expected: "of a log: EBADF, EINVAL, EFAULT for what is no descriptor, no eventfd, no memory; without one: ENOTTY",
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
    Rule {
        id: "log.running",
        reference: "VHOST_F_LOG_ALL",
        expected: "while the driver runs it is begun and ended: before and after, no page is in the log",
        check: running,
    },
];

/// Whether there is a log. VHOST_F_LOG_ALL need not be offered: VMMs take it for more than it says.
fn has_log(device: &Device) -> Result<bool, Ended> {
    match device.call(VHOST_SET_LOG_FD, &mut (-1i32).to_le_bytes()) {
        Err(Errno::ENOTTY) => Ok(false),
        set => call("VHOST_SET_LOG_FD of -1", set).map(|()| true),
    }
}

fn errno(subject: &Subject) -> Outcome {
    let device = owned(subject)?;
    let base = |address: u64| device.call(VHOST_SET_LOG_BASE, &mut address.to_le_bytes());
    if !has_log(&device)? {
        return refused("VHOST_SET_LOG_FD: ENOTTY, VHOST_SET_LOG_BASE", base(0), &[Errno::ENOTTY]);
    }
    let set = |fd: i32| device.call(VHOST_SET_LOG_FD, &mut fd.to_le_bytes());
    let null = call("open", File::open("/dev/null").map_err(|error| crate::error::errno_of(&error)))?;
    let closed = refused("a closed descriptor", set(i32::MAX), &[Errno::EBADF])?;
    let file = refused("/dev/null", set(null.as_raw_fd()), &[Errno::EINVAL])?;
    // A log must have room for what is mapped.
    let (memory, iova) = memory(&device)?;
    call("UPDATE", device.message(IOTLB_UPDATE, iova, PAGE as u64, memory.address()))?;
    let nowhere = refused("a log beyond memory", base(PAGE as u64), &[Errno::EFAULT])?;
    Ok(format!("{closed}, {file}, {nowhere}"))
}

/// A driver and its log. All addresses are counted in pages.
struct Logged {
    driver: Driver,
    log: Shared,
    /// Pages that are the driver's alone to write.
    foreign: BTreeSet<u64>,
}

impl Logged {
    /// A network card that is not up yet, and a log for all of its memory.
    fn new(subject: &Subject) -> Result<Self, Ended> {
        let driver = Driver::unmapped(subject)?;
        if !has_log(&driver.device)? {
            return skip("there is no dirty log: ENOTTY, as of the kernel's vhost-vdpa");
        }
        driver.map(0..driver.memory.bytes(), READ | WRITE)?;
        let end = driver.iova + driver.memory.len();
        let bytes = end.div_ceil(PAGE as u64 * 8).next_multiple_of(PAGE as u64);
        let Some(bytes) = usize::try_from(bytes).ok().filter(|bytes| *bytes <= LARGEST) else {
            return skip(format!("a log of {bytes} bytes"));
        };
        let log = call("memory for a log", Shared::new(NonZeroUsize::MIN.saturating_add(bytes - 1)))?;
        call("VHOST_SET_LOG_BASE", driver.device.call(VHOST_SET_LOG_BASE, &mut log.address().to_le_bytes()))?;
        let mut logged = Self { driver, log, foreign: BTreeSet::new() };
        let Driver { rx, tx, .. } = &logged.driver;
        let pages = [rx, tx].into_iter().flat_map(Ring::driver_pages).chain(tx.places()[1].clone().step_by(PAGE));
        logged.foreign = pages.map(|offset| logged.page(offset)).collect();
        Ok(logged)
    }

    fn page(&self, offset: usize) -> u64 {
        self.driver.iova / PAGE as u64 + (offset / PAGE) as u64
    }

    /// Has writes to the used rings logged, or no longer.
    fn log_rings(&self, flags: u32) -> Result<(), Ended> {
        for (index, ring) in [(RX, &self.driver.rx), (TX, &self.driver.tx)] {
            let areas = ring.addresses();
            let set = self.driver.device.set_vring_addr_logged(index, flags, areas, areas[2]);
            call("VHOST_SET_VRING_ADDR with VHOST_VRING_F_LOG", set)?;
        }
        Ok(())
    }

    /// Has frames sent; what was there before.
    fn work(&mut self) -> Result<Vec<u8>, Ended> {
        let before = self.driver.memory.copy();
        (0..FRAMES).try_for_each(|_| self.driver.exchange()).map(|()| before)
    }

    /// What the device changed.
    fn changed(&self, before: &[u8]) -> BTreeSet<u64> {
        let after = self.driver.memory.copy();
        let offsets = (0..after.len()).step_by(PAGE);
        let changed = offsets.filter(|at| before[*at..at + PAGE] != after[*at..at + PAGE]).map(|at| self.page(at));
        changed.filter(|page| !self.foreign.contains(page)).collect()
    }

    /// What is in the log, which is empty afterwards.
    fn take(&self) -> BTreeSet<u64> {
        let bits = self.log.copy();
        self.log.write(0, &vec![0; bits.len()]);
        let is_set = |page: &u64| {
            let byte = usize::try_from(page / 8).ok().and_then(|byte| bits.get(byte));
            byte.is_some_and(|byte| byte >> (page % 8) & 1 != 0)
        };
        (0..(bits.len() * 8) as u64).filter(is_set).collect()
    }

    /// Has the device stand still, so that nothing is under way.
    fn stop(&self) -> Result<(), Ended> {
        if self.driver.backend & BACKEND_SUSPEND != 0 {
            self.driver.suspend()?;
        }
        call("reset", self.driver.device.set_status(0))
    }

    /// Brings the card up with a log, has it work and stops it; what it changed and what it logged.
    fn all(&mut self) -> Result<[BTreeSet<u64>; 2], Ended> {
        self.driver.features |= LOG_ALL;
        self.driver.negotiate()?;
        self.driver.set_up(RX, &self.driver.rx)?;
        self.driver.set_up(TX, &self.driver.tx)?;
        self.log_rings(RING_LOG)?;
        self.driver.enable(RX)?;
        self.driver.enable(TX)?;
        self.driver.run()?;
        let before = self.work()?;
        self.stop()?;
        Ok([self.changed(&before), self.take()])
    }
}

fn complete(subject: &Subject) -> Outcome {
    let [changed, logged] = Logged::new(subject)?.all()?;
    all_logged(&changed, &logged)
}

fn all_logged(changed: &BTreeSet<u64>, logged: &BTreeSet<u64>) -> Outcome {
    if changed.is_empty() {
        return fail("the device changed no page at all");
    }
    match changed.difference(logged).next() {
        Some(page) => fail(format!("page {page:#x} was changed and is not among the {} logged", logged.len())),
        None => Ok(format!("{} pages changed, {} logged", changed.len(), logged.len())),
    }
}

fn exact(subject: &Subject) -> Outcome {
    let mut card = Logged::new(subject)?;
    let [_, logged] = card.all()?;
    let mapped = card.page(0)..card.page(card.driver.memory.bytes());
    match logged.iter().find(|page| !mapped.contains(page) || card.foreign.contains(page)) {
        Some(page) => fail(format!("page {page:#x} was logged, which is not the device's to write")),
        None => Ok(format!("{} pages logged, none of {} of the driver's", logged.len(), card.foreign.len())),
    }
}

fn running(subject: &Subject) -> Outcome {
    let mut card = Logged::new(subject)?;
    card.driver.bring_up()?;
    let log = |card: &Logged, features, flags| {
        call(
            "VHOST_SET_FEATURES with VHOST_F_LOG_ALL",
            card.driver.device.set_features(card.driver.features | features),
        )?;
        card.log_rings(flags)
    };
    card.work()?;
    let early = card.take();
    log(&card, LOG_ALL, RING_LOG)?;
    let before = card.work()?;
    let changed = card.changed(&before);
    log(&card, 0, 0)?;
    let logged = card.take();
    card.work()?;
    card.stop()?;
    let late = card.take();
    for (name, pages) in [("before it began", early), ("after it ended", late)] {
        if !pages.is_empty() {
            return fail(format!("{} pages were logged {name}", pages.len()));
        }
    }
    all_logged(&changed, &logged)
}
