//! The dirty log: when it is taken, when it is refused, and what is in it.

use crate::lab::*;
use nix::errno::Errno;
use std::sync::Arc;
use std::time::Instant;
use vfio_container::testing::{BASE, Descriptor, FakeClient, SIZE};
use virtio_mdev_api::dirty::{DirtyPages, DirtyWord, RingPart};
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::notify::EventFd;

fn part(queue: u16) -> RingPart {
    RingPart { queue, elsewhere: false }
}

const SET_LOG_BASE: u32 = 0x4008_af04;
const SET_LOG_FD: u32 = 0x4004_af07;
const LOG_ALL: u64 = 1 << 26;
/// Where the client has its bitmap.
const LOG: u64 = BASE + 0x8_0000;
const LOG_EVENT: i32 = 20;

impl Lab {
    fn log_base(&self, base: u64) -> Result<(), Errno> {
        self.call(SET_LOG_BASE, &base.to_ne_bytes()).map(drop)
    }

    /// The pages that are in the log, which is cleared.
    fn logged(&self) -> Vec<usize> {
        let bytes = self.client.get(LOG, 64);
        self.client.put(LOG, &[0; 64]);
        (0..512).filter(|page| bytes[page / 8] & 1 << (page % 8) != 0).collect()
    }

    fn dirties(&self, page: u64) {
        self.session.dirty().mark(page * 4096, 1);
    }
}

/// A running device with 16 pages mapped, everything logged.
fn logging() -> Lab {
    let lab = Lab::new();
    lab.update(0, 0x1_0000).unwrap();
    lab.start().unwrap();
    lab.log_base(LOG).unwrap();
    lab.set_features(REQUIRED | LOG_ALL).unwrap();
    lab
}

#[test]
fn what_is_written_is_logged_while_the_feature_is_accepted() {
    let lab = logging();
    lab.dirties(3);
    lab.dirties(15);
    assert_eq!(lab.logged(), [3, 15]);
    lab.set_features(REQUIRED).unwrap();
    lab.dirties(4);
    assert_eq!(lab.logged(), [0; 0]);
    lab.set_features(REQUIRED | LOG_ALL).unwrap();
    lab.dirties(5);
    assert_eq!(lab.logged(), [5]);
}

#[test]
fn the_feature_is_vhosts_own_and_not_offered() {
    let lab = logging();
    let offered = lab.call(GET_FEATURES, &[]).unwrap();
    assert_eq!(u64::from_ne_bytes(offered.try_into().unwrap()) & LOG_ALL, 0);
    assert_eq!(lab.session.features().unwrap(), REQUIRED);
    // While the driver runs it alone can change.
    assert_eq!(lab.set_features(REQUIRED | 1 << 29), Err(Errno::EBUSY));
    assert_eq!(lab.set_features(REQUIRED | LOG_ALL | 1 << 29), Err(Errno::EBUSY));
    assert_eq!(lab.set_features(REQUIRED | LOG_ALL), Err(Errno::EBUSY), "nothing changes");
    lab.set_features(REQUIRED).unwrap();
}

#[test]
fn a_feature_without_a_log_is_refused() {
    let lab = Lab::new();
    assert_eq!(lab.set_features(REQUIRED | LOG_ALL), Err(Errno::EFAULT));
}

#[test]
fn f36_a_log_that_does_not_cover_what_is_mapped_is_refused() {
    let lab = Lab::new();
    let end = BASE + SIZE as u64;
    // 16 pages take 2 bytes.
    lab.update(0, 0x1_0000).unwrap();
    assert_eq!(lab.log_base(end - 1), Err(Errno::EFAULT));
    assert_eq!(lab.log_base(BASE - 1), Err(Errno::EFAULT));
    assert_eq!(lab.log_base(0), Err(Errno::EFAULT));
    assert_eq!(lab.log_base(u64::MAX), Err(Errno::EFAULT));
    // At any address: no alignment is asked for.
    lab.log_base(end - 2).unwrap();
    // One page more takes a byte more, and is not mapped without.
    assert_eq!(lab.update(0x1_0000, 0x1000), Err(Errno::EFAULT));
    lab.log_base(end - 3).unwrap();
    lab.update(0x1_0000, 0x1000).unwrap();
    assert_eq!(lab.update(1 << 50, 0x1000), Err(Errno::EFAULT));
}

#[test]
fn f36_a_map_in_an_open_batch_counts() {
    let lab = Lab::new();
    lab.write(5, 0, 0, 0).unwrap();
    lab.update(0x8_0000, 0x1000).unwrap();
    assert_eq!(lab.log_base(BASE + SIZE as u64 - 16), Err(Errno::EFAULT));
    lab.log_base(BASE + SIZE as u64 - 17).unwrap();
}

#[test]
fn f36_the_log_grows_with_the_maps_of_a_running_device() {
    let lab = logging();
    lab.update(0x20_0000, 0x1000).unwrap();
    lab.dirties(0x1f0);
    lab.dirties(0x200 - 1);
    lab.session.dirty().flush().unwrap();
    assert_eq!(lab.logged(), [0x1f0, 0x1ff]);
    lab.write(3, 0, 0, 0).unwrap();
    lab.dirties(0x1f0);
    assert_eq!(lab.logged(), [0x1f0], "what was mapped stays in the log");
}

#[test]
fn a_log_moves_while_the_device_runs() {
    let lab = logging();
    lab.dirties(1);
    lab.log_base(LOG + 0x100).unwrap();
    lab.dirties(2);
    assert_eq!(lab.logged(), [1]);
    assert_eq!(lab.client.get(LOG + 0x100, 2), [0b100, 0]);
}

#[test]
fn a_log_that_moved_stays_where_it_is_whatever_else_was_under_way() {
    const MOVED: u64 = LOG + 0x100;
    let calls: [fn(&Lab); 3] = [
        |lab| lab.update(0x20_0000, 0x1000).unwrap(),
        |lab| lab.set_features(REQUIRED).and(lab.set_features(REQUIRED | LOG_ALL)).unwrap(),
        |lab| lab.addr(0, 1, [0; 4]).map(drop).unwrap(),
    ];
    for call in calls {
        let lab = Arc::new(logging());
        let other = Arc::clone(&lab);
        lab.client.meanwhile(move || other.log_base(MOVED).unwrap());
        call(&lab);
        lab.dirties(2);
        assert_eq!((lab.logged(), lab.client.get(MOVED, 1)), (vec![], vec![0b100]));
    }
}

#[test]
fn a_used_ring_is_logged_at_its_own_address_where_that_is_asked_for() {
    let lab = Lab::new();
    lab.update(0, 0x1_0000).unwrap();
    lab.vring(SET_VRING_NUM, 0, 4).unwrap();
    lab.addr(0, 1, [0x1000, 0x3000, 0x2000, 0x8ffc]).unwrap();
    lab.addr(1, 0, [0x4000, 0x6000, 0x5000, 0]).unwrap();
    lab.start().unwrap();
    lab.log_base(LOG).unwrap();
    lab.set_features(REQUIRED | LOG_ALL).unwrap();
    lab.session.dirty().mark_ring(part(0), [(0x3002, 2)]);
    lab.session.dirty().mark_ring(part(1), [(0x6002, 2)]);
    assert_eq!(lab.logged(), [8]);
    lab.session.dirty().mark_ring(part(0), [(0x3004, 32)]);
    assert_eq!(lab.logged(), [9]);
    // While the driver runs the log of a ring can change, and nothing else of it.
    lab.addr(1, 1, [0x4000, 0x6000, 0x5000, 0xb000]).unwrap();
    assert_eq!(lab.addr(1, 1, [0x4000, 0x6000, 0x5010, 0xc000]), Err(Errno::EINVAL));
    lab.session.dirty().mark_ring(part(1), [(0x6002, 2)]);
    assert_eq!(lab.logged(), [0xb]);
    // Nor to where there is no log.
    assert_eq!(lab.addr(1, 1, [0x4000, 0x6000, 0x5000, 1 << 60]), Err(Errno::EINVAL));
    assert_eq!(lab.addr(1, 1, [0x4000, 0x6000, 0x5000, u64::MAX - 3]), Err(Errno::EINVAL));
    lab.session.dirty().mark_ring(part(1), [(0x6002, 2)]);
    assert_eq!(lab.logged(), [0xb]);
}

#[test]
fn a_ring_that_grows_is_logged_at_its_own_address_to_its_end() {
    let lab = logging();
    lab.call(SUSPEND, &[]).unwrap();
    lab.vring(SET_VRING_NUM, 0, 4).unwrap();
    lab.addr(0, 1, [0x1000, 0x3000, 0x2000, 0xa000]).unwrap();
    lab.vring(SET_VRING_NUM, 0, 256).unwrap();
    lab.session.dirty().mark_ring(part(0), [(0x3000 + 4 + 8 * 255, 8)]);
    assert_eq!(lab.logged(), [0xa]);
}

#[test]
fn a_ring_in_the_memory_of_the_guest_is_logged_wherever_the_buffers_are() {
    let lab = Lab::grouped();
    lab.acknowledge(IOTLB_ASID | DESC_ASID).unwrap();
    // The group of the buffers, and that of the ring.
    lab.vring(SET_GROUP_ASID, 0, 1).unwrap();
    lab.update(0, 0x1_0000).unwrap();
    lab.addr(0, 1, [0x1000, 0x3000, 0x2000, 0x3000]).unwrap();
    lab.start().unwrap();
    lab.log_base(LOG).unwrap();
    lab.set_features(REQUIRED | LOG_ALL).unwrap();
    let dirty = lab.seen.lock().running[&0].dirty.clone();
    dirty.mark(0x5000, 0x1000);
    assert_eq!(lab.logged(), [0; 0], "an address of the buffers is none of the guest's");
    dirty.mark_ring(RingPart { queue: 0, elsewhere: true }, [(0x3002, 2)]);
    assert_eq!(lab.logged(), [3]);
}

#[test]
fn f36_a_log_that_does_not_cover_a_logged_ring_is_refused() {
    let lab = Lab::new();
    lab.update(0, 0x1_0000).unwrap();
    lab.addr(0, 1, [0x1000, 0x3000, 0x2000, 0x10_0000]).unwrap();
    assert_eq!(lab.log_base(BASE + SIZE as u64 - 32), Err(Errno::EFAULT));
    lab.log_base(BASE + SIZE as u64 - 33).unwrap();
}

#[test]
fn the_eventfd_of_the_log_is_told_and_can_be_taken_back() {
    let lab = logging();
    let event = EventFd::new().unwrap();
    lab.client.install(LOG_EVENT, Descriptor::Event(event.clone()));
    lab.call(SET_LOG_FD, &LOG_EVENT.to_ne_bytes()).unwrap();
    lab.dirties(1);
    lab.session.dirty().flush().unwrap();
    assert_eq!(event.drain(), Ok(Some(1)));
    lab.call(SET_LOG_FD, &(-1i32).to_ne_bytes()).unwrap();
    lab.dirties(1);
    lab.session.dirty().flush().unwrap();
    assert_eq!(event.drain(), Ok(None));
    assert_eq!(lab.call(SET_LOG_FD, &77i32.to_ne_bytes()), Err(Errno::EBADF));
    assert_eq!(lab.call(SET_LOG_FD, &NOT_EVENTFD.to_ne_bytes()), Err(Errno::EINVAL));
}

#[test]
fn only_the_owner_has_a_log() {
    let lab = logging();
    let stranger = FakeClient::new(2);
    assert_eq!(lab.call_as(&stranger, SET_LOG_BASE, &LOG.to_ne_bytes()), Err(Errno::EPERM));
    assert_eq!(lab.call_as(&stranger, SET_LOG_FD, &(-1i32).to_ne_bytes()), Err(Errno::EPERM));
}

#[test]
fn a_reset_and_a_close_end_the_log() {
    let lab = logging();
    lab.set_status(0).unwrap();
    assert!(!lab.session.dirty().is_active());
    lab.start().unwrap();
    assert!(!lab.session.dirty().is_active(), "the feature was not accepted anew");
    lab.set_status(0).unwrap();
    lab.set_features(REQUIRED | LOG_ALL).unwrap();
    assert!(lab.session.dirty().is_active());
    lab.node.revoke();
    assert!(!lab.session.dirty().is_active());
}

#[test]
fn two_users_of_what_is_dirty_do_not_clear_each_other() {
    let lab = logging();
    let vfio = Arc::new(DirtyPages::new(4096).unwrap());
    let _guard = lab.session.dirty().add_sink(Arc::clone(&vfio) as _);
    lab.dirties(3);
    assert_eq!(lab.logged(), [3]);
    assert_eq!(vfio.take(0, 0xffff), [DirtyWord { page: 0, bits: 1 << 3 }]);
    lab.dirties(4);
    assert_eq!(vfio.take(0, 0xffff), [DirtyWord { page: 0, bits: 1 << 4 }]);
    assert_eq!(lab.logged(), [4]);
}

#[test]
fn a_log_covers_what_a_container_holds() {
    let lab = Lab::new();
    let (container, _group) = lab.attach();
    lab.map_in(&container, 0x20_0000, 0x1000);
    lab.log_base(BASE + SIZE as u64 - 1).unwrap();
    assert_eq!(lab.start(), Err(Errno::EFAULT));
    lab.log_base(LOG).unwrap();
    lab.set_status(0).unwrap();
    lab.start().unwrap();
    lab.set_features(REQUIRED | LOG_ALL).unwrap();
    lab.dirties(0x1ff);
    assert_eq!(lab.logged(), [0x1ff]);
}

#[test]
fn maps_that_make_the_log_longer_cost_what_others_do() {
    let time = |lab: Lab| {
        let begun = Instant::now();
        (0..20_000).for_each(|page| lab.update(page << 12, 0x1000).unwrap());
        begun.elapsed()
    };
    let plain = time(Lab::new());
    let lab = Lab::new();
    lab.log_base(LOG).unwrap();
    let logged = time(lab);
    assert!(logged < 8 * plain, "{logged:?}, and {plain:?} without a log");
}
