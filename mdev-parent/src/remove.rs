//! Removing an instance: ask its holder to let go, wait a bounded time, then give up or take it.

use crate::bus::BusInner;
use crate::{BusError, EventKind, Instance};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a holder is looked for while it is asked to let go. Seldom in the end, and often at first: a client that
/// has just closed its file is a holder for some microseconds more.
const LOOK_FIRST: Duration = Duration::from_micros(50);
const LOOK_LAST: Duration = Duration::from_millis(10);

/// What was written to `remove`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveText {
    /// Zero: nothing to do.
    Nothing,
    /// Another number: remove it when its holder lets go.
    Remove,
    /// `force`: remove it, holder or not.
    Force,
}

impl RemoveText {
    /// Parses a number as the kernel's `kstrtoul` with base 0 does, or the word `force`.
    pub fn parse(written: &[u8]) -> Result<Self, BusError> {
        let text = std::str::from_utf8(written).map_err(|_| BusError::NotANumber)?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text == "force" {
            return Ok(Self::Force);
        }
        let digits = text.strip_prefix('+').unwrap_or(text);
        let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => u64::from_str_radix(hex, 16),
            None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8),
            None => digits.parse(),
        };
        match number {
            Ok(_) if digits.contains(['+', '-']) => Err(BusError::NotANumber),
            Ok(0) => Ok(Self::Nothing),
            Ok(_) => Ok(Self::Remove),
            Err(_) => Err(BusError::NotANumber),
        }
    }
}

/// Removes `instance` from its bus. `force` takes it from its holder at once.
pub(crate) fn remove(bus: &Arc<BusInner>, instance: &Arc<Instance>, force: bool) -> Result<(), BusError> {
    if !instance.claim_removal() {
        return Err(BusError::RemovalRunning { uuid: instance.uuid() });
    }
    if !force && let Err(busy) = wait_for_holder(instance, bus.options.remove_patience) {
        instance.give_up_claim();
        return Err(busy);
    }
    take_away(bus, instance);
    Ok(())
}

/// The end of an instance that the caller has claimed.
pub(crate) fn take_away(bus: &Arc<BusInner>, instance: &Arc<Instance>) {
    instance.bound.lock().gone = true;
    bus.detach_driver(instance);
    bus.listener().removed(instance);
    instance.engine().retire();
    bus.forget(instance);
    instance.publish(EventKind::Remove);
}

fn wait_for_holder(instance: &Instance, patience: Duration) -> Result<(), BusError> {
    if instance.holder().is_none() {
        return Ok(());
    }
    instance.publish(EventKind::RemoveRequest);
    instance.ask_holder();
    let begun = Instant::now();
    let mut look = LOOK_FIRST;
    while let Some(holder) = instance.holder() {
        if begun.elapsed() >= patience {
            return Err(BusError::InUse { uuid: instance.uuid(), holder });
        }
        std::thread::sleep(look);
        look = (look * 2).min(LOOK_LAST);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        for one in ["1", "1\n", "+1", "0x10", "017", "18446744073709551615"] {
            assert_eq!(RemoveText::parse(one.as_bytes()), Ok(RemoveText::Remove), "{one:?}");
        }
        for zero in ["0", "0\n", "00", "0x0"] {
            assert_eq!(RemoveText::parse(zero.as_bytes()), Ok(RemoveText::Nothing), "{zero:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for bad in ["", "\n", "x", "-1", "++1", "0x+1", "1\n\n", " 1", "0x", "08", "18446744073709551616"] {
            assert_eq!(RemoveText::parse(bad.as_bytes()), Err(BusError::NotANumber), "{bad:?}");
        }
        assert_eq!(RemoveText::parse(&[0xff]), Err(BusError::NotANumber));
    }
}
