//! A queue that waits for memory, and a client that maps it.

use crate::events::Events;
use crate::kernel;
use crate::sync::unfence;
use crate::waker::Waker;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use nix::sys::epoll::EpollTimeout;
use std::sync::Arc;
use virtio_mdev_api::dma::Subscriber;

const OLD: u64 = 1;
const NEW: u64 = 2;

/// How a thread goes to sleep, right and wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleeper {
    ArmThenLook,
    LookThenArm,
}

fn model(sleeper: Sleeper, fenced: bool) {
    unfence(!fenced);
    loom::model(move || {
        kernel::boot();
        let generation = Arc::new(AtomicU64::new(OLD));
        let (waker, events) = (Arc::new(Waker::new().unwrap()), Events::new().unwrap());
        events.watch(waker.fd(), 0).unwrap();
        let client = {
            let (waker, generation) = (Arc::clone(&waker), Arc::clone(&generation));
            thread::spawn(move || {
                generation.store(NEW, Ordering::Release);
                waker.published(NEW);
            })
        };
        let look = || generation.load(Ordering::Acquire) == NEW;
        let found = match sleeper {
            Sleeper::ArmThenLook => {
                waker.arm();
                look()
            }
            Sleeper::LookThenArm => {
                let found = look();
                waker.arm();
                found
            }
        };
        if !found {
            drop(events.wait(EpollTimeout::NONE).unwrap());
        }
        client.join().unwrap();
    });
}

#[test]
fn memory_that_comes_is_seen_or_wakes() {
    model(Sleeper::ArmThenLook, true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_look_before_the_waker_is_armed_sleeps_for_ever() {
    model(Sleeper::LookThenArm, true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fences_memory_comes_in_vain() {
    model(Sleeper::ArmThenLook, false);
}
