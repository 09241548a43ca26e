//! Frames and interrupts.

use crate::conformance::Rule;
use crate::conformance::abi::*;
use crate::conformance::ask::{PATIENCE, call, rung, within};
use crate::conformance::device::Subject;
use crate::conformance::driver::{Driver, HEADER, TX};
use crate::conformance::report::{Outcome, fail, skip};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::time::Duration;

/// How much later than a used descriptor its interrupt may be.
const PROMPT: Duration = Duration::from_millis(250);
/// Frames that go through the rings more than once.
const MANY: usize = 200;
/// Frames under way at once.
const BURST: usize = 16;
/// Frames whose interrupts are waited for, one by one.
const SINGLE: usize = 16;
/// Why nothing can be said of frames that come back.
const UNASKED: &str = "frames come that nobody here sent";

pub const RULES: &[Rule] = &[
    Rule {
        id: "data.sent",
        reference: "virtio 1.3 §2.7.8",
        expected: "each frame sent is used once, with length 0",
        check: sent,
    },
    Rule {
        id: "data.returned",
        reference: "virtio 1.3 §5.1.6.4",
        expected: "frames that come back are whole, in order, with their length and num_buffers 1",
        check: returned,
    },
    Rule {
        id: "health.lasting",
        reference: "virtio 1.3 §2.1.1",
        expected: "200 frames pass through the rings without DEVICE_NEEDS_RESET",
        check: lasting,
    },
    Rule {
        id: "interrupt.sent",
        reference: "virtio 1.3 §2.7.7",
        expected: "each frame sent is interrupted for within 250 ms of its use",
        check: interrupt_sent,
    },
    Rule {
        id: "interrupt.received",
        reference: "virtio 1.3 §2.7.7",
        expected: "each frame received is interrupted for within 250 ms of its use",
        check: interrupt_received,
    },
    Rule {
        id: "interrupt.replaced",
        reference: "VHOST_SET_VRING_CALL",
        expected: "replaced while frames are under way, no interrupt is lost: the old one has it, or the new one",
        check: interrupt_replaced,
    },
];

fn sent(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    for _ in 0..8 {
        driver.send()?;
    }
    let mut used = driver.sent()?;
    used.sort_unstable();
    if used != [0, 1, 2, 3, 4, 5, 6, 7].map(|descriptor| (descriptor, 0)) {
        return fail(format!("used, with their lengths: {used:?}"));
    }
    Ok("8 frames".to_owned())
}

fn returned(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    if driver.is_sent_to() {
        return skip(UNASKED);
    }
    if !driver.loops()? {
        return skip("frames do not come back");
    }
    for number in 0..8 {
        let frame = driver.send()?;
        driver.sent()?;
        let Some((bytes, len)) = driver.receive(PATIENCE) else { return fail(format!("frame {number} was lost")) };
        let wanted = frame.len();
        if usize::try_from(len) != Ok(wanted) {
            return fail(format!("frame {number} of {wanted} bytes came back with length {len}"));
        }
        if bytes[HEADER..wanted] != frame[HEADER..] {
            return fail(format!("frame {number} of {wanted} bytes came back changed"));
        }
        if bytes[10..HEADER] != [1, 0] {
            return fail(format!("frame {number} has num_buffers {:?}", &bytes[10..HEADER]));
        }
    }
    Ok("8 frames came back".to_owned())
}

fn lasting(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    let loops = driver.loops()?;
    let burst = BURST.min(usize::from(driver.tx.size) / 2);
    let mut frames = 0;
    while frames < MANY {
        for _ in 0..burst {
            driver.send()?;
        }
        driver.sent()?;
        frames += burst;
        let back = (0..if loops { burst } else { 0 }).take_while(|_| driver.receive(PATIENCE).is_some()).count();
        if loops && back < burst {
            return fail(format!("{back} of {burst} frames came back after {frames}; {}", driver.words()));
        }
        driver.healthy()?;
    }
    Ok(format!("{frames} frames, {}", driver.words()))
}

fn interrupt_sent(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    for number in 0..SINGLE {
        rung(&driver.tx.call, Duration::ZERO);
        driver.exchange()?;
        if !rung(&driver.tx.call, PROMPT) {
            return fail(format!("none within {PROMPT:?} for frame {number}"));
        }
    }
    Ok(format!("{SINGLE} of {SINGLE}"))
}

fn interrupt_received(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    if !driver.loops()? {
        return skip("frames do not come back");
    }
    if driver.is_sent_to() {
        return skip(UNASKED);
    }
    // The interrupt for what came before may be under way.
    if (0..BURST).all(|_| rung(&driver.rx.call, 2 * PROMPT)) {
        return skip(UNASKED);
    }
    for number in 0..SINGLE {
        driver.exchange()?;
        if !within(PATIENCE, || driver.rx.used() != driver.rx.taken) {
            return fail(format!("frame {number} did not come back"));
        }
        if !rung(&driver.rx.call, PROMPT) {
            return fail(format!("none within {PROMPT:?} for frame {number}"));
        }
        driver.receive(PATIENCE);
    }
    Ok(format!("{SINGLE} of {SINGLE}"))
}

/// An interrupt that the device sent before it heard of the new eventfd is in the old one.
fn interrupt_replaced(subject: &Subject) -> Outcome {
    let mut driver = Driver::start(subject)?;
    driver.exchange()?;
    rung(&driver.tx.call, PROMPT);
    let mut before = 0;
    let replacements = 50;
    for number in 0..replacements {
        let new = call("eventfd", EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK))?;
        driver.send()?;
        call("VHOST_SET_VRING_CALL", driver.device.set_event(VHOST_SET_VRING_CALL, TX, &new))?;
        let old = std::mem::replace(&mut driver.tx.call, new);
        driver.sent()?;
        if rung(&old, Duration::ZERO) {
            before += 1;
        } else if !rung(&driver.tx.call, PROMPT) && !rung(&old, Duration::ZERO) {
            return fail(format!("frame {number} was used, and neither eventfd was signalled within {PROMPT:?}"));
        }
        rung(&driver.tx.call, Duration::ZERO);
    }
    Ok(format!("{replacements} replacements, {before} of them later than the interrupt"))
}
