//! Attaching, detaching, and who may.

use crate::lab::*;
use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vfio_container::testing::{Descriptor, FakeClient};
use vfio_container::{ContainerFile, Group};
use virtio_mdev_api::notify::EventFd;

fn status(lab: &Lab) -> u32 {
    lab.client.put(ARG, &words(8, 0, &[]));
    lab.on_group(GET_STATUS, ARG).unwrap();
    u32_at(&lab.client.get(ARG, 8), 4)
}

#[test]
fn f30_a_group_has_one_opener() {
    let lab = Lab::apart(FakeClient::new(1));
    assert_eq!(lab.group.clone().open_file().err(), Some(Errno::EBUSY));
    lab.release();
    assert!(lab.group.clone().open_file().is_ok());
}

#[test]
fn status_says_viable_and_whether_a_container_is_set() {
    let lab = Lab::apart(FakeClient::new(1));
    assert_eq!(status(&lab), 1);
    lab.attach(&lab.file).unwrap();
    assert_eq!(status(&lab), 3);
}

#[test]
fn status_with_a_short_argsz_is_refused() {
    let lab = Lab::apart(FakeClient::new(1));
    lab.client.put(ARG, &words(7, 0, &[]));
    assert_eq!(lab.on_group(GET_STATUS, ARG), Err(Errno::EINVAL));
    assert_eq!(lab.on_group(GET_STATUS, 0x10), Err(Errno::EFAULT));
}

#[test]
fn set_container_wants_the_descriptor_of_a_container() {
    let lab = Lab::apart(FakeClient::new(1));
    lab.client.install(8, Descriptor::Event(EventFd::new().unwrap()));
    lab.client.install(9, Descriptor::Device(lab.file.clone()));
    for (fd, errno) in [(-1, Errno::EINVAL), (50, Errno::EBADF), (8, Errno::EBADFD), (9, Errno::EBADFD)] {
        lab.client.put(ARG, &i32::to_ne_bytes(fd));
        assert_eq!(lab.on_group(SET_CONTAINER, ARG), Err(errno), "descriptor {fd}");
    }
    assert_eq!(lab.on_group(SET_CONTAINER, 0x10), Err(Errno::EFAULT));
    lab.attach(&lab.file).unwrap();
    assert_eq!(lab.attach(&lab.file), Err(Errno::EINVAL), "attached already");
}

#[test]
fn unset_container_needs_one_and_a_device_at_rest() {
    let lab = Lab::with_iommu(3);
    let hold = lab.group.hold().unwrap();
    assert_eq!(lab.on_group(UNSET_CONTAINER, 0), Err(Errno::EBUSY));
    assert!(hold.is_attached());
    drop(hold);
    assert_eq!(lab.on_group(UNSET_CONTAINER, 0), Ok(0));
    assert_eq!(lab.on_group(UNSET_CONTAINER, 0), Err(Errno::EINVAL));
    assert_eq!(status(&lab), 1);
}

#[test]
fn a_group_attached_anew_while_it_leaves_is_not_torn_out_again() {
    let lab = Arc::new(Lab::with_iommu(3));
    // What another thread of the client might do, at the moment when it matters: the device is told that it loses its
    // memory, and the container has not let go of the group yet.
    let racing = Arc::clone(&lab);
    lab.group.on_detach(Box::new(move || drop(racing.attach(&racing.file))));
    assert_eq!(lab.on_group(UNSET_CONTAINER, 0), Ok(0));
    let attached = status(&lab) == 3;
    assert_eq!(lab.on_container(SET_IOMMU, 3).is_ok(), attached, "the group says what its container says");
    if !attached {
        lab.attach(&lab.file).unwrap();
    }
    assert_eq!(status(&lab), 3);
}

#[test]
fn threads_that_attach_and_detach_at_once_leave_the_group_and_its_container_of_one_mind() {
    let lab = Lab::apart(FakeClient::new(1));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let set = lab.attach(&lab.file);
                    assert!(matches!(set, Ok(_) | Err(Errno::EINVAL)), "{set:?}");
                    let unset = lab.on_group(UNSET_CONTAINER, 0);
                    assert!(matches!(unset, Ok(_) | Err(Errno::EINVAL | Errno::EPERM)), "{unset:?}");
                }
            });
        }
    });
    let attached = status(&lab) == 3;
    assert_eq!(lab.on_container(SET_IOMMU, 3).is_ok(), attached);
}

#[test]
fn a_close_ends_the_attachment_even_of_a_device_in_use() {
    let lab = Lab::with_iommu(3);
    lab.map(READ | WRITE, RAM, 0, 0x1000).unwrap();
    let hold = lab.group.hold().unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let (seen, space) = (told.clone(), hold.space().clone());
    lab.group.on_detach(Box::new(move || {
        assert_eq!(space.regions().len(), 1, "the device lets go before the memory goes");
        seen.fetch_add(1, Ordering::SeqCst);
    }));
    lab.release();
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert!(!hold.is_attached());
    assert!(hold.space().regions().is_empty());
    assert!(lab.group.hold().is_none());
}

#[test]
fn the_container_outlives_its_descriptor_while_a_group_is_attached() {
    let lab = Lab::with_iommu(3);
    lab.map(READ, RAM, 0, 0x1000).unwrap();
    let space = lab.group.space_for(&lab.client).unwrap();
    OpenFile::release(&*lab.container);
    assert_eq!(space.regions().len(), 1);
    lab.release();
    assert!(space.regions().is_empty());
}

#[test]
fn nothing_is_left_of_a_killed_client_whatever_closes_first() {
    for container_first in [true, false] {
        let Lab { client, container, group, file } = Lab::with_iommu(3);
        let space = Arc::downgrade(&group.space_for(&client).unwrap());
        let close_container = |container: Arc<ContainerFile>| OpenFile::release(&*container);
        drop(client);
        if container_first {
            close_container(container);
            OpenFile::release(&*file);
        } else {
            OpenFile::release(&*file);
            close_container(container);
        }
        assert!(space.upgrade().is_none(), "container first: {container_first}");
    }
}

#[test]
fn only_the_address_space_that_attached_the_group_is_given_its_memory() {
    let lab = Lab::with_iommu(3);
    assert!(lab.group.space_for(&lab.client.thread()).is_some(), "another thread");
    assert!(lab.group.space_for(&FakeClient::new(2)).is_none(), "another process");
}

#[test]
fn a_container_has_memory_once_it_has_an_iommu() {
    let lab = Lab::apart(FakeClient::new(1));
    lab.attach(&lab.file).unwrap();
    assert!(lab.group.attached_by(&lab.client));
    assert!(lab.group.space_for(&lab.client).is_none());
    assert!(lab.group.hold().is_none());
}

#[test]
fn a_removed_group_answers_enodev() {
    let lab = Lab::with_iommu(3);
    let space = lab.group.space_for(&lab.client).unwrap();
    lab.map(READ, RAM, 0, 0x1000).unwrap();
    lab.group.remove();
    assert!(space.regions().is_empty());
    assert_eq!(lab.on_group(GET_STATUS, ARG), Err(Errno::ENODEV));
    assert_eq!(lab.attach(&lab.file), Err(Errno::ENODEV));
    assert_eq!(lab.group.clone().open_file().err(), Some(Errno::ENODEV));
    assert_eq!(lab.map(READ, RAM, 0, 0x1000), Err(Errno::EINVAL), "the container has no IOMMU any more");
}

#[test]
fn a_call_that_comes_after_the_close_attaches_nothing() {
    let lab = Lab::apart(FakeClient::new(1));
    lab.release();
    assert_eq!(lab.attach(&lab.file), Err(Errno::EBADF));
}

#[test]
fn a_group_that_is_being_closed_is_neither_attached_nor_opened() {
    let lab = Arc::new(Lab::with_iommu(3));
    let tried = Arc::new(AtomicUsize::new(0));
    let (weak, count) = (Arc::downgrade(&lab), tried.clone());
    lab.group.on_detach(Box::new(move || {
        let lab = weak.upgrade().unwrap();
        assert_eq!(lab.attach(&lab.file), Err(Errno::EBADF));
        assert_eq!(lab.group.clone().open_file().err(), Some(Errno::EBUSY));
        count.fetch_add(1, Ordering::SeqCst);
    }));
    lab.release();
    assert_eq!(tried.load(Ordering::SeqCst), 1);
    assert!(lab.group.clone().open_file().is_ok());
}

#[test]
fn the_device_descriptor_is_refused_by_name_by_state_and_then_for_good() {
    let lab = Lab::apart(FakeClient::new(1));
    lab.client.put(ARG, b"other\0");
    assert_eq!(lab.on_group(GET_DEVICE_FD, ARG), Err(Errno::ENODEV));
    lab.client.put(ARG, b"uuid\0");
    assert_eq!(lab.on_group(GET_DEVICE_FD, ARG), Err(Errno::EINVAL), "no container");
    lab.attach(&lab.file).unwrap();
    lab.client.put(ARG, b"uuid\0");
    assert_eq!(lab.on_group(GET_DEVICE_FD, ARG), Err(Errno::EINVAL), "no IOMMU");
    lab.on_container(SET_IOMMU, 3).unwrap();
    assert_eq!(lab.on_group(GET_DEVICE_FD, ARG), Err(Errno::EOPNOTSUPP));
    lab.client.put(ARG, &[b'x'; 5000]);
    assert_eq!(lab.on_group(GET_DEVICE_FD, ARG), Err(Errno::EINVAL), "a name without an end");
    assert_eq!(lab.on_group(GET_DEVICE_FD, 0), Err(Errno::EFAULT));
}

#[test]
fn commands_of_other_files_are_known_but_not_offered_here() {
    let lab = Lab::with_iommu(3);
    assert_eq!(lab.on_group(MAP_DMA, ARG), Err(Errno::EOPNOTSUPP));
    assert_eq!(lab.on_group(0x3b63, 0), Err(Errno::ENOTTY));
    assert_eq!(lab.on_group(0xaf01, 0), Err(Errno::ENOTTY));
}

#[test]
fn two_groups_of_one_container_share_its_memory_until_the_last_leaves() {
    let lab = Lab::with_iommu(3);
    let second = Group::new((1 << 20) + 1, "second".into());
    let second_file = second.clone().open_file().unwrap();
    lab.attach(&second_file).unwrap();
    lab.map(READ, RAM, 0, 0x1000).unwrap();
    let (first, other) = (lab.group.space_for(&lab.client).unwrap(), second.space_for(&lab.client).unwrap());
    assert!(Arc::ptr_eq(&first, &other));
    lab.release();
    assert_eq!(other.regions().len(), 1, "one group is left");
    assert!(lab.group.space_for(&lab.client).is_none());
    let unset = Ioctl { cmd: UNSET_CONTAINER, arg: 0, input: &[] };
    second_file.serve(&lab.client, &unset).unwrap();
    assert!(other.regions().is_empty());
    assert_eq!(lab.on_container(GET_INFO, ARG), Err(Errno::EINVAL), "the IOMMU went with the last group");
}

#[test]
fn two_clients_at_the_same_iova_never_see_each_other() {
    let (one, two) = (Lab::set_up(FakeClient::new(1), 3), Lab::set_up(FakeClient::new(2), 3));
    one.map(READ | WRITE, RAM, 0x4000, 0x1000).unwrap();
    assert_eq!(two.regions(), []);
    two.map(READ | WRITE, RAM, 0x4000, 0x2000).unwrap();
    assert_eq!(one.regions(), [(0x4000, 0x1000)]);
    one.unmap(2, 0, 0).unwrap();
    assert_eq!(two.regions(), [(0x4000, 0x2000)]);
}
