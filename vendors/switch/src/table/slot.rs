//! A place of the forwarding table: one thread at a time writes it, any reads it.

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Which address is meant: VLAN and MAC in one number that is never 0.
pub type Key = u64;
/// A port, by its place in the switch.
pub type PortId = u16;

/// No port.
const NONE: u64 = 0xffff;

/// Bits of the version.
const VERSION: u32 = 16;

/// The version tells a reader that key and port belong together: it is another one after every change, and says nothing
/// of a port while the key changes.
#[derive(Debug)]
pub struct Slot {
    /// Version, and below it the port.
    state: AtomicU64,
    key: AtomicU64,
    /// The second in which its address was last a source.
    seen: AtomicU32,
}

impl Slot {
    pub fn new() -> Self {
        Self { state: AtomicU64::new(NONE), key: AtomicU64::new(0), seen: AtomicU32::new(0) }
    }

    /// Where `key` is and when it was last seen, if this is its place.
    #[inline]
    pub fn find(&self, key: Key) -> Option<(PortId, u32)> {
        // Acquire: the key is at least as new as the version.
        let state = self.state.load(Ordering::Acquire);
        let port = port_of(state)?;
        if self.key.load(Ordering::Relaxed) != key {
            return None;
        }
        let seen = self.seen.load(Ordering::Relaxed);
        // A key newer than the version shows itself by a newer version.
        fence(Ordering::Acquire);
        (self.state.load(Ordering::Relaxed) == state).then_some((port, seen))
    }

    /// Its address was a source in this second. Between two changes any thread may say so.
    #[inline]
    pub fn touch(&self, now: u32) {
        self.seen.store(now, Ordering::Relaxed);
    }

    /// What is in it, for the thread that may write it.
    pub fn get(&self) -> Option<(Key, PortId, u32)> {
        let port = port_of(self.state.load(Ordering::Relaxed))?;
        Some((self.key.load(Ordering::Relaxed), port, self.seen.load(Ordering::Relaxed)))
    }

    /// Fills it anew.
    pub fn set(&self, key: Key, port: PortId, now: u32) {
        self.clear();
        self.fill(key, port, now);
    }

    /// Fills it while it is empty.
    pub fn fill(&self, key: Key, port: PortId, now: u32) {
        // Release: whoever sees the new key sees that the old version is gone.
        fence(Ordering::Release);
        self.key.store(key, Ordering::Relaxed);
        self.seen.store(now, Ordering::Relaxed);
        self.change(u64::from(port));
    }

    /// Empties it.
    pub fn clear(&self) {
        self.change(NONE);
    }

    fn change(&self, port: u64) {
        let version = (self.state.load(Ordering::Relaxed) >> VERSION).wrapping_add(1);
        // Release: who sees the version sees the key it belongs to.
        self.state.store(version << VERSION | port, Ordering::Release);
    }
}

fn port_of(state: u64) -> Option<PortId> {
    let port = state & NONE;
    if port == NONE { None } else { PortId::try_from(port).ok() }
}
