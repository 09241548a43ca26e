//! A reader's burst against an unmap.

use crate::quiesce::{FIRST_GENERATION, Slot, published};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

const OLD: u64 = FIRST_GENERATION;
const NEW: u64 = FIRST_GENERATION + 1;

/// A table whose old version has memory in it that the new one has not.
struct Table {
    slot: Slot,
    /// The version readers find.
    current: AtomicU64,
    /// The memory; the checker fails when it is accessed while it is being released.
    memory: UnsafeCell<()>,
}

/// What readers do, right and wrong.
#[derive(Clone, Copy)]
enum Reader {
    AnnounceThenLoad,
    LoadThenAnnounce,
}

impl Table {
    fn enter(&self, reader: Reader) -> u64 {
        let load = || self.current.load(Ordering::Acquire);
        let generation = match reader {
            Reader::AnnounceThenLoad => {
                self.slot.announce();
                load()
            }
            Reader::LoadThenAnnounce => {
                let generation = load();
                self.slot.announce();
                generation
            }
        };
        self.slot.entered(generation);
        generation
    }

    fn touch(&self, generation: u64) {
        if generation == OLD {
            self.memory.with(|_| ());
        }
    }

    fn unmap(&self) {
        self.current.store(NEW, Ordering::Release);
        published();
        while self.slot.is_behind(NEW, 0) {
            thread::yield_now();
        }
        self.memory.with_mut(|_| ());
    }
}

fn model(reader: Reader, body: fn(&Arc<Table>, Reader)) {
    loom::model(move || {
        let table = Arc::new(Table { slot: Slot::new(), current: AtomicU64::new(OLD), memory: UnsafeCell::new(()) });
        let unmapping = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.unmap())
        };
        body(&table, reader);
        unmapping.join().unwrap();
    });
}

fn two_bursts(table: &Arc<Table>, reader: Reader) {
    for _ in 0..2 {
        let generation = table.enter(reader);
        table.touch(generation);
        table.slot.leave();
    }
}

fn leased(table: &Arc<Table>, reader: Reader) {
    let generation = table.enter(reader);
    let bank = usize::from(generation == NEW);
    table.slot.lease(bank);
    table.slot.leave();
    table.touch(generation);
    table.slot.end_lease(bank);
}

#[test]
fn f34_no_burst_uses_memory_after_its_unmap_returned() {
    model(Reader::AnnounceThenLoad, two_bursts);
}

#[test]
fn f34_no_lease_uses_memory_after_its_unmap_returned() {
    model(Reader::AnnounceThenLoad, leased);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_reader_that_loads_before_it_announces_is_caught() {
    model(Reader::LoadThenAnnounce, two_bursts);
}
