//! DIRTY_PAGES, and UNMAP_DMA with a bitmap (F36).

use crate::lab::*;
use nix::errno::Errno;
use std::sync::Arc;
use std::time::Duration;
use vfio_container::Group;
use vfio_container::testing::{BASE, SIZE};
use virtio_mdev_api::dirty::{DirtyRecord, RingPart};

const RW: u32 = READ | WRITE;
const IOVA: u64 = 0x10_0000;

/// Sixteen pages mapped, tracked, and a device.
fn tracked() -> (Lab, Device) {
    let lab = Lab::with_iommu(3);
    lab.map(RW, RAM, IOVA, 0x1_0000).unwrap();
    lab.dirty_pages(START).unwrap();
    let device = Device::of(&lab);
    (lab, device)
}

#[test]
fn f36_what_is_no_request_is_refused_as_the_kernel_does() {
    let (lab, mut device) = tracked();
    device.write(IOVA, &[1]);
    let get = |argsz: u32, flags: u32, range: [u64; 2], bitmap: [u64; 3]| {
        lab.client.put(ARG, &words(argsz, flags, &[&range[..], &bitmap].concat()));
        lab.on_container(DIRTY_PAGES, ARG)
    };
    let (range, bitmap) = ([IOVA, 0x1_0000], [0x1000, 8, BITMAP]);
    for (what, argsz, flags, range, bitmap, errno) in [
        ("argsz without flags", 7, GET, range, bitmap, Errno::EINVAL),
        ("no flag", 48, 0, range, bitmap, Errno::EINVAL),
        ("two flags", 48, START | STOP, range, bitmap, Errno::EINVAL),
        ("all flags", 48, 7, range, bitmap, Errno::EINVAL),
        ("a flag beyond those known", 48, 8, range, bitmap, Errno::EINVAL),
        ("argsz without a range", 8, GET, range, bitmap, Errno::EINVAL),
        ("argsz with half a range", 47, GET, range, bitmap, Errno::EINVAL),
        ("no bytes", 48, GET, [IOVA, 0], bitmap, Errno::EINVAL),
        ("unaligned iova", 48, GET, [IOVA + 1, 0x1_0000], bitmap, Errno::EINVAL),
        ("unaligned size", 48, GET, [IOVA, 0x1_0001], bitmap, Errno::EINVAL),
        ("a range that wraps", 48, GET, [!0xfff, 0x2000], bitmap, Errno::EINVAL),
        ("the last page, whose end is beyond 64 bits", 48, GET, [!0xfff, 0x1000], bitmap, Errno::EINVAL),
        ("no page size", 48, GET, range, [0, 8, BITMAP], Errno::EINVAL),
        ("smaller pages", 48, GET, range, [0x800, 8, BITMAP], Errno::EINVAL),
        ("larger pages", 48, GET, range, [0x2000, 8, BITMAP], Errno::EINVAL),
        ("pages of no power of two", 48, GET, range, [0x3000, 8, BITMAP], Errno::EINVAL),
        ("no bitmap", 48, GET, range, [0x1000, 0, BITMAP], Errno::EINVAL),
        ("a bitmap of no whole word", 48, GET, range, [0x1000, 7, BITMAP], Errno::EINVAL),
        ("a bitmap that is too short", 48, GET, [0, 0x100_0000], [0x1000, 511, BITMAP], Errno::EINVAL),
        ("a bitmap beyond all bounds", 48, GET, range, [0x1000, (1 << 28) + 1, BITMAP], Errno::EINVAL),
        ("a bitmap that wraps", 48, GET, range, [0x1000, 8, !7], Errno::EINVAL),
        ("a bitmap in the kernel's half", 48, GET, range, [0x1000, 8, 1 << 63], Errno::EINVAL),
        ("cuts off the front", 48, GET, [IOVA, 0x8000], bitmap, Errno::EINVAL),
        ("cuts off the end", 48, GET, [IOVA + 0x8000, 0x8000], bitmap, Errno::EINVAL),
        ("a bitmap that is not there", 48, GET, range, [0x1000, 8, 0x1000], Errno::EFAULT),
    ] {
        assert_eq!(get(argsz, flags, range, bitmap), Err(errno), "{what}");
    }
    assert_eq!(lab.on_container(DIRTY_PAGES, BASE + SIZE as u64 - 4), Err(Errno::EFAULT));
    lab.client.put(BASE + SIZE as u64 - 8, &words(48, GET, &[]));
    assert_eq!(lab.on_container(DIRTY_PAGES, BASE + SIZE as u64 - 8), Err(Errno::EFAULT), "half a structure");
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![0]), "no refusal takes a page");
}

#[test]
fn f36_without_tracking_there_is_nothing_to_get() {
    let lab = Lab::with_iommu(3);
    lab.map(RW, RAM, IOVA, 0x1_0000).unwrap();
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Err(Errno::EINVAL));
    assert_eq!(lab.unmap_dirty(IOVA, 0x1_0000), Err(Errno::EINVAL));
    assert_eq!(lab.dirty_pages(STOP), Ok(0), "what does not run can be stopped");
    assert_eq!(lab.dirty_pages(START), Ok(0));
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![]));
    assert_eq!(lab.dirty_pages(STOP), Ok(0));
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Err(Errno::EINVAL));
}

#[test]
fn v1_tracks_nothing() {
    let lab = Lab::with_iommu(1);
    lab.map(RW, RAM, IOVA, 0x1_0000).unwrap();
    for flags in [START, STOP, GET, 0, 8] {
        assert_eq!(lab.dirty_pages(flags), Err(Errno::EACCES), "flags {flags}");
    }
    assert_eq!(lab.on_container(DIRTY_PAGES, 0), Err(Errno::EACCES), "before the argument is looked at");
    assert_eq!(lab.unmap_dirty(IOVA, 0x1_0000), Err(Errno::EINVAL));
}

#[test]
fn m3_only_the_address_space_that_set_the_container_up_tracks() {
    let (lab, mut device) = tracked();
    device.write(IOVA, &[1]);
    let client = vfio_container::testing::FakeClient::new(2);
    let heir = Lab { client, container: lab.container, group: lab.group, file: lab.file };
    for flags in [START, STOP] {
        assert_eq!(heir.dirty_pages(flags), Err(Errno::EPERM));
    }
    assert_eq!(heir.get_dirty(IOVA, 0x1_0000), Err(Errno::EPERM));
    assert_eq!(heir.unmap_dirty(IOVA, 0x1_0000), Err(Errno::EPERM));
}

#[test]
fn a_page_is_reported_once_for_every_time_that_it_is_written() {
    let (lab, mut device) = tracked();
    device.write(IOVA + 0x1fff, &[1, 2]);
    device.write(IOVA + 0xf000, &[1]);
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![1, 2, 15]));
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![]));
    device.write(IOVA + 0x2000, &[3]);
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![2]));
}

#[test]
fn what_was_written_before_the_start_and_during_a_pause_is_clean() {
    let lab = Lab::with_iommu(3);
    lab.map(RW, RAM, IOVA, 0x1_0000).unwrap();
    let mut device = Device::of(&lab);
    device.write(IOVA, &[1]);
    assert!(!device.record.is_active(), "nobody listens");
    lab.dirty_pages(START).unwrap();
    assert!(device.record.is_active());
    device.write(IOVA + 0x1000, &[1]);
    lab.dirty_pages(START).unwrap();
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![1]), "a second start changes nothing");
    device.write(IOVA + 0x2000, &[1]);
    lab.dirty_pages(STOP).unwrap();
    assert!(!device.record.is_active(), "nobody listens any more");
    device.write(IOVA + 0x3000, &[1]);
    lab.dirty_pages(START).unwrap();
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![]));
}

#[test]
fn all_devices_of_all_groups_are_tracked_whenever_they_come() {
    let lab = Lab::with_iommu(3);
    let second = Group::new((1 << 20) + 1, "second".into());
    let second_file = second.clone().open_file().unwrap();
    lab.attach(&second_file).unwrap();
    lab.map(RW, RAM, IOVA, 0x1_0000).unwrap();
    let mut early = Device::of(&lab);
    lab.dirty_pages(START).unwrap();
    let mut late = Device::in_space(&second.space_for(&lab.client).unwrap());
    early.write(IOVA + 0x1000, &[1]);
    late.write(IOVA + 0x2000, &[1]);
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![1, 2]));
    late.write(IOVA + 0x3000, &[1]);
    let record = Arc::clone(&late.record);
    drop(late);
    assert!(!record.is_active(), "who left is not listened to");
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![3]), "what it wrote counts");
    lab.release();
    early.write(IOVA, &[1]);
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![0]), "a group is left");
}

#[test]
fn tracking_ends_with_the_last_group() {
    let (lab, device) = tracked();
    lab.release();
    assert!(!device.record.is_active());
    assert_eq!(lab.dirty_pages(STOP), Err(Errno::EINVAL), "there is no IOMMU any more");
}

#[test]
fn rings_in_other_memory_are_left_out_and_rings_here_of_buffers_elsewhere_are_not() {
    let (lab, device) = tracked();
    let rings = DirtyRecord::of_ring(Arc::clone(&device.record));
    device.record.mark_ring(RingPart { queue: 0, elsewhere: true }, [(IOVA, 2)]);
    device.record.mark_ring(RingPart { queue: 0, elsewhere: false }, [(IOVA + 0x1000, 2)]);
    rings.mark(IOVA + 0x2000, 1);
    rings.mark_ring(RingPart { queue: 1, elsewhere: true }, [(IOVA + 0x3000, 2)]);
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![1, 3]));
}

#[test]
fn f36_several_maps_are_reported_at_once_and_gaps_between_them_left_alone() {
    let lab = Lab::with_iommu(3);
    let mut device = Device::of(&lab);
    // Pages 0 to 2, 5 to 69, and 140, of a bitmap of three words.
    for (page, pages) in [(0, 3), (5, 65), (140, 1)] {
        lab.map(RW, RAM, IOVA + page * 0x1000, pages * 0x1000).unwrap();
    }
    lab.dirty_pages(START).unwrap();
    for page in [2, 5, 63, 64, 69, 140] {
        device.write(IOVA + page * 0x1000, &[1]);
    }
    lab.client.put(BITMAP, &[0xff; BITMAP_LEN]);
    lab.get_dirty_at(IOVA, 192 * 0x1000, BITMAP, 24).unwrap();
    let bitmap = lab.client.get(BITMAP, 32);
    let word = |at: usize| u64::from_ne_bytes(bitmap[8 * at..8 * at + 8].try_into().unwrap());
    assert_eq!(word(0), 1 << 2 | 1 << 5 | 1 << 63, "a word is written from its first map on");
    assert_eq!(word(1), 1 | 1 << 5, "to its end");
    assert_eq!(word(2), 0xfff | 1 << 12, "below a map stays what was there");
    assert_eq!(word(3), u64::MAX, "no map, no word");
}

#[test]
fn a_bitmap_need_not_begin_where_words_of_pages_do() {
    let lab = Lab::with_iommu(3);
    let mut device = Device::of(&lab);
    let iova = 0x10_3000;
    lab.map(RW, RAM, iova, 0xc_0000).unwrap();
    lab.dirty_pages(START).unwrap();
    let pages = [0, 60, 61, 62, 124, 125, 191];
    for page in pages {
        device.write(iova + page * 0x1000, &[1]);
    }
    assert_eq!(lab.get_dirty(iova, 0xc_0000), Ok(pages.to_vec()));
    device.write(iova + 0x5000, &[1]);
    // The bitmap itself may lie anywhere too.
    lab.get_dirty_at(iova, 0xc_0000, BITMAP + 3, 24).unwrap();
    assert_eq!(lab.client.get(BITMAP + 3, 24), [vec![1 << 5], vec![0; 23]].concat());
}

#[test]
fn a_bitmap_that_is_written_in_parts_is_whole() {
    let lab = Lab::with_iommu(3);
    let device = Device::of(&lab);
    // More than the 16 GiB of one part, and not aligned to a word of pages.
    let (iova, pages) = (0x3000, 5 << 20);
    lab.map(READ, RAM, iova, pages * 0x1000).unwrap();
    lab.dirty_pages(START).unwrap();
    let part = 1 << 22;
    let dirty: Vec<u64> = [0, 61].into_iter().chain(part - 70..part + 70).chain([pages - 1]).collect();
    for page in &dirty {
        device.record.mark(iova + page * 0x1000, 1);
    }
    let bytes = pages / 8;
    lab.client.put(BITMAP, &vec![0xff; usize::try_from(bytes).unwrap()]);
    lab.get_dirty_at(iova, pages * 0x1000, BITMAP, bytes).unwrap();
    let bitmap = lab.client.get(BITMAP, usize::try_from(bytes).unwrap());
    let bits = (0..)
        .zip(&bitmap)
        .flat_map(|(at, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit));
    assert_eq!(bits.collect::<Vec<u64>>(), dirty);
}

#[test]
fn f36_pages_that_could_not_be_told_are_told_the_next_time() {
    let (lab, mut device) = tracked();
    device.write(IOVA + 0x3000, &[1]);
    let end = BASE + SIZE as u64;
    assert_eq!(lab.get_dirty_at(IOVA, 0x1_0000, end - 4, 8), Err(Errno::EFAULT), "half a word of memory");
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![3]));
}

#[test]
fn f36_an_unmap_with_a_bitmap_that_cannot_be_written_unmaps_nothing() {
    let (lab, mut device) = tracked();
    device.write(IOVA + 0x3000, &[1]);
    assert_eq!(lab.unmap_dirty_at(IOVA, 0x1_0000, BASE + SIZE as u64 - 4), Err(Errno::EFAULT));
    assert_eq!(lab.regions(), [(IOVA, 0x1_0000)]);
    assert_eq!(lab.unmap_dirty(IOVA, 0x1_0000), Ok((0x1_0000, vec![3])));
    assert_eq!(lab.regions(), []);
}

#[test]
fn f36_what_is_no_unmap_with_a_bitmap_is_refused_as_the_kernel_does() {
    let (lab, _device) = tracked();
    let unmap = |argsz: u32, range: [u64; 2], bitmap: [u64; 3]| {
        lab.client.put(ARG, &words(argsz, 1, &[&range[..], &bitmap].concat()));
        lab.on_container(UNMAP_DMA, ARG)
    };
    let (range, bitmap) = ([IOVA, 0x1_0000], [0x1000, 8, BITMAP]);
    for (what, argsz, range, bitmap) in [
        ("argsz without a bitmap", 24, range, bitmap),
        ("argsz with half a bitmap", 47, range, bitmap),
        ("smaller pages", 48, range, [0x800, 8, BITMAP]),
        ("larger pages", 48, range, [0x2000, 8, BITMAP]),
        ("no page size", 48, range, [0, 8, BITMAP]),
        ("no bitmap", 48, range, [0x1000, 0, BITMAP]),
        ("a bitmap that is too short", 48, [0, 0x100_0000], [0x1000, 511, BITMAP]),
        ("a bitmap beyond all bounds", 48, range, [0x1000, (1 << 28) + 1, BITMAP]),
        ("a bitmap in the kernel's half", 48, range, [0x1000, 8, 1 << 63]),
        ("no bytes", 48, [IOVA, 0], bitmap),
        ("unaligned iova", 48, [IOVA + 1, 0x1_0000], bitmap),
        ("cuts off the end", 48, [IOVA, 0x8000], bitmap),
    ] {
        assert_eq!(unmap(argsz, range, bitmap), Err(Errno::EINVAL), "{what}");
    }
    lab.client.put(BASE + SIZE as u64 - 24, &words(48, 1, &range));
    assert_eq!(lab.on_container(UNMAP_DMA, BASE + SIZE as u64 - 24), Err(Errno::EFAULT), "half a structure");
    assert_eq!(lab.regions(), [(IOVA, 0x1_0000)]);
    assert_eq!(lab.unmap_dirty(0, 0x10_0000), Ok((0, vec![])), "nothing there is success");
}

#[test]
fn a_new_map_is_clean_whatever_was_there_before() {
    let (lab, mut device) = tracked();
    device.write(IOVA, &[1]);
    assert_eq!(lab.unmap(0, IOVA, 0x1_0000), Ok(0x1_0000));
    lab.map(RW, RAM, IOVA, 0x1_0000).unwrap();
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![]));
    device.write(IOVA + 0x1000, &[1]);
    assert_eq!(lab.unmap_dirty(IOVA, 0x1_0000), Ok((0x1_0000, vec![1])));
    lab.map(RW, RAM, IOVA, 0x1_0000).unwrap();
    assert_eq!(lab.get_dirty(IOVA, 0x1_0000), Ok(vec![]));
}

#[test]
fn more_pages_than_a_bitmap_can_have_are_not_tracked() {
    let lab = Lab::with_iommu(3);
    let most = ((1 << 31) - 1) * 0x1000;
    lab.map(READ, RAM, 0, most + 0x1000).unwrap();
    assert_eq!(lab.dirty_pages(START), Err(Errno::EINVAL));
    assert_eq!(lab.unmap(0, 0, most + 0x1000), Ok(most + 0x1000));
    lab.map(READ, RAM, 0, most).unwrap();
    assert_eq!(lab.dirty_pages(START), Ok(0));
    assert_eq!(lab.map(READ, RAM, 1 << 50, most + 0x1000), Err(Errno::EINVAL));
    assert_eq!(lab.regions().iter().map(|region| region.1).sum::<u64>(), most, "it is not mapped");
}

#[test]
fn every_page_counts_as_written_when_a_device_does_not_leave() {
    let (lab, mut device) = tracked();
    let space = lab.group.space_for(&lab.client).unwrap();
    space.set_patience(Duration::from_millis(1));
    let burst = device.reader.enter();
    burst.view().write(IOVA, &[1]).unwrap();
    assert_eq!(lab.unmap_dirty(IOVA, 0x1_0000), Ok((0x1_0000, (0..16).collect())));
    drop(burst);
}

#[test]
fn f34_what_a_device_writes_before_it_leaves_is_in_the_bitmap_of_the_unmap() {
    let (lab, mut device) = tracked();
    let space = lab.group.space_for(&lab.client).unwrap();
    let (entered, has_entered) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let burst = device.reader.enter();
            entered.send(()).unwrap();
            while !space.regions().is_empty() {
                std::thread::yield_now();
            }
            burst.view().write(IOVA + 0x7000, &[1]).unwrap();
            device.record.mark(IOVA + 0x7000, 1);
        });
        has_entered.recv().unwrap();
        assert_eq!(lab.unmap_dirty(IOVA, 0x1_0000), Ok((0x1_0000, vec![7])));
    });
}
