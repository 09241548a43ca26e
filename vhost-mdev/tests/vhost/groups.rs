//! Groups, descriptor groups and address space ids (F35).

use crate::lab::*;
use nix::errno::Errno;
use std::sync::Arc;
use virtio_mdev_api::Capabilities;
use virtio_mdev_api::dma::AddressSpace;

const UPDATE: u8 = 2;
const INVALIDATE: u8 = 3;
const BEGIN: u8 = 5;
const END: u8 = 6;

/// First addresses of the maps in `space`.
fn maps(space: &AddressSpace) -> Vec<u64> {
    space.regions().iter().map(|region| region.iova).collect()
}

/// First addresses of the maps that queue `index` finds its buffers in, and those it finds its ring in.
fn queue_maps(lab: &Lab, index: u16) -> (Vec<u64>, Vec<u64>) {
    let seen = lab.seen.lock();
    let queue = &seen.running[&index];
    (maps(&queue.space), maps(&queue.ring_space))
}

#[test]
fn groups_and_address_spaces_are_told() {
    let lab = Lab::grouped();
    assert_eq!(lab.call(GET_GROUP_NUM, &[]).unwrap(), 3u32.to_ne_bytes(), "groups of rings count");
    assert_eq!(lab.call(GET_AS_NUM, &[]).unwrap(), 2u32.to_ne_bytes());
    assert_eq!(lab.vring(GET_VRING_GROUP, 0, 9), Ok(pair(0, 0)));
    assert_eq!(lab.vring(GET_VRING_GROUP, 1, 9), Ok(pair(1, 1)));
    assert_eq!(lab.vring(GET_VRING_DESC_GROUP, 0, 9), Ok(pair(0, 2)));
    assert_eq!(lab.vring(GET_VRING_DESC_GROUP, 1, 9), Err(Errno::EOPNOTSUPP), "its ring has no group of its own");
}

#[test]
fn calls_of_groups_are_never_unknown_to_a_device_without_groups() {
    let lab = Lab::new();
    assert_eq!(lab.vring(GET_VRING_GROUP, 1, 0), Ok(pair(1, 0)));
    assert_eq!(lab.vring(GET_VRING_DESC_GROUP, 0, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(lab.vring(SET_GROUP_ASID, 0, 0), Ok(vec![]));
    assert_eq!(lab.vring(SET_GROUP_ASID, 0, 1), Err(Errno::EINVAL));
}

#[test]
fn address_space_ids_are_offered_where_they_mean_something() {
    let offered = |kind| {
        let bytes = Lab::owned(kind).call(GET_BACKEND_FEATURES, &[]).unwrap();
        u64::from_ne_bytes(bytes.try_into().unwrap()) & (IOTLB_ASID | DESC_ASID)
    };
    assert_eq!(offered(Kind::default()), 0);
    assert_eq!(offered(Kind { address_spaces: 2, ..Kind::default() }), IOTLB_ASID);
    assert_eq!(offered(Kind::grouped()), IOTLB_ASID | DESC_ASID);
}

#[test]
fn backend_features_are_negotiated_as_the_kernel_does() {
    let lab = Lab::grouped();
    lab.acknowledge(IOTLB_ASID | DESC_ASID).unwrap();
    assert_eq!(lab.acknowledge(DESC_ASID), Err(Errno::EINVAL), "the one means the other");
    assert_eq!(lab.acknowledge(1 << 9), Err(Errno::EOPNOTSUPP));
    assert_eq!(lab.acknowledge(1 << 9 | DESC_ASID), Err(Errno::EOPNOTSUPP), "what is unknown comes first");
    let plain = Lab::new();
    assert_eq!(plain.acknowledge(IOTLB_ASID), Err(Errno::EOPNOTSUPP));
    assert_eq!(plain.acknowledge(DESC_ASID), Err(Errno::EINVAL));
    assert_eq!(plain.acknowledge(DESC_ASID | IOTLB_ASID), Err(Errno::EOPNOTSUPP));
}

#[test]
fn f35_a_group_or_an_address_space_that_is_not_there_is_refused() {
    let lab = Lab::grouped();
    assert_eq!(lab.vring(SET_GROUP_ASID, 1, 2), Err(Errno::EINVAL), "address space");
    assert_eq!(lab.vring(SET_GROUP_ASID, 1, u32::MAX), Err(Errno::EINVAL));
    // The index is taken for a queue's first: the group of rings has a number there is no queue of.
    assert_eq!(lab.vring(SET_GROUP_ASID, 2, 0), Err(Errno::ENOBUFS));
    assert_eq!(Lab::new().vring(SET_GROUP_ASID, 1, 0), Err(Errno::EINVAL), "queue 1 is, group 1 is not");
    lab.acknowledge(IOTLB_ASID).unwrap();
    for request in [UPDATE, INVALIDATE, BEGIN, END] {
        assert_eq!(lab.write_to(2, request, 0, 0x1000), Err(Errno::EINVAL), "{request}");
        assert_eq!(lab.write_to(u32::MAX, request, 0, 0x1000), Err(Errno::EINVAL), "{request}");
    }
}

#[test]
fn f35_a_group_is_not_bound_anew_while_the_driver_runs() {
    let lab = Lab::grouped();
    lab.start().unwrap();
    assert_eq!(lab.vring(SET_GROUP_ASID, 1, 1), Err(Errno::EBUSY));
    lab.call(SUSPEND, &[]).unwrap();
    assert_eq!(lab.vring(SET_GROUP_ASID, 1, 1), Err(Errno::EBUSY), "nor while it is suspended");
    lab.call(RESUME, &[]).unwrap();
    let seen = lab.seen.lock();
    assert!(Arc::ptr_eq(&seen.running[&0].space, &seen.running[&1].space));
}

#[test]
fn each_queue_works_in_the_address_space_of_its_group() {
    let lab = Lab::grouped();
    lab.acknowledge(IOTLB_ASID).unwrap();
    lab.vring(SET_GROUP_ASID, 1, 1).unwrap();
    lab.write_to(0, UPDATE, 0x1000, 0x1000).unwrap();
    lab.write_to(1, UPDATE, 0x9000, 0x1000).unwrap();
    lab.start().unwrap();
    assert_eq!(queue_maps(&lab, 0), (vec![0x1000], vec![0x1000]));
    assert_eq!(queue_maps(&lab, 1), (vec![0x9000], vec![0x9000]));
    lab.write_to(1, UPDATE, 0x1000, 0x1000).unwrap();
    lab.write_to(0, INVALIDATE, 0, u64::MAX).unwrap();
    assert_eq!(queue_maps(&lab, 0).0, [0u64; 0]);
    assert_eq!(queue_maps(&lab, 1).0, [0x1000, 0x9000], "one address in two spaces, and each has its own");
}

#[test]
fn a_reset_puts_all_groups_back_and_keeps_what_is_mapped() {
    let lab = Lab::grouped();
    lab.acknowledge(IOTLB_ASID).unwrap();
    lab.vring(SET_GROUP_ASID, 1, 1).unwrap();
    lab.write_to(0, UPDATE, 0x1000, 0x1000).unwrap();
    lab.write_to(1, UPDATE, 0x9000, 0x1000).unwrap();
    lab.set_status(0).unwrap();
    lab.start().unwrap();
    assert_eq!(queue_maps(&lab, 1).0, [0x1000]);
    lab.set_status(0).unwrap();
    lab.vring(SET_GROUP_ASID, 1, 1).unwrap();
    lab.start().unwrap();
    assert_eq!(queue_maps(&lab, 1).0, [0x9000]);
}

#[test]
fn an_address_space_id_means_nothing_to_who_did_not_acknowledge_it() {
    let lab = Lab::grouped();
    lab.write_to(7, UPDATE, 0x1000, 0x1000).unwrap();
    lab.acknowledge(IOTLB_ASID).unwrap();
    // Version 1 has no room for an id.
    lab.write_as(&lab.client, &message(1, 7, [0x3000, 0x1000, RAM], 3, UPDATE)).unwrap();
    lab.start().unwrap();
    assert_eq!(queue_maps(&lab, 0).0, [0x1000, 0x3000]);
}

#[test]
fn a_batch_takes_messages_of_its_own_address_space_only() {
    let lab = Lab::grouped();
    lab.acknowledge(IOTLB_ASID).unwrap();
    lab.write_to(1, BEGIN, 0, 0).unwrap();
    for request in [UPDATE, INVALIDATE, BEGIN, END] {
        assert_eq!(lab.write_to(0, request, 0x1000, 0x1000), Err(Errno::EINVAL), "{request}");
    }
    lab.write_to(1, UPDATE, 0x9000, 0x1000).unwrap();
    lab.write_to(1, END, 0, 0).unwrap();
    lab.write_to(0, UPDATE, 0x1000, 0x1000).unwrap();
    lab.vring(SET_GROUP_ASID, 1, 1).unwrap();
    lab.start().unwrap();
    assert_eq!((queue_maps(&lab, 0).0, queue_maps(&lab, 1).0), (vec![0x1000], vec![0x9000]));
}

#[test]
fn a_ring_is_where_its_group_is_for_who_acknowledged_such_groups() {
    let kind = || Kind {
        queues: Kind::grouped().queues.into_iter().chain(Kind::default().queues).collect(),
        ..Kind::grouped()
    };
    for (features, ring) in [(IOTLB_ASID, 0x1000), (IOTLB_ASID | DESC_ASID, 0x9000)] {
        let lab = Lab::owned(kind());
        lab.acknowledge(features).unwrap();
        lab.vring(SET_GROUP_ASID, 2, 1).unwrap();
        lab.write_to(0, UPDATE, 0x1000, 0x1000).unwrap();
        lab.write_to(1, UPDATE, 0x9000, 0x1000).unwrap();
        lab.start().unwrap();
        assert_eq!(queue_maps(&lab, 0), (vec![0x1000], vec![ring]), "{features:#x}");
        assert_eq!(queue_maps(&lab, 1), (vec![0x1000], vec![0x1000]), "has no such group");
    }
}

#[test]
fn who_opens_the_file_next_starts_without_groups() {
    let lab = Lab::grouped();
    lab.acknowledge(IOTLB_ASID | DESC_ASID).unwrap();
    lab.vring(SET_GROUP_ASID, 1, 1).unwrap();
    lab.write_to(1, UPDATE, 0x9000, 0x1000).unwrap();
    devnode::OpenFile::release(&*lab.file);
    let file = lab.node.open_file(&lab.client).unwrap();
    let lab = Lab { file, ..lab };
    lab.call(SET_OWNER, &[]).unwrap();
    lab.write_to(1, UPDATE, 0x1000, 0x1000).unwrap();
    lab.start().unwrap();
    assert_eq!(queue_maps(&lab, 1).0, [0x1000]);
}

#[test]
fn a_container_is_address_space_0_and_the_others_are_filled_by_messages() {
    let lab = Lab::grouped();
    lab.acknowledge(IOTLB_ASID).unwrap();
    let (container, _group) = lab.attach();
    lab.map_in(&container, 0x7000, 0x1000);
    lab.vring(SET_GROUP_ASID, 1, 1).unwrap();
    assert_eq!(lab.write_to(0, UPDATE, 0x1000, 0x1000), Err(Errno::EBUSY));
    lab.write_to(1, UPDATE, 0x9000, 0x1000).unwrap();
    lab.start().unwrap();
    assert_eq!((queue_maps(&lab, 0).0, queue_maps(&lab, 1).0), (vec![0x7000], vec![0x9000]));
}

#[test]
fn a_device_with_its_own_iommu_is_told_the_address_space() {
    let lab = Lab::owned(Kind { capabilities: Capabilities::OWN_IOMMU, ..Kind::grouped() });
    lab.acknowledge(IOTLB_ASID).unwrap();
    lab.vring(SET_GROUP_ASID, 1, 1).unwrap();
    lab.calls();
    lab.write_to(1, UPDATE, 0x9000, 0x1000).unwrap();
    lab.write_to(0, UPDATE, 0x1000, 0x1000).unwrap();
    lab.write_to(1, INVALIDATE, 0, u64::MAX).unwrap();
    assert_eq!(lab.calls(), ["map 1 0x9000+0x1000", "map 0 0x1000+0x1000", "unmap 1 0x9000+0x1000"]);
    lab.start().unwrap();
    let seen = lab.seen.lock();
    assert_eq!((seen.running[&0].asid, seen.running[&1].asid, seen.running[&1].ring_asid), (0, 1, 1));
}
