//! The forwarding table: at which port an address is, by VLAN.
//!
//! Readers take no lock: the table is a fixed array of places that are read in place. A tree published by reference would
//! be copied in part for every address that is learnt, at the rate at which a guest can invent sources. Who learns takes a
//! lock that it does not wait for: what is not learnt from one frame is learnt from the next.

mod ledger;
mod slot;

pub use slot::{Key, PortId};

use crate::secret::Secret;
use ledger::Ledger;
use parking_lot::Mutex;
use slot::Slot;

/// Places that one address can be in. A place is 24 bytes, so these are three cache lines.
const WAYS: usize = 8;
/// Places for each entry there may be: so many that hardly ever all of an address are taken.
const ROOM: usize = 4;

type Bucket = [Slot; WAYS];

/// An address that was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learnt {
    /// VLAN and MAC.
    pub key: Key,
    /// Where it is.
    pub port: PortId,
    /// Seconds since it was a source.
    pub age: u32,
}

/// The table. Times are seconds of any clock that does not go back.
#[derive(Debug)]
pub struct Table {
    buckets: Box<[Bucket]>,
    secret: Secret,
    /// How long an address is known after it was a source.
    ageing: u32,
    ledger: Mutex<Ledger>,
}

impl Table {
    /// For `entries` addresses of `ports` ports, which are known for `ageing` seconds.
    pub fn new(entries: u32, ports: u32, ageing: u32) -> Self {
        let entries = usize::try_from(entries).unwrap_or(usize::MAX).max(1);
        let buckets = (entries * ROOM / WAYS).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| std::array::from_fn(|_| Slot::new())).collect(),
            secret: Secret::new(),
            ageing,
            ledger: Mutex::new(Ledger::new(buckets * WAYS, entries, usize::try_from(ports).unwrap_or(usize::MAX))),
        }
    }

    fn bucket_of(&self, key: Key) -> usize {
        let mixed = self.secret.mix(key) & u64::from(u32::MAX);
        usize::try_from(mixed).unwrap_or(0) & (self.buckets.len() - 1)
    }

    fn is_known(&self, seen: u32, now: u32) -> bool {
        now.saturating_sub(seen) < self.ageing
    }

    /// The port `key` is at.
    #[inline]
    pub fn find(&self, key: Key, now: u32) -> Option<PortId> {
        let bucket = &self.buckets[self.bucket_of(key)];
        let (port, seen) = bucket.iter().find_map(|slot| slot.find(key))?;
        self.is_known(seen, now).then_some(port)
    }

    /// `key` was a source at `port`. Says whether the table has it there now.
    #[inline]
    pub fn learn(&self, key: Key, port: PortId, now: u32) -> bool {
        let bucket = &self.buckets[self.bucket_of(key)];
        for slot in bucket {
            if let Some((at, seen)) = slot.find(key)
                && at == port
            {
                if seen != now {
                    slot.touch(now);
                }
                return true;
            }
        }
        self.learn_new(key, port, now)
    }

    #[cold]
    fn learn_new(&self, key: Key, port: PortId, now: u32) -> bool {
        let Some(mut ledger) = self.ledger.try_lock() else { return false };
        ledger.learn(&self.places(), self.bucket_of(key) * WAYS, (key, port), now)
    }

    fn places(&self) -> Places<'_> {
        Places { slots: self.buckets.as_flattened(), ageing: self.ageing }
    }

    /// A port joins that may learn `limit` addresses.
    pub fn join(&self, port: PortId, limit: u32) {
        self.ledger.lock().join(port, limit);
    }

    /// A port leaves, and with it all that was learnt there.
    pub fn leave(&self, port: PortId) {
        self.ledger.lock().leave(&self.places(), port);
    }

    /// What is known now.
    pub fn entries(&self, now: u32) -> Vec<Learnt> {
        // So that nothing is seen twice because it moves meanwhile.
        let _ledger = self.ledger.lock();
        let known = self.places().slots.iter().filter_map(Slot::get).filter(|(.., seen)| self.is_known(*seen, now));
        known.map(|(key, port, seen)| Learnt { key, port, age: now.saturating_sub(seen) }).collect()
    }
}

/// The places, as the ledger sees them.
struct Places<'t> {
    slots: &'t [Slot],
    ageing: u32,
}

impl Places<'_> {
    fn is_stale(&self, slot: usize, now: u32) -> bool {
        self.slots[slot].get().is_some_and(|(.., seen)| now.saturating_sub(seen) >= self.ageing)
    }
}

#[cfg(test)]
mod tests;
