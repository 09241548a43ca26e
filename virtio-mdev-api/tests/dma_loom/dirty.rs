//! A source that writes a page against a consumer that takes the page's bit and copies the page.

use crate::word::{set, take, taken, written};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// The bit is set at first, so that the source may leave it alone.
fn model(fenced: bool) {
    loom::model(move || {
        let state = Arc::new((AtomicU64::new(1), AtomicU64::new(0)));
        let source = {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                let (word, page) = &*state;
                page.store(7, Ordering::Relaxed);
                if fenced {
                    written();
                }
                set(word, 1);
            })
        };
        let (word, page) = &*state;
        assert_eq!(take(word, 1), 1);
        if fenced {
            taken();
        }
        let copied = page.load(Ordering::Relaxed);
        source.join().unwrap();
        assert!(copied == 7 || take(word, 1) == 1, "the write is neither copied nor marked");
    });
}

#[test]
fn a_write_is_copied_or_marked() {
    model(true);
}

#[test]
#[should_panic(expected = "neither copied nor marked")]
fn without_the_fences_a_write_is_lost() {
    model(false);
}
