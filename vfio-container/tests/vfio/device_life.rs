//! How a device file is had, and what it holds until it is closed.

use crate::card::*;
use crate::lab::*;
use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::testing::{Descriptor, FakeClient};
use vfio_container::{CdevNode, HandleFile};
use virtio_mdev_api::notify::EventFd;

#[test]
fn a_handle_becomes_the_device_of_an_attached_group() {
    let table = Table::new();
    let handle = HandleFile::default();
    assert!(handle.device().is_none());
    become_device(&handle, &table.lab.client, &get_device(GROUP_FD, "uuid")).unwrap();
    assert!(handle.device().is_some());
    assert_eq!(table.calls(), ["open", "memory"]);
}

#[test]
fn whoever_has_the_group_may_have_its_device_which_is_still_who_attached_its() {
    let table = Table::new();
    let helper = FakeClient::new(2);
    helper.install(GROUP_FD, Descriptor::Device(table.lab.file.clone()));
    let file = open_by(&helper, "uuid").unwrap();
    assert_eq!(file.serve(&helper, &Ioctl { cmd: RESET, arg: 0, input: &[] }), Err(Errno::EPERM));
    assert!(file.serve(&table.lab.client, &Ioctl { cmd: RESET, arg: 0, input: &[] }).is_ok());
}

#[test]
fn a_handle_asks_for_a_group_a_name_and_an_iommu_as_get_device_fd_does() {
    let table = Table::of(Lab::apart(FakeClient::new(1)));
    let client = &table.lab.client;
    client.install(20, Descriptor::Event(EventFd::new().unwrap()));
    client.install(21, Descriptor::Device(table.lab.container.clone()));
    let handle = HandleFile::default();
    let ask = |fd, name| become_device(&handle, client, &get_device(fd, name));
    assert_eq!(ask(-1, "uuid"), Err(Errno::EBADF));
    assert_eq!(ask(50, "uuid"), Err(Errno::EBADF));
    assert_eq!(ask(20, "uuid"), Err(Errno::EINVAL), "an eventfd");
    assert_eq!(ask(21, "uuid"), Err(Errno::EINVAL), "a container");
    assert_eq!(ask(GROUP_FD, "other"), Err(Errno::ENODEV));
    assert_eq!(ask(GROUP_FD, ""), Err(Errno::ENODEV));
    assert_eq!(ask(GROUP_FD, "uuid"), Err(Errno::EINVAL), "no container");
    table.lab.attach(&table.lab.file).unwrap();
    assert_eq!(ask(GROUP_FD, "uuid"), Err(Errno::EINVAL), "no IOMMU");
    table.lab.on_container(SET_IOMMU, 3).unwrap();
    let mut endless = get_device(GROUP_FD, "uuid");
    endless[8..].fill(b'u');
    assert_eq!(become_device(&handle, client, &endless), Err(Errno::EINVAL), "a name without an end");
    let mut reserved = get_device(GROUP_FD, "uuid");
    reserved[4] = 1;
    assert_eq!(become_device(&handle, client, &reserved), Err(Errno::EINVAL));
    assert_eq!(become_device(&handle, client, &reserved[..71]), Err(Errno::EFAULT));
    assert_eq!(table.calls(), [""; 0]);
    assert_eq!(ask(GROUP_FD, "uuid"), Ok(()), "nothing of all that spoiled the handle");
}

#[test]
fn an_empty_handle_knows_no_other_calls() {
    let (handle, client) = (HandleFile::default(), FakeClient::new(1));
    for cmd in [DEVICE_GET_INFO, 0x5510, 0xaf01] {
        assert_eq!(handle.serve(&client, &Ioctl { cmd, arg: ARG, input: &[] }), Err(Errno::ENOTTY), "{cmd:#x}");
    }
}

#[test]
fn a_handle_that_is_closed_or_taken_gives_the_device_back() {
    let table = Table::new();
    let handle = HandleFile::default();
    OpenFile::release(&handle);
    let input = get_device(GROUP_FD, "uuid");
    assert_eq!(become_device(&handle, &table.lab.client, &input), Err(Errno::EBADF));
    assert_eq!(table.calls(), ["open", "memory", "no memory", "close"]);

    let handle = HandleFile::default();
    become_device(&handle, &table.lab.client, &input).unwrap();
    assert_eq!(become_device(&handle, &table.lab.client, &input), Err(Errno::EBUSY));
    table.calls();
    OpenFile::release(&handle);
    assert_eq!(table.calls(), ["no memory", "close"]);
}

#[test]
fn who_holds_a_device_can_be_asked_while_it_is_opened() {
    let table = Table::new();
    table.open().close();
    assert_eq!(table.deeds.lock().holders, [Some((1, 1000)), None], "as those find it whom it tells of both");
}

#[test]
fn f30_a_device_is_open_from_its_first_file_to_its_last() {
    let table = Table::new();
    let (first, second) = (table.open(), table.open());
    assert_eq!(table.calls(), ["open", "memory"]);
    first.close();
    assert_eq!(first.call(RESET, 0), Err(Errno::EBADF));
    assert_eq!(second.call(RESET, 0), Ok(0));
    assert_eq!(table.lab.group.device_holder(), Some((1, 1000)));
    second.close();
    assert_eq!(table.calls(), ["reset", "no memory", "close"]);
    assert_eq!(table.lab.group.device_holder(), None);
}

#[test]
fn a_group_stays_open_and_attached_while_a_device_file_is_open() {
    let table = Table::new();
    let seat = table.open();
    assert_eq!(table.lab.on_group(UNSET_CONTAINER, 0), Err(Errno::EBUSY));
    table.lab.map(READ | WRITE, RAM, 0, 0x1000).unwrap();
    table.lab.release();
    assert!(!is_free(&table.lab.group), "the device file holds it");
    let memory = table.deeds.lock().memory.clone().unwrap();
    assert_eq!(memory.regions().len(), 1);
    assert_eq!(seat.call(RESET, 0), Ok(0));
    table.calls();
    seat.close();
    assert_eq!(table.calls(), ["no memory", "close"]);
    assert!(memory.regions().is_empty(), "with the last file the group left its container");
    assert!(is_free(&table.lab.group));
}

#[test]
fn a_device_that_refuses_to_open_leaves_no_trace() {
    let table = Table::new();
    table.deeds.lock().busy = true;
    assert_eq!(open_by(&table.lab.client, "uuid").err(), Some(Errno::EBUSY));
    assert_eq!(table.lab.on_group(UNSET_CONTAINER, 0), Ok(0));
    table.lab.release();
    assert!(is_free(&table.lab.group));
}

#[test]
fn a_removed_device_has_lost_its_memory_and_answers_enodev() {
    let table = Table::new();
    let seat = table.open();
    table.lab.map(READ | WRITE, RAM, 0, 0x1000).unwrap();
    let memory = table.deeds.lock().memory.clone().unwrap();
    table.calls();
    table.lab.group.remove();
    assert_eq!(table.calls(), ["no memory", "close"]);
    assert!(memory.regions().is_empty());
    seat.client.put(ARG, &16u32.to_ne_bytes());
    for cmd in [DEVICE_GET_INFO, SET_IRQS, RESET, FEATURE, 0xaf01, 0x3b90] {
        assert_eq!(seat.call(cmd, ARG), Err(Errno::ENODEV), "{cmd:#x}");
    }
    assert_eq!(seat.file.serve_read(&seat.client, 0, 1), Err(Errno::ENODEV));
    assert_eq!(seat.file.serve_write(&seat.client, 0, &[1]), Err(Errno::ENODEV));
    assert_eq!(open_by(&table.lab.client, "uuid").err(), Some(Errno::ENODEV));
    seat.close();
    assert_eq!(table.calls(), [""; 0], "it is closed but once");
    assert_eq!(Arc::strong_count(&table.deeds), 1, "the device is gone");
}

#[test]
fn the_devices_own_node_is_good_for_nothing_before_it_is_bound() {
    let table = Table::new();
    let file = CdevNode::new(table.lab.group.clone()).open_file();
    for cmd in [DEVICE_GET_INFO, GET_REGION_INFO, SET_IRQS, RESET, FEATURE, 0xaf01, 0x3b90, 0x3b70] {
        let call = Ioctl { cmd, arg: ARG, input: &[] };
        assert_eq!(file.serve(&table.lab.client, &call), Err(Errno::EINVAL), "{cmd:#x}");
    }
    assert_eq!(file.serve_read(&table.lab.client, 0, 1), Err(Errno::EINVAL));
    assert_eq!(file.serve_write(&table.lab.client, 0, &[1]), Err(Errno::EINVAL));
    assert_eq!(table.calls(), [""; 0]);
}
