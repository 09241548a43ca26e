//! IOTLB messages (F31).

use crate::lab::*;
use nix::errno::Errno;
use vfio_container::testing::{BASE, FakeClient, SIZE};
use virtio_mdev_api::dma::{Limits, Permissions};

const UPDATE: u8 = 2;
const INVALIDATE: u8 = 3;
const BEGIN: u8 = 5;
const END: u8 = 6;

fn started() -> Lab {
    let lab = Lab::new();
    lab.start().unwrap();
    lab
}

#[test]
fn a_whole_message_is_taken_whatever_was_left_out_of_its_padding() {
    let lab = started();
    let whole = message(2, 0, [0, 0x1000, RAM], 3, UPDATE);
    assert_eq!(lab.write_as(&lab.client, &whole), Ok(72));
    let short = message(1, 0xffff_ffff, [0x1000, 0x1000, RAM], 3, UPDATE);
    assert_eq!(lab.write_as(&lab.client, &short[..40]), Ok(40), "no more than was written");
    assert_eq!(lab.write_as(&lab.client, &short[..39]), Err(Errno::EINVAL));
    assert_eq!(lab.write_as(&lab.client, &[]), Err(Errno::EINVAL));
    assert_eq!(lab.regions(), [(0, 0x1000), (0x1000, 0x1000)]);
}

#[test]
fn f31_updates_that_cannot_be_are_refused() {
    let lab = started();
    lab.update(0x1_0000, 0x2000).unwrap();
    let cases = [
        ("no bytes", 0, 0, RAM, Errno::EINVAL),
        ("wraps", u64::MAX - 0xfff, 0x2000, RAM, Errno::EINVAL),
        ("client memory wraps", 0, 0x2000, u64::MAX - 0xfff, Errno::EINVAL),
        ("duplicate", 0x1_0000, 0x2000, RAM, Errno::EEXIST),
        ("overlap below", 0xf000, 0x1001, RAM, Errno::EEXIST),
        ("overlap above", 0x1_1fff, 1, RAM, Errno::EEXIST),
        ("memory that is not there", 0, 0x1000, 0x1000, Errno::EFAULT),
    ];
    for (what, iova, size, uaddr, errno) in cases {
        assert_eq!(lab.write(UPDATE, iova, size, uaddr), Err(errno), "{what}");
    }
    for permission in [0, 4, 0xff] {
        let data = message(2, 0, [0, 0x1000, RAM], permission, UPDATE);
        assert_eq!(lab.write_as(&lab.client, &data), Err(Errno::EINVAL), "permission {permission}");
    }
    assert_eq!(lab.regions(), [(0x1_0000, 0x2000)]);
}

#[test]
fn f31_neighbours_unaligned_ranges_and_the_last_byte_can_be_mapped() {
    let lab = started();
    for (iova, size) in [(0, 0x1000), (0x1000, 0x10), (0x1010, 0xff0), (u64::MAX - 0xfff, 0x1000)] {
        lab.update(iova, size).unwrap();
    }
    assert_eq!(lab.regions().len(), 4);
}

#[test]
fn f31_the_range_of_the_device_is_kept() {
    let limits = Limits { first: 0x1000, last: 0xffff, ..Limits::default() };
    let lab = Lab::unowned(Kind { limits, ..Kind::default() });
    lab.call(SET_OWNER, &[]).unwrap();
    assert_eq!(lab.update(0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(lab.update(0xf000, 0x1001), Err(Errno::EINVAL));
    assert_eq!(lab.update(0xf000, 0x1000), Ok(()));
    assert_eq!(lab.call(GET_IOVA_RANGE, &[]).unwrap(), [0x1000u64.to_ne_bytes(), 0xffffu64.to_ne_bytes()].concat());
}

#[test]
fn f31_the_entry_limit_is_enospc() {
    let lab = started();
    for page in 0..65_535u64 {
        lab.update(page * 0x2000, 0x1000).unwrap();
    }
    assert_eq!(lab.update(1 << 40, 0x1000), Err(Errno::ENOSPC));
    lab.write(INVALIDATE, 0, 1, 0).unwrap();
    assert_eq!(lab.update(1 << 40, 0x1000), Ok(()));
    lab.write(BEGIN, 0, 0, 0).unwrap();
    assert_eq!(lab.update(2 << 40, 0x1000), Err(Errno::ENOSPC));
    lab.write(INVALIDATE, 1 << 40, 1, 0).unwrap();
    assert_eq!(lab.update(2 << 40, 0x1000), Ok(()), "a batch makes room for itself");
    assert_eq!(lab.update(3 << 40, 0x1000), Err(Errno::ENOSPC));
    assert_eq!(lab.write(END, 0, 0, 0), Ok(72));
}

#[test]
fn permissions_are_what_the_device_may_do() {
    let lab = started();
    for (permission, iova) in [(1, 0), (2, 0x1000), (3, 0x2000)] {
        lab.write_as(&lab.client, &message(1, 0, [iova, 0x1000, RAM], permission, UPDATE)).unwrap();
    }
    let permissions: Vec<_> = lab.queue_space().regions().iter().map(|region| region.permissions).collect();
    assert_eq!(permissions, [Permissions::READ, Permissions::WRITE, Permissions::READ | Permissions::WRITE]);
}

#[test]
fn one_memory_can_be_mapped_twice() {
    let lab = started();
    lab.write(UPDATE, 0, 0x1000, RAM).unwrap();
    lab.write(UPDATE, 0x8000, 0x1000, RAM).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000), (0x8000, 0x1000)]);
}

#[test]
fn invalidate_removes_whole_maps_and_never_fails() {
    let lab = started();
    lab.write(INVALIDATE, 0x5000, 0x1000, 0).unwrap();
    for iova in [0, 0x4000, 0x8000, u64::MAX - 0xfff] {
        lab.update(iova, 0x1000).unwrap();
    }
    lab.write(INVALIDATE, 0x4800, 1, 0).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000), (0x8000, 0x1000), (u64::MAX - 0xfff, 0x1000)]);
    lab.write(INVALIDATE, 0x8000, u64::MAX, 0).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000)], "a range that goes beyond the end");
    lab.write(INVALIDATE, 0, u64::MAX, 0).unwrap();
    assert_eq!(lab.regions(), []);
    assert_eq!(lab.write(INVALIDATE, 0x1000, 0, 0), Err(Errno::EINVAL));
}

#[test]
fn a_map_over_several_files_goes_as_one() {
    let lab = Lab::of_client(Kind::default(), FakeClient::with_stretches(1, 0x1000));
    lab.call(SET_OWNER, &[]).unwrap();
    lab.start().unwrap();
    lab.update(0x1_0000, 0x4000).unwrap();
    assert_eq!(lab.regions().len(), 4);
    assert_eq!(lab.update(0x1_3000, 0x1000), Err(Errno::EEXIST));
    lab.write(INVALIDATE, 0x1_3000, 0x1000, 0).unwrap();
    assert_eq!(lab.regions(), []);
}

#[test]
fn a_batch_is_published_at_its_end() {
    let lab = started();
    lab.update(0, 0x1000).unwrap();
    lab.write(BEGIN, 0, 0, 0).unwrap();
    lab.write(INVALIDATE, 0, 0x1000, 0).unwrap();
    lab.update(0, 0x2000).unwrap();
    lab.update(0x4000, 0x1000).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000)], "not yet");
    let before = lab.queue_space().generation();
    lab.write(END, 0, 0, 0).unwrap();
    assert_eq!(lab.regions(), [(0, 0x2000), (0x4000, 0x1000)]);
    assert_eq!(lab.queue_space().generation(), before + 1, "removals and additions are one step");
}

#[test]
fn f31_overlap_within_a_batch_is_told_at_once() {
    let lab = started();
    lab.update(0, 0x1000).unwrap();
    lab.write(BEGIN, 0, 0, 0).unwrap();
    assert_eq!(lab.update(0, 0x1000), Err(Errno::EEXIST), "with what is published");
    lab.update(0x4000, 0x1000).unwrap();
    assert_eq!(lab.update(0x4800, 0x1000), Err(Errno::EEXIST), "with what is in the batch");
    lab.write(INVALIDATE, 0x4000, 1, 0).unwrap();
    lab.update(0x4800, 0x1000).unwrap();
    lab.write(END, 0, 0, 0).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000), (0x4800, 0x1000)]);
}

#[test]
fn an_end_without_a_begin_and_a_second_begin_do_nothing() {
    let lab = started();
    lab.write(END, 0, 0, 0).unwrap();
    lab.write(BEGIN, 0, 0, 0).unwrap();
    lab.update(0, 0x1000).unwrap();
    lab.write(BEGIN, 0, 0, 0).unwrap();
    lab.write(END, 0, 0, 0).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000)]);
}

#[test]
fn maps_and_the_batch_survive_a_reset() {
    let lab = Lab::new();
    lab.update(0, 0x1000).unwrap();
    lab.write(BEGIN, 0, 0, 0).unwrap();
    lab.update(0x1000, 0x1000).unwrap();
    lab.set_status(0).unwrap();
    lab.write(END, 0, 0, 0).unwrap();
    lab.start().unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000), (0x1000, 0x1000)]);
}

#[test]
fn a_device_with_its_own_iommu_gets_every_map() {
    let lab = Lab::own_iommu();
    lab.calls();
    lab.update(0x1000, 0x2000).unwrap();
    lab.write(INVALIDATE, 0, u64::MAX, 0).unwrap();
    assert_eq!(lab.calls(), ["map 0 0x1000+0x2000", "unmap 0 0x1000+0x2000"]);
    assert_eq!(lab.update(0x800, 0x1000), Err(Errno::EINVAL), "it has pages");
}

#[test]
fn u2_a_batch_holds_no_more_regions_than_can_be_mapped() {
    // Every 16 bytes show another file, so that this map of 1 MiB is 65,536 regions.
    let lab = Lab::of_client(Kind::default(), FakeClient::with_stretches(1, 16));
    lab.call(SET_OWNER, &[]).unwrap();
    let update = |at: u64| lab.write_as(&lab.client, &message(2, 0, [at << 20, SIZE as u64, BASE], 3, UPDATE));
    lab.write(BEGIN, 0, 0, 0).unwrap();
    update(0).unwrap();
    assert_eq!(update(1), Err(Errno::ENOSPC), "a batch that can only be refused at its end");
    // What leaves the batch makes room in it.
    lab.write(INVALIDATE, 0, SIZE as u64, 0).unwrap();
    update(1).unwrap();
    lab.write(END, 0, 0, 0).unwrap();
    lab.start().unwrap();
    assert_eq!(lab.regions().len(), 65_536);
}
