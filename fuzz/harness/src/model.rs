//! Disjoint ranges of addresses, as plainly as can be.

use std::collections::BTreeMap;

/// Disjoint ranges, first address to last.
#[derive(Debug, Default)]
pub struct Intervals(BTreeMap<u64, u64>);

impl Intervals {
    /// Every range, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(&first, &last)| (first, last))
    }

    /// The ranges with an address in `first..=last`, by their first.
    pub fn touching(&self, first: u64, last: u64) -> Vec<u64> {
        self.iter().filter(|&(from, to)| from <= last && to >= first).map(|(from, _)| from).collect()
    }

    /// The last address of the range that begins at `first`.
    pub fn last(&self, first: u64) -> u64 {
        self.0[&first]
    }

    /// Adds a range.
    pub fn insert(&mut self, first: u64, last: u64) {
        self.0.insert(first, last);
    }

    /// Removes the ranges that begin at `firsts`.
    pub fn remove(&mut self, firsts: impl IntoIterator<Item = u64>) {
        for first in firsts {
            self.0.remove(&first);
        }
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Ordered ranges with neighbours made one.
pub fn coalesce(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut whole: Vec<(u64, u64)> = Vec::new();
    for (first, last) in ranges {
        match whole.last_mut() {
            Some(before) if before.1.checked_add(1) == Some(first) => before.1 = last,
            _ => whole.push((first, last)),
        }
    }
    whole
}
