//! What a container says of itself.

use crate::lab::*;
use nix::errno::Errno;
use vfio_container::testing::FakeClient;

#[test]
fn the_api_version_is_zero() {
    assert_eq!(Lab::apart(FakeClient::new(1)).on_container(GET_API_VERSION, 0), Ok(0));
}

#[test]
fn extensions_are_those_of_type_1_with_emulated_groups() {
    let lab = Lab::with_iommu(3);
    let offered: Vec<u64> = (0..20).filter(|&id| lab.on_container(CHECK_EXTENSION, id) == Ok(1)).collect();
    assert_eq!(offered, [1, 3, 4, 6, 9]);
    assert_eq!(lab.on_container(CHECK_EXTENSION, 1 << 32 | 1), Ok(0));
}

#[test]
fn the_iommu_is_set_once_when_a_group_is_there() {
    let lab = Lab::apart(FakeClient::new(1));
    assert_eq!(lab.on_container(SET_IOMMU, 3), Err(Errno::EINVAL), "no group");
    lab.attach(&lab.file).unwrap();
    for kind in [0, 2, 4, 7, 8, 10, u64::MAX] {
        assert_eq!(lab.on_container(SET_IOMMU, kind), Err(Errno::ENODEV), "type {kind}");
    }
    assert_eq!(lab.on_container(SET_IOMMU, 9), Err(Errno::EINVAL), "an extension, and no type");
    assert_eq!(lab.on_container(SET_IOMMU, 1), Ok(0));
    assert_eq!(lab.on_container(SET_IOMMU, 1), Err(Errno::EINVAL), "set already");
}

#[test]
fn without_an_iommu_there_is_nothing_to_map_in() {
    let lab = Lab::apart(FakeClient::new(1));
    assert_eq!(lab.map(READ, RAM, 0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(lab.unmap(0, 0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(lab.on_container(GET_INFO, ARG), Err(Errno::EINVAL));
    assert_eq!(lab.on_container(DIRTY_PAGES, ARG), Err(Errno::EINVAL));
}

/// The answer to GET_INFO with this argsz.
fn info(lab: &Lab, argsz: u32) -> Vec<u8> {
    lab.client.put(ARG, &[0xee; 128]);
    lab.client.put(ARG, &argsz.to_ne_bytes());
    lab.on_container(GET_INFO, ARG).unwrap();
    lab.client.get(ARG, 128)
}

#[test]
fn info_without_room_says_how_much_room_its_capabilities_need() {
    let lab = Lab::with_iommu(3);
    for argsz in [16, 19, 20, 24, 71] {
        let info = info(&lab, argsz);
        assert_eq!((u32_at(&info, 0), u32_at(&info, 4)), (72, 3), "argsz {argsz}");
        assert_eq!(u64::from_ne_bytes(info[8..16].try_into().unwrap()), !0xfff);
        let shown = usize::try_from(argsz).unwrap().min(24);
        assert!(info[16..shown].iter().all(|&byte| byte == 0), "no offset, argsz {argsz}");
        assert!(info[shown..].iter().all(|&byte| byte == 0xee), "nothing is written beyond argsz {argsz}");
    }
    lab.client.put(ARG, &15u32.to_ne_bytes());
    assert_eq!(lab.on_container(GET_INFO, ARG), Err(Errno::EINVAL));
}

#[test]
fn info_with_room_has_migration_and_available_entries_and_no_ranges() {
    let lab = Lab::with_iommu(3);
    lab.map(READ, RAM, 0, 0x1000).unwrap();
    let info = info(&lab, 100);
    assert_eq!((u32_at(&info, 0), u32_at(&info, 4), u32_at(&info, 16)), (100, 3, 24));
    assert_eq!(info[24..28], [2, 0, 1, 0], "MIGRATION, version 1");
    assert_eq!((u32_at(&info, 28), u32_at(&info, 32)), (56, 0));
    assert_eq!(u64::from_ne_bytes(info[40..48].try_into().unwrap()), 0x1000);
    assert_eq!(u64::from_ne_bytes(info[48..56].try_into().unwrap()), 1 << 28, "2^31 pages");
    assert_eq!(info[56..60], [3, 0, 1, 0], "DMA_AVAIL, version 1");
    assert_eq!((u32_at(&info, 60), u32_at(&info, 64)), (0, 65_534), "the last capability");
    assert!(info[72..].iter().all(|&byte| byte == 0xee));
}

#[test]
fn commands_nobody_knows_are_enotty() {
    let lab = Lab::with_iommu(3);
    for cmd in [0x3b63, 0x3b99, 0x3b, 0xaf01, 0xc010_3b71] {
        assert_eq!(lab.on_container(cmd, 0), Err(Errno::ENOTTY), "{cmd:#x}");
    }
    assert_eq!(lab.on_container(SET_CONTAINER, ARG), Err(Errno::EOPNOTSUPP));
}
