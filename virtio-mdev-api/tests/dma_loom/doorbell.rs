//! A driver that rings by a store against a device that takes rings.

use crate::doorbell::{is_rung, take};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

/// A ring, and the doorbell.
type State = Arc<(AtomicU32, AtomicU32)>;

/// Takes a ring by a load and a store.
fn careless(word: &AtomicU32) -> bool {
    let rung = is_rung(word);
    if rung {
        word.store(u32::MAX, Ordering::Relaxed);
    }
    rung
}

/// Two chains, a ring for each, while the device looks as often as it finds a ring.
fn model(take: fn(&AtomicU32) -> bool) {
    loom::model(move || {
        let state: State = Arc::new((AtomicU32::new(0), AtomicU32::new(u32::MAX)));
        let driver = {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                let (available, doorbell) = &*state;
                for index in 1..=2 {
                    available.store(index, Ordering::Relaxed);
                    // A store. The checker would let one fall between an exchange and what that exchange has read.
                    doorbell.swap(1, Ordering::Release);
                }
            })
        };
        let (available, doorbell) = &*state;
        let mut seen = 0;
        let mut look = || {
            if take(doorbell) {
                seen = available.load(Ordering::Relaxed);
            }
        };
        look();
        look();
        driver.join().unwrap();
        // The next time the device looks at its doorbells.
        look();
        assert_eq!(seen, 2, "a chain that was rung for is never seen");
    });
}

#[test]
fn no_ring_is_lost() {
    model(take);
}

#[test]
#[should_panic(expected = "never seen")]
fn a_ring_between_a_load_and_a_store_is_lost() {
    model(careless);
}
