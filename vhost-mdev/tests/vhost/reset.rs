//! Reset at any moment (F38).

use crate::lab::*;
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vfio_container::testing::Descriptor;
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::notify::EventFd;

const RESETS: usize = 500;
const UPDATE: u8 = 2;
const INVALIDATE: u8 = 3;
const BEGIN: u8 = 5;
const END: u8 = 6;

/// Fails, not hangs, when `work` does not end.
fn in_time(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    if ended.recv_timeout(Duration::from_secs(60)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        panic!("something hangs");
    }
    worker.join().unwrap();
}

/// Everything else a client can do, over and over until `done`. No call waits for another until it gives up.
fn disturb(lab: &Lab, turn: u32) {
    let index = turn % QUEUES;
    let page = u64::from(turn % 16) * 0x1000;
    let asid = turn / 2 % 2;
    let calls = [
        lab.file_call(SET_VRING_KICK, index, KICK).map(drop),
        lab.file_call(SET_VRING_CALL, index, if turn.is_multiple_of(3) { -1 } else { KICK }).map(drop),
        lab.write_to(asid, UPDATE, page, 0x1000).map(drop),
        lab.call(SUSPEND, &[]).map(drop),
        lab.vring(GET_VRING_BASE, index, 0).map(drop),
        lab.vring(SET_VRING_BASE, index, turn % 8).map(drop),
        lab.write_to(asid, BEGIN, 0, 0).map(drop),
        lab.write_to(asid, INVALIDATE, page, 0x3000).map(drop),
        lab.write_to(asid, END, 0, 0).map(drop),
        lab.call(RESUME, &[]).map(drop),
        lab.vring(SET_GROUP_ASID, 1, asid).map(drop),
        lab.vring(SET_VRING_ENABLE, index, turn % 2).map(drop),
    ];
    for answer in calls {
        assert!(!matches!(answer, Err(Errno::ETIMEDOUT | Errno::EIO)), "{answer:?}");
    }
    // What the client does without a call: it kicks.
    let kick = lab.seen.lock().running.values().find_map(|queue| queue.kick.clone());
    if let Some(kick) = kick {
        kick.signal().unwrap();
        let _ = kick.drain();
    }
}

/// Resets and starts against two threads that do all the rest, then `last`.
fn reset_under_fire(lab: &Arc<Lab>, last: impl FnOnce(&Lab)) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for offset in [0, 7] {
            let done = &done;
            scope.spawn(move || {
                (offset..).take_while(|_| !done.load(Ordering::Relaxed)).for_each(|turn| disturb(lab, turn));
            });
        }
        for _ in 0..RESETS {
            // The others may have suspended it, or bound a queue elsewhere.
            let _ = lab.start();
            lab.set_status(0).unwrap();
            assert_eq!((lab.status(), lab.running()), (0, 0), "a reset stops everything");
        }
        last(lab);
        done.store(true, Ordering::Relaxed);
    });
}

fn acknowledged() -> Arc<Lab> {
    let lab = Lab::grouped();
    lab.client.install(KICK, Descriptor::Event(EventFd::new().unwrap()));
    lab.acknowledge(IOTLB_ASID).unwrap();
    Arc::new(lab)
}

#[test]
fn f38_a_device_reset_at_any_moment_is_as_new() {
    in_time(|| {
        let lab = acknowledged();
        reset_under_fire(&lab, |_| ());
        for asid in [0, 1] {
            lab.write_to(asid, END, 0, 0).unwrap_or_default();
            lab.write_to(asid, INVALIDATE, 0, u64::MAX).unwrap();
        }
        lab.set_status(0).unwrap();
        assert_eq!(lab.vring(GET_VRING_BASE, 0, 0), Ok(pair(0, 0)));
        lab.write_to(0, UPDATE, 0x5000, 0x1000).unwrap();
        lab.start().unwrap();
        let seen = lab.seen.lock();
        assert_eq!(seen.running.len(), 2);
        for queue in seen.running.values() {
            assert!(queue.kick.is_none(), "the kick of an earlier life");
            assert_eq!((queue.asid, queue.space.regions().len()), (0, 1));
        }
    });
}

#[test]
fn f38_a_device_removed_under_calls_and_resets_is_gone() {
    in_time(|| {
        let lab = acknowledged();
        reset_under_fire(&lab, |lab| {
            let _ = lab.start();
            lab.node.revoke();
        });
        assert_eq!((lab.running(), lab.set_status(0)), (0, Err(Errno::ENODEV)));
        assert_eq!(lab.write_to(0, UPDATE, 0, 0x1000), Err(Errno::ENODEV));
        assert_eq!(lab.node.open_file(&lab.client).err(), Some(Errno::ENODEV));
        let start = lab.session.set_status(0xf).map_err(|error| error.errno());
        assert_eq!(start, Err(Errno::EINVAL), "the device is as new, and has no memory");
        assert_eq!(lab.opens.load(Ordering::SeqCst), 0);
    });
}
