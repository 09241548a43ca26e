//! A device's line to whoever drives it: faults and configuration changes go up here, from any thread, at any time.

use crate::notify::CallSlot;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Faults of one device closer together than this share one log line.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The upward line of one device. Cheap to clone, and nothing on it blocks.
#[derive(Debug, Clone)]
pub struct DeviceLink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    needs_reset: AtomicBool,
    generation: AtomicU32,
    config_call: CallSlot,
    /// Held while an interrupt is raised: when it is known that they are held back, none is under way.
    interrupts: Mutex<Interrupts>,
    last_fault: Mutex<Fault>,
    observer: Observer,
}

/// Who is told when the condition of the device may have changed.
#[derive(Default)]
struct Observer(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

#[derive(Debug, Default)]
struct Interrupts {
    held: bool,
    pending: bool,
}

#[derive(Debug, Default)]
struct Fault {
    reason: Option<String>,
    logged: Option<Instant>,
    suppressed: u32,
}

impl DeviceLink {
    /// The line of the device called `name` in logs (its UUID).
    pub fn new(name: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            needs_reset: AtomicBool::new(false),
            generation: AtomicU32::new(0),
            config_call: CallSlot::default(),
            interrupts: Mutex::default(),
            last_fault: Mutex::default(),
            observer: Observer::default(),
        }))
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The device met an error it cannot recover from: it shows DEVICE_NEEDS_RESET and sends a configuration
    /// interrupt (virtio 1.3 §2.1.1). One rate-limited log line names instance, queue and reason.
    pub fn fault(&self, queue: Option<u16>, reason: &str) {
        self.record_fault(queue, reason);
        if !self.0.needs_reset.swap(true, Ordering::AcqRel) {
            self.config_changed();
            self.changed();
        }
    }

    /// Calls `observer`, from any thread, whenever the condition of the device may have changed; it must not block.
    /// The first observer stays.
    pub fn observe(&self, observer: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.observer.0.set(Box::new(observer));
    }

    /// The condition of the device may have changed.
    pub(crate) fn changed(&self) {
        if let Some(observer) = self.0.observer.0.get() {
            observer();
        }
    }

    fn record_fault(&self, queue: Option<u16>, reason: &str) {
        let mut fault = self.0.last_fault.lock();
        fault.reason = Some(match queue {
            Some(queue) => format!("queue {queue}: {reason}"),
            None => reason.to_owned(),
        });
        if fault.logged.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            fault.suppressed = fault.suppressed.saturating_add(1);
            return;
        }
        fault.logged = Some(Instant::now());
        let suppressed = std::mem::take(&mut fault.suppressed);
        tracing::warn!(instance = %self.0.name, queue, reason, suppressed, "device needs reset");
    }

    /// Configuration space changed: readers see a new generation, the driver gets its interrupt. A read that is under way
    /// begins again, so a device whose space another thread changes need not lock it.
    pub fn config_changed(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        let mut interrupts = self.0.interrupts.lock();
        if interrupts.held {
            interrupts.pending = true;
        } else {
            self.interrupt();
        }
    }

    /// From now on configuration interrupts are held back, or no more: then one that was is raised.
    pub(crate) fn hold_interrupts(&self, held: bool) {
        let mut interrupts = self.0.interrupts.lock();
        interrupts.held = held;
        if !held && std::mem::take(&mut interrupts.pending) {
            self.interrupt();
        }
    }

    fn interrupt(&self) {
        if let Err(error) = self.0.config_call.signal() {
            tracing::warn!(instance = %self.0.name, %error, "configuration interrupt lost");
        }
    }

    /// Whether the device asked for a reset.
    pub fn needs_reset(&self) -> bool {
        self.0.needs_reset.load(Ordering::Acquire)
    }

    /// The reason of the last fault, for the instance's attributes.
    pub fn last_fault(&self) -> Option<String> {
        self.0.last_fault.lock().reason.clone()
    }

    /// The configuration generation (virtio 1.3 §2.5.2).
    pub fn generation(&self) -> u32 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Whom configuration interrupts go to.
    pub(crate) fn config_call(&self) -> &CallSlot {
        &self.0.config_call
    }

    /// A reset clears the fault, and what the driver was still to be told.
    pub(crate) fn clear_fault(&self) {
        self.0.needs_reset.store(false, Ordering::Release);
        self.0.interrupts.lock().pending = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::EventFd;

    #[test]
    fn a_fault_interrupts_the_driver_once() {
        let link = DeviceLink::new("test");
        let call = EventFd::new().unwrap();
        link.config_call().set(Some(call.clone()));
        link.fault(Some(1), "descriptor loop");
        link.fault(Some(1), "descriptor loop");
        assert!(link.needs_reset());
        assert_eq!(call.drain(), Ok(Some(1)));
        assert_eq!(link.last_fault().unwrap(), "queue 1: descriptor loop");
    }
}
