//! What an instance does wrong now: the attributes below `faults/`.

use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use virtio_mdev_api::{AttributeSpec, Refusal};

const GROUP: &str = "faults/";
/// Longer faults than this are hangs.
const MAX_MILLISECONDS: u32 = 60_000;

/// The callbacks that can hang or panic: of a virtio device, and of one of another kind.
const CALLBACKS: [&str; 17] = [
    "set_features",
    "read_config",
    "write_config",
    "start_queue",
    "stop_queue",
    "set_kick",
    "status_changed",
    "reset",
    "save_state",
    "restore_state",
    "open",
    "release",
    "set_memory",
    "read",
    "write",
    "ioctl",
    "irqs_changed",
];

/// A number that is 0 while all is well.
#[derive(Debug, Default)]
pub struct Dial {
    set: AtomicU32,
    turns: AtomicU32,
}

impl Dial {
    /// The number.
    pub fn get(&self) -> u32 {
        self.set.load(Ordering::Relaxed)
    }

    /// The number as milliseconds.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(self.get().min(MAX_MILLISECONDS).into())
    }

    /// Counts; whether this is one of every n-th.
    pub fn strikes(&self) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.get() != 0 && turn.is_multiple_of(self.get())
    }

    /// Begins to count anew.
    pub fn rewind(&self) {
        self.turns.store(0, Ordering::Relaxed);
    }
}

/// The faults of one instance. They take effect at once.
#[derive(Debug, Default)]
pub struct Faults {
    pub lose_call: Dial,
    pub late_call_ms: Dial,
    pub needs_reset_after: Dial,
    pub slow_suspend_ms: Dial,
    pub torn_config: Dial,
    pub short_used: Dial,
    pub wrong_ring_state: Dial,
    pub unlogged: Dial,
    pub stale_maps: Dial,
    pub one_space: Dial,
    hang: Mutex<String>,
    panic: Mutex<String>,
}

impl Faults {
    fn dials(&self) -> [(&'static str, &Dial); 10] {
        [
            ("lose_call", &self.lose_call),
            ("late_call_ms", &self.late_call_ms),
            ("needs_reset_after", &self.needs_reset_after),
            ("slow_suspend_ms", &self.slow_suspend_ms),
            ("torn_config", &self.torn_config),
            ("short_used", &self.short_used),
            ("wrong_ring_state", &self.wrong_ring_state),
            ("unlogged", &self.unlogged),
            ("stale_maps", &self.stale_maps),
            ("one_space", &self.one_space),
        ]
    }

    fn words(&self) -> [(&'static str, &Mutex<String>); 2] {
        [("hang", &self.hang), ("panic", &self.panic)]
    }

    /// The attributes.
    pub fn attributes(&self) -> Vec<AttributeSpec> {
        let names = self.dials().map(|(name, _)| name).into_iter().chain(self.words().map(|(name, _)| name));
        names.map(|name| AttributeSpec { name: format!("{GROUP}{name}"), writable: true }).collect()
    }

    /// Those that any kind of device can have.
    pub fn common_attributes(&self) -> Vec<AttributeSpec> {
        let names = self.words().map(|(name, _)| format!("{GROUP}{name}"));
        names.map(|name| AttributeSpec { name, writable: true }).into()
    }

    /// The text of attribute `name`; `None` when it is no fault.
    pub fn show(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix(GROUP)?;
        let dial = self.dials().into_iter().find(|(known, _)| *known == name);
        if let Some((_, dial)) = dial {
            return Some(dial.get().to_string());
        }
        let word = self.words().into_iter().find(|(known, _)| *known == name)?;
        Some(word.1.lock().clone())
    }

    /// Takes a value for attribute `name`; `None` when it is no fault.
    pub fn store(&self, name: &str, value: &str) -> Option<Result<(), Refusal>> {
        let name = name.strip_prefix(GROUP)?;
        let value = value.trim();
        if let Some((_, dial)) = self.dials().into_iter().find(|(known, _)| *known == name) {
            let refused = |_| Refusal::new(Errno::EINVAL, format!("{name}: {value:?} is not a number"));
            return Some(value.parse().map_err(refused).map(|number| {
                dial.rewind();
                dial.set.store(number, Ordering::Relaxed);
            }));
        }
        let (_, word) = self.words().into_iter().find(|(known, _)| *known == name)?;
        let word_is_known = value.is_empty() || value == "0" || CALLBACKS.contains(&value);
        Some(if word_is_known {
            *word.lock() = if value == "0" { String::new() } else { value.to_owned() };
            Ok(())
        } else {
            Err(Refusal::new(Errno::EINVAL, format!("{name}: {value:?} is none of {}", CALLBACKS.join(", "))))
        })
    }

    /// To be called first in `callback`: does not return when it is to hang, and panics when it is to panic.
    pub fn enter(&self, callback: &str) {
        let named = |word: &Mutex<String>| *word.lock() == callback;
        if named(&self.hang) {
            tracing::warn!(callback, "hangs, as it was told to");
            loop {
                std::thread::park();
            }
        }
        assert!(!named(&self.panic), "{callback} panics, as it was told to");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_can_be_set_and_read_back_and_begins_as_health() {
        let faults = Faults::default();
        assert_eq!(faults.attributes().len(), 12);
        for AttributeSpec { name, writable } in faults.attributes() {
            assert!(writable);
            let (healthy, value) =
                if matches!(name.as_str(), "faults/hang" | "faults/panic") { ("", "reset") } else { ("0", "7") };
            assert_eq!(faults.show(&name).as_deref(), Some(healthy));
            faults.store(&name, value).unwrap().unwrap();
            assert_eq!(faults.show(&name).as_deref(), Some(value));
        }
    }

    #[test]
    fn what_is_no_fault_is_refused() {
        let faults = Faults::default();
        assert!(faults.store("mac", "1").is_none());
        assert!(faults.store("faults/unheard_of", "1").is_none());
        assert_eq!(faults.store("faults/lose_call", "-1").unwrap().unwrap_err().errno(), Errno::EINVAL);
        assert_eq!(faults.store("faults/hang", "lunch").unwrap().unwrap_err().errno(), Errno::EINVAL);
    }

    #[test]
    fn a_dial_strikes_every_nth_time() {
        let faults = Faults::default();
        faults.store("faults/lose_call", "3").unwrap().unwrap();
        let strikes: Vec<_> = (0..6).map(|_| faults.lose_call.strikes()).collect();
        assert_eq!(strikes, [false, false, true, false, false, true]);
    }

    #[test]
    #[should_panic(expected = "reset panics")]
    fn a_callback_told_to_panic_does() {
        let faults = Faults::default();
        faults.store("faults/panic", "reset").unwrap().unwrap();
        faults.enter("set_kick");
        faults.enter("reset");
    }
}
