//! The container's mappings, or IOTLB messages: never both, and only the holder's.

use crate::lab::*;
use devnode::OpenFile;
use nix::errno::Errno;
use vfio_container::testing::FakeClient;

const UNSET_CONTAINER: u32 = 0x3b69;

#[test]
fn a_holder_of_the_container_runs_on_its_mappings() {
    let lab = Lab::new();
    let (container, _group) = lab.attach();
    lab.map_in(&container, 0x7000, 0x1000);
    lab.start().unwrap();
    assert_eq!(lab.regions(), [(0x7000, 0x1000)]);
}

#[test]
fn mappings_made_later_reach_the_running_device() {
    let lab = Lab::new();
    let (container, _group) = lab.attach();
    lab.start().unwrap();
    assert_eq!(lab.regions(), []);
    lab.map_in(&container, 0x7000, 0x1000);
    assert_eq!(lab.regions(), [(0x7000, 0x1000)]);
}

#[test]
fn a_container_attached_after_driver_ok_counts_when_the_first_queue_starts() {
    let lab = Lab::new();
    lab.set_features(virtio_mdev_api::features::REQUIRED).unwrap();
    lab.set_status(0xf).unwrap();
    let (container, _group) = lab.attach();
    lab.map_in(&container, 0x7000, 0x1000);
    lab.vring(SET_VRING_ENABLE, 0, 1).unwrap();
    assert_eq!(lab.regions(), [(0x7000, 0x1000)]);
}

#[test]
fn who_merely_opened_the_vhost_file_gets_an_empty_space() {
    let lab = Lab::new();
    let (container, _group) = lab.attach();
    lab.map_in(&container, 0x7000, 0x1000);
    let thief = FakeClient::new(2);
    lab.file.release();
    let file = lab.node.open_file(&thief).unwrap();
    let lab = Lab { client: thief, file, ..lab };
    lab.call(SET_OWNER, &[]).unwrap();
    lab.start().unwrap();
    assert_eq!(lab.regions(), []);
}

#[test]
fn both_sources_at_once_are_refused() {
    let lab = Lab::new();
    lab.update(0, 0x1000).unwrap();
    let (_container, group) = lab.attach();
    assert_eq!(lab.update(0x1000, 0x1000), Err(Errno::EBUSY), "a message with a container");
    assert_eq!(lab.start(), Err(Errno::EBUSY), "a start with mappings of both kinds");
    assert_eq!((lab.running(), lab.status()), (0, 0));
    assert_eq!(lab.on_group(&group, UNSET_CONTAINER), Ok(0), "a refused start holds nothing");
    lab.set_status(0xf).unwrap();
    assert_eq!(lab.regions(), [(0, 0x1000)]);
}

#[test]
fn the_container_is_held_until_the_device_is_reset() {
    let lab = Lab::new();
    let (_container, group) = lab.attach();
    lab.start().unwrap();
    assert_eq!(lab.on_group(&group, UNSET_CONTAINER), Err(Errno::EBUSY));
    lab.set_status(0).unwrap();
    assert_eq!(lab.on_group(&group, UNSET_CONTAINER), Ok(0));
}

#[test]
fn a_closed_vhost_file_lets_the_container_go() {
    let lab = Lab::new();
    let (_container, group) = lab.attach();
    lab.start().unwrap();
    lab.file.release();
    assert_eq!(lab.on_group(&group, UNSET_CONTAINER), Ok(0));
}

#[test]
fn a_start_that_fails_holds_nothing() {
    let lab = Lab::new();
    let (_container, group) = lab.attach();
    assert_eq!(lab.set_status(0xf), Err(Errno::EINVAL), "no features");
    assert_eq!(lab.on_group(&group, UNSET_CONTAINER), Ok(0));
}

#[test]
fn a_group_closed_under_a_running_device_stops_it() {
    let lab = Lab::new();
    let (container, group) = lab.attach();
    lab.map_in(&container, 0x7000, 0x1000);
    lab.start().unwrap();
    let space = lab.queue_space();
    group.release();
    assert_eq!(lab.running(), 0);
    assert!(space.regions().is_empty());
    assert_eq!(lab.status() & 0x40, 0x40, "DEVICE_NEEDS_RESET");
    lab.set_status(0).unwrap();
    lab.start().unwrap();
    assert_eq!(lab.regions(), [], "and then it is an empty IOTLB's");
}

#[test]
fn after_the_group_comes_back_the_device_runs_on_the_new_container() {
    let lab = Lab::new();
    let (_first, group) = lab.attach();
    lab.start().unwrap();
    group.release();
    lab.set_status(0).unwrap();
    let (second, _group) = lab.attach();
    lab.map_in(&second, 0x9000, 0x1000);
    lab.start().unwrap();
    assert_eq!(lab.regions(), [(0x9000, 0x1000)]);
}

#[test]
fn a_suspended_device_that_lost_its_container_does_not_run_on_it_again() {
    let lab = Lab::new();
    let (container, group) = lab.attach();
    lab.map_in(&container, 0x7000, 0x1000);
    lab.start().unwrap();
    lab.call(SUSPEND, &[]).unwrap();
    group.release();
    lab.call(RESUME, &[]).unwrap();
    assert_eq!(lab.regions(), []);
}

#[test]
fn a_device_with_its_own_iommu_takes_messages_whoever_holds_a_container() {
    let lab = Lab::own_iommu();
    let (container, group) = lab.attach();
    lab.map_in(&container, 0x7000, 0x1000);
    lab.update(0x1000, 0x1000).unwrap();
    lab.start().unwrap();
    assert_eq!(lab.regions(), [(0x1000, 0x1000)]);
    assert_eq!(lab.on_group(&group, UNSET_CONTAINER), Ok(0), "it does not use the container");
    assert_eq!(lab.running(), 2);
}

#[test]
fn f38_a_group_that_comes_and_goes_under_starts_and_resets_leaves_nothing_behind() {
    let lab = Lab::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                // A start finds the container, an empty IOTLB, or the group leaving at this moment.
                let _ = lab.start();
                lab.set_status(0).unwrap();
            }
        });
        let other = lab.client.thread();
        for _ in 0..500 {
            let (container, group) = lab.attach_as(&other);
            let space = lab.group.space_for(&other).unwrap();
            group.release();
            assert!(space.regions().is_empty());
            container.release();
        }
    });
    lab.start().unwrap();
    assert_eq!((lab.regions(), lab.running()), (vec![], 2));
    let (_container, group) = lab.attach();
    lab.set_status(0).unwrap();
    assert_eq!(lab.on_group(&group, UNSET_CONTAINER), Ok(0), "nobody holds it");
}
