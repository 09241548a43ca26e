//! MAP_DMA and UNMAP_DMA (F31).

use crate::lab::*;
use nix::errno::Errno;
use proptest::prelude::*;
use vfio_container::testing::{BASE, FakeClient, SIZE};

const RW: u32 = READ | WRITE;
const V1: u64 = 1;
const V2: u64 = 3;
const ALL: u32 = 2;

#[test]
fn f31_what_cannot_be_mapped_is_refused_as_the_kernel_does() {
    let lab = Lab::with_iommu(V2);
    lab.map(RW, RAM, 0x10_0000, 0x2000).unwrap();
    let cases = [
        ("flags beyond those known", RW | 8, RAM, 0, 0x1000, Errno::EINVAL),
        ("neither read nor write", 0, RAM, 0, 0x1000, Errno::EINVAL),
        ("permission and new address at once", READ | 4, RAM, 0x10_0000, 0x2000, Errno::EINVAL),
        ("a new address for nothing", 4, RAM, 0, 0x1000, Errno::ENOENT),
        ("a new address for what has its old one", 4, RAM, 0x10_0000, 0x2000, Errno::EINVAL),
        ("no bytes", RW, RAM, 0, 0, Errno::EINVAL),
        ("unaligned size", RW, RAM, 0, 0x1001, Errno::EINVAL),
        ("unaligned iova", RW, RAM, 0x800, 0x1000, Errno::EINVAL),
        ("unaligned memory", RW, RAM + 1, 0, 0x1000, Errno::EINVAL),
        ("iova wraps", RW, RAM, !0xfff, 0x2000, Errno::EINVAL),
        ("memory wraps", RW, !0xfff, 0, 0x2000, Errno::EINVAL),
        ("duplicate", RW, RAM, 0x10_0000, 0x2000, Errno::EEXIST),
        ("overlap below", RW, RAM, 0xf_f000, 0x2000, Errno::EEXIST),
        ("overlap above", RW, RAM, 0x10_1000, 0x2000, Errno::EEXIST),
        ("overlap around", RW, RAM, 0xf_f000, 0x4000, Errno::EEXIST),
        ("memory that is not there", RW, 0x1000, 0, 0x1000, Errno::EFAULT),
    ];
    for (what, flags, vaddr, iova, size, errno) in cases {
        assert_eq!(lab.map(flags, vaddr, iova, size), Err(errno), "{what}");
    }
    assert_eq!(lab.regions(), [(0x10_0000, 0x2000)], "no refusal leaves a trace");
}

#[test]
fn f31_neighbours_and_the_last_page_can_be_mapped() {
    let lab = Lab::with_iommu(V2);
    lab.map(READ, RAM, 0x1000, 0x1000).unwrap();
    lab.map(WRITE, RAM, 0x2000, 0x1000).unwrap();
    lab.map(RW, RAM, 0, 0x1000).unwrap();
    lab.map(RW, RAM, !0xfff, 0x1000).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000), (0x1000, 0x1000), (0x2000, 0x1000), (!0xfff, 0x1000)]);
    assert_eq!(lab.unmap(0, !0xfff, 0x1000), Ok(0x1000));
}

#[test]
fn f31_short_and_unreadable_arguments_are_refused() {
    let lab = Lab::with_iommu(V2);
    lab.client.put(ARG, &words(31, RW, &[RAM, 0, 0x1000]));
    assert_eq!(lab.on_container(MAP_DMA, ARG), Err(Errno::EINVAL));
    lab.client.put(ARG, &words(23, 0, &[0, 0x1000]));
    assert_eq!(lab.on_container(UNMAP_DMA, ARG), Err(Errno::EINVAL));
    assert_eq!(lab.on_container(MAP_DMA, BASE + SIZE as u64 - 8), Err(Errno::EFAULT));
    lab.client.put(ARG, &words(u32::MAX, RW, &[RAM, 0, 0x1000]));
    assert_eq!(lab.on_container(MAP_DMA, ARG), Ok(0), "a larger argsz is a newer client");
}

#[test]
fn f31_the_entry_limit_is_enospc_and_ends_with_an_unmap() {
    let lab = Lab::with_iommu(V2);
    for page in 0..65_535u64 {
        lab.map(READ, RAM, page * 0x2000, 0x1000).unwrap();
    }
    assert_eq!(lab.map(READ, RAM, 1 << 40, 0x1000), Err(Errno::ENOSPC));
    assert_eq!(lab.map(READ, RAM, 0, 0x1000), Err(Errno::EEXIST), "overlap is looked at first");
    assert_eq!(lab.unmap(0, 0x2000, 0x1000), Ok(0x1000));
    assert_eq!(lab.map(READ, RAM, 1 << 40, 0x1000), Ok(0));
}

#[test]
fn f31_what_cannot_be_unmapped_is_refused_as_the_kernel_does() {
    let lab = Lab::with_iommu(V2);
    lab.map(RW, RAM, 0x10_0000, 0x4000).unwrap();
    let cases = [
        ("flags beyond those known", 8, 0x10_0000, 0x4000, Errno::EINVAL),
        ("a dirty bitmap without room for it", 1, 0x10_0000, 0x4000, Errno::EINVAL),
        ("a dirty bitmap and giving up the address", 5, 0x10_0000, 0x4000, Errno::EINVAL),
        ("a dirty bitmap of everything", 3, 0, 0, Errno::EINVAL),
        ("giving up the address", 4, 0x10_0000, 0x4000, Errno::EBUSY),
        ("everything with an iova", ALL, 0x1000, 0, Errno::EINVAL),
        ("everything with a size", ALL, 0, 0x1000, Errno::EINVAL),
        ("no bytes", 0, 0x10_0000, 0, Errno::EINVAL),
        ("unaligned iova", 0, 0x10_0001, 0x4000, Errno::EINVAL),
        ("unaligned size", 0, 0x10_0000, 0x4001, Errno::EINVAL),
        ("wraps", 0, !0xfff, 0x2000, Errno::EINVAL),
        ("cuts off the front", 0, 0x10_0000, 0x2000, Errno::EINVAL),
        ("cuts off the end", 0, 0x10_2000, 0x2000, Errno::EINVAL),
        ("cuts out the middle", 0, 0x10_1000, 0x1000, Errno::EINVAL),
        ("ends within", 0, 0, 0x10_1000, Errno::EINVAL),
    ];
    for (what, flags, iova, size, errno) in cases {
        assert_eq!(lab.unmap(flags, iova, size), Err(errno), "{what}");
    }
    assert_eq!(lab.regions(), [(0x10_0000, 0x4000)]);
}

#[test]
fn f32_unmap_says_how_much_it_unmapped() {
    let lab = Lab::with_iommu(V2);
    assert_eq!(lab.unmap(0, 0, 1 << 40), Ok(0), "nothing there is success");
    assert_eq!(lab.unmap(ALL, 0, 0), Ok(0));
    for page in 0..4u64 {
        lab.map(RW, RAM, page * 0x3000, 0x2000).unwrap();
    }
    assert_eq!(lab.unmap(0, 0x2000, 0x6000), Ok(0x4000), "two maps and the gaps around them");
    assert_eq!(lab.regions(), [(0, 0x2000), (0x9000, 0x2000)]);
    assert_eq!(lab.unmap(ALL, 0, 0), Ok(0x4000));
    assert_eq!(lab.regions(), []);
}

#[test]
fn f32_v1_unmaps_whole_maps_and_nothing_when_one_begins_before_the_range() {
    let lab = Lab::with_iommu(V1);
    for page in 0..3u64 {
        lab.map(RW, RAM, 0x10_0000 + page * 0x4000, 0x4000).unwrap();
    }
    assert_eq!(lab.unmap(0, 0x10_1000, 0x8000), Ok(0));
    assert_eq!(lab.unmap(0, 0x10_0000, 0x5000), Ok(0x8000), "the second map is larger than asked");
    assert_eq!(lab.regions(), [(0x10_8000, 0x4000)]);
}

#[test]
fn a_map_over_several_files_stays_one_map() {
    let lab = Lab::set_up(FakeClient::with_stretches(1, 0x2000), V2);
    lab.map(RW, RAM, 0x10_0000, 0x8000).unwrap();
    assert_eq!(lab.regions().len(), 4);
    lab.client.put(ARG, &words(72, 0, &[]));
    lab.on_container(GET_INFO, ARG).unwrap();
    assert_eq!(u32_at(&lab.client.get(ARG, 72), 64), 65_534, "one entry");
    assert_eq!(lab.unmap(0, 0x10_2000, 0x2000), Err(Errno::EINVAL), "a whole region, but a part of the map");
    assert_eq!(lab.unmap(0, 0x10_0000, 0x8000), Ok(0x8000));
    assert_eq!(lab.regions(), []);
}

#[test]
fn m3_only_the_address_space_that_set_the_container_up_maps() {
    let lab = Lab::with_iommu(V2);
    lab.map(RW, RAM, 0, 0x1000).unwrap();
    let heir = Lab { client: FakeClient::new(2), container: lab.container, group: lab.group, file: lab.file };
    assert_eq!(heir.map(RW, RAM, 0x1000, 0x1000), Err(Errno::EPERM));
    assert_eq!(heir.unmap(ALL, 0, 0), Err(Errno::EPERM));
    assert_eq!(heir.on_group(UNSET_CONTAINER, 0), Err(Errno::EPERM));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a list of maps: what is mapped, and how much an unmap says it removed.
    #[test]
    fn maps_and_unmaps_do_what_a_list_of_maps_does(
        version in prop_oneof![Just(V1), Just(V2)],
        steps in proptest::collection::vec((any::<bool>(), 0u64..24, 1u64..6), 1..60),
    ) {
        let lab = Lab::set_up(FakeClient::with_stretches(1, 0x2000), version);
        let mut model: Vec<(u64, u64)> = Vec::new();
        for (maps, page, pages) in steps {
            let (iova, size) = (page * 0x1000, pages * 0x1000);
            let end = iova + size;
            let touched = |&(at, len): &(u64, u64)| at < end && iova < at + len;
            if maps {
                let free = !model.iter().any(touched);
                prop_assert_eq!(lab.map(RW, RAM, iova, size), if free { Ok(0) } else { Err(Errno::EEXIST) });
                if free {
                    model.push((iova, size));
                }
                continue;
            }
            let cut = model.iter().any(|map| touched(map) && (map.0 < iova || map.0 + map.1 > end));
            let first_cut = model.iter().any(|map| touched(map) && map.0 < iova);
            let expected = match version {
                V2 if cut => Err(Errno::EINVAL),
                V1 if first_cut => Ok(0),
                _ => {
                    let bytes = model.iter().filter(|map| touched(map)).map(|map| map.1).sum();
                    model.retain(|map| !touched(map));
                    Ok(bytes)
                }
            };
            prop_assert_eq!(lab.unmap(0, iova, size), expected);
        }
        let mapped: u64 = lab.regions().iter().map(|region| region.1).sum();
        prop_assert_eq!(mapped, model.iter().map(|map| map.1).sum::<u64>());
    }

    #[test]
    fn no_argument_makes_a_call_panic(nr in 0u32..0x40, arg in any::<u64>(), bytes in any::<[u8; 64]>()) {
        let lab = Lab::with_iommu(V2);
        lab.client.put(ARG, &bytes);
        for arg in [arg, ARG] {
            let _ = lab.on_container(0x3b64 + nr, arg);
            let _ = lab.on_group(0x3b64 + nr, arg);
        }
    }
}
