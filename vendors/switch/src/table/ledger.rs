//! Who has how many entries of the forwarding table, and who has to give one up.

use super::slot::{Key, PortId};
use super::{Places, WAYS};

const END: u32 = u32::MAX;

/// One port's entries, oldest first.
#[derive(Debug, Clone, Copy)]
struct Account {
    limit: u32,
    count: u32,
    first: u32,
    last: u32,
}

/// Links of a place in its port's list.
#[derive(Debug, Clone, Copy)]
struct Links {
    before: u32,
    after: u32,
}

/// The books, kept by whoever learns.
///
/// A port at its limit gives up its own oldest entry. In a full table so does a port that has its share, which is the
/// table's size by the number of ports; only one that has less takes the oldest of the port with the most.
#[derive(Debug)]
pub struct Ledger {
    links: Box<[Links]>,
    accounts: Vec<Option<Account>>,
    ports: usize,
    entries: usize,
    count: usize,
    /// When stale entries were last looked for.
    swept: Option<u32>,
}

impl Ledger {
    pub fn new(slots: usize, entries: usize, ports: usize) -> Self {
        let links = vec![Links { before: END, after: END }; slots].into_boxed_slice();
        Self { links, accounts: vec![None; ports], ports: 0, entries, count: 0, swept: None }
    }

    pub fn join(&mut self, port: PortId, limit: u32) {
        let account = Account { limit: limit.max(1), count: 0, first: END, last: END };
        if let Some(place) = self.accounts.get_mut(usize::from(port)) {
            self.ports += usize::from(place.replace(account).is_none());
        }
    }

    pub fn leave(&mut self, places: &Places<'_>, port: PortId) {
        while self.give_up_oldest(places, port) {}
        if let Some(place) = self.accounts.get_mut(usize::from(port)) {
            self.ports -= usize::from(place.take().is_some());
        }
    }

    /// Takes note that `key` is at `port`; its places begin at `bucket`. `false`: there is no room for it.
    pub fn learn(&mut self, places: &Places<'_>, bucket: usize, (key, port): (Key, PortId), now: u32) -> bool {
        let known = |slot: &usize| places.slots[*slot].get().is_some_and(|(found, ..)| found == key);
        if self.account(port).is_none() {
            return false;
        }
        if let Some(slot) = (bucket..bucket + WAYS).find(known) {
            // It moved, or another thread was faster.
            self.forget(places, slot);
        }
        if !self.make_room(places, port, now) {
            return false;
        }
        let Some(slot) = self.free_slot(places, bucket, port, now) else { return false };
        places.slots[slot].set(key, port, now);
        self.append(port, slot);
        true
    }

    fn account(&self, port: PortId) -> Option<&Account> {
        self.accounts.get(usize::from(port))?.as_ref()
    }

    fn count_of(&self, port: PortId) -> usize {
        self.account(port).map_or(0, |account| usize::try_from(account.count).unwrap_or(usize::MAX))
    }

    fn share(&self) -> usize {
        (self.entries / self.ports.max(1)).max(1)
    }

    /// Makes one entry more possible for `port`.
    fn make_room(&mut self, places: &Places<'_>, port: PortId, now: u32) -> bool {
        if self.account(port).is_some_and(|account| account.count >= account.limit) {
            return self.give_up_oldest(places, port);
        }
        if self.count < self.entries {
            return true;
        }
        self.sweep(places, now);
        if self.count < self.entries {
            return true;
        }
        if self.count_of(port) >= self.share() {
            return self.give_up_oldest(places, port);
        }
        let accounts = (0..).zip(&self.accounts).filter_map(|(port, account)| Some((account.as_ref()?.count, port)));
        let largest = accounts.max().map(|(_, port)| port);
        largest.is_some_and(|largest| self.give_up_oldest(places, largest))
    }

    /// A place of the bucket: a free one, or that of an entry which is stale, or the port's own, or of a port that has
    /// more than its share.
    fn free_slot(&mut self, places: &Places<'_>, bucket: usize, port: PortId, now: u32) -> Option<usize> {
        let range = || bucket..bucket + WAYS;
        let owner = |slot: usize| places.slots[slot].get().map(|(_, port, _)| port);
        if let Some(free) = range().find(|slot| owner(*slot).is_none()) {
            return Some(free);
        }
        let taken = range()
            .find(|slot| places.is_stale(*slot, now))
            .or_else(|| range().find(|slot| owner(*slot) == Some(port)))
            .or_else(|| range().find(|slot| owner(*slot).is_some_and(|owner| self.count_of(owner) > self.share())))?;
        self.forget(places, taken);
        Some(taken)
    }

    /// Forgets what is stale; once a second, because it looks at every place.
    fn sweep(&mut self, places: &Places<'_>, now: u32) {
        if self.swept == Some(now) {
            return;
        }
        self.swept = Some(now);
        for slot in 0..places.slots.len() {
            if places.is_stale(slot, now) {
                self.forget(places, slot);
            }
        }
    }

    fn give_up_oldest(&mut self, places: &Places<'_>, port: PortId) -> bool {
        let oldest = self.account(port).map(|account| account.first).filter(|first| *first != END);
        let Some(oldest) = oldest.and_then(|slot| usize::try_from(slot).ok()) else { return false };
        self.forget(places, oldest);
        true
    }

    fn forget(&mut self, places: &Places<'_>, slot: usize) {
        let Some((_, port, _)) = places.slots[slot].get() else { return };
        places.slots[slot].clear();
        let Links { before, after } = self.links[slot];
        if let Ok(before) = usize::try_from(before)
            && let Some(links) = self.links.get_mut(before)
        {
            links.after = after;
        }
        if let Ok(after) = usize::try_from(after)
            && let Some(links) = self.links.get_mut(after)
        {
            links.before = before;
        }
        if let Some(Some(account)) = self.accounts.get_mut(usize::from(port)) {
            if before == END {
                account.first = after;
            }
            if after == END {
                account.last = before;
            }
            account.count -= 1;
            self.count -= 1;
        }
    }

    fn append(&mut self, port: PortId, slot: usize) {
        let Some(Some(account)) = self.accounts.get_mut(usize::from(port)) else { return };
        let place = u32::try_from(slot).unwrap_or(END);
        self.links[slot] = Links { before: account.last, after: END };
        if account.last == END {
            account.first = place;
        } else if let Some(last) = usize::try_from(account.last).ok().and_then(|last| self.links.get_mut(last)) {
            last.after = place;
        }
        account.last = place;
        account.count += 1;
        self.count += 1;
    }
}
