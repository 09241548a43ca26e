//! The order that a place of the forwarding table stands on, checked in every interleaving of up to three interruptions: the file itself, on the model
//! checker's atomics.

mod sync {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

#[path = "../../src/table/slot.rs"]
#[allow(dead_code)] // Not every function is in the model.
mod slot;

use loom::sync::Arc;
use loom::thread;
use slot::{Key, PortId, Slot};

const ONE: (Key, PortId) = (0x1_5254_0000_0001, 1);
const TWO: (Key, PortId) = (0x2_5254_0000_0002, 2);

/// A place that is used for one address, for another, and for the first again, which went elsewhere meanwhile.
fn model(set: fn(&Slot, Key, PortId)) {
    let mut model = loom::model::Builder::new();
    // Each of the two finds the other at any step, and again.
    model.preemption_bound = Some(3);
    model.check(move || {
        let slot = Arc::new(Slot::new());
        slot.set(ONE.0, ONE.1, 0);
        let writer = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                set(&slot, TWO.0, TWO.1);
                set(&slot, ONE.0, 3);
            })
        };
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.find(ONE.0).map(|(port, _)| port))
        };
        let found = reader.join().unwrap();
        assert!(matches!(found, None | Some(1 | 3)), "the port of another address: {found:?}");
        writer.join().unwrap();
        assert_eq!(slot.find(ONE.0), Some((3, 0)));
    });
}

#[test]
fn no_address_is_found_at_the_port_of_another() {
    model(|slot, key, port| slot.set(key, port, 0));
}

#[test]
#[should_panic(expected = "the port of another address")]
fn without_a_version_that_changes_before_the_key_it_is() {
    model(|slot, key, port| slot.fill(key, port, 0));
}
