//! The device file: what it is made of, access to its regions, interrupts, reset, features.

use crate::card::*;
use crate::lab::*;
use nix::errno::Errno;
use vfio_container::testing::{Descriptor, FakeClient};
use vfio_container::{IrqAction, IrqData};
use virtio_mdev_api::notify::EventFd;

const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;

const GET_FEATURE: u32 = 1 << 16;
const SET_FEATURE: u32 = 1 << 17;
const PROBE_FEATURE: u32 = 1 << 18;

#[test]
fn info_says_flags_and_counts_and_writes_no_more_than_there_is_room_for() {
    let table = Table::new();
    let seat = table.open();
    assert_eq!(seat.ask(DEVICE_GET_INFO, &[24, 9, 9, 9, 9, 9]), Ok(vec![24, 2 | 1, 4, 3, 0, 0]));
    assert_eq!(seat.ask(DEVICE_GET_INFO, &[16, 9, 9, 9, 9, 9]), Ok(vec![16, 2 | 1, 4, 3, 9, 9]));
    assert_eq!(seat.ask(DEVICE_GET_INFO, &[20, 9, 9, 9, 9, 9]), Ok(vec![20, 2 | 1, 4, 3, 0, 9]));
    assert_eq!(seat.ask(DEVICE_GET_INFO, &[u32::MAX, 9, 9, 9, 9, 9, 9]), Ok(vec![u32::MAX, 3, 4, 3, 0, 0, 9]));
    assert_eq!(seat.ask(DEVICE_GET_INFO, &[15, 9, 9, 9, 9, 9]), Err(Errno::EINVAL));
    assert_eq!(seat.call(DEVICE_GET_INFO, 0x10), Err(Errno::EFAULT));
}

#[test]
fn regions_are_found_at_their_index_shifted_by_40_bits() {
    let table = Table::new();
    let seat = table.open();
    let size = u32::try_from(REGION_SIZE).unwrap();
    let ask = |index| seat.ask(GET_REGION_INFO, &[32, 9, index, 9, 9, 9, 9, 9]);
    assert_eq!(ask(0), Ok(vec![32, 3, 0, 0, size, 0, 0, 0]));
    assert_eq!(ask(1), Ok(vec![32, 0, 1, 0, 0, 0, 0, 1 << 8]), "a region that is not there has no size");
    assert_eq!(ask(2), Ok(vec![32, 2, 2, 0, size, 0, 0, 2 << 8]));
    assert_eq!(ask(3), Ok(vec![32, 1, 3, 0, size, 0, 0, 3 << 8]));
    assert_eq!(ask(4), Err(Errno::EINVAL));
    assert_eq!(ask(u32::MAX), Err(Errno::EINVAL));
    assert_eq!(seat.ask(GET_REGION_INFO, &[31, 0, 0, 0, 0, 0, 0, 0]), Err(Errno::EINVAL));
}

#[test]
fn interrupts_are_told_by_index() {
    let table = Table::new();
    let seat = table.open();
    assert_eq!(seat.ask(GET_IRQ_INFO, &[16, 9, 0, 9]), Ok(vec![16, 9, 0, VECTORS]));
    assert_eq!(seat.ask(GET_IRQ_INFO, &[16, 9, 1, 9]), Ok(vec![16, 7, 1, 1]));
    assert_eq!(seat.ask(GET_IRQ_INFO, &[16, 9, 2, 9]), Ok(vec![16, 1, 2, 0]));
    assert_eq!(seat.ask(GET_IRQ_INFO, &[16, 9, 3, 9]), Err(Errno::EINVAL));
    assert_eq!(seat.ask(GET_IRQ_INFO, &[15, 9, 0, 9]), Err(Errno::EINVAL));
}

#[test]
fn an_access_goes_to_one_region_and_ends_at_its_end() {
    let table = Table::new();
    let seat = table.open();
    table.calls();
    assert_eq!(seat.file.serve_read(&seat.client, 0x10, 4), Ok(vec![0x10, 0x11, 0x12, 0x13]));
    assert_eq!(seat.file.serve_read(&seat.client, REGION_SIZE - 2, 4), Ok(vec![0xfe, 0xff]));
    assert_eq!(seat.file.serve_write(&seat.client, REGION_SIZE - 1, &[1, 2, 3]), Ok(1));
    assert_eq!(seat.file.serve_write(&seat.client, (2 << 40) | 8, &[1, 2, 3]), Ok(3));
    assert_eq!(table.calls(), ["read 0 0x10+4", "read 0 0xfe+2", "write 0 0xff+1", "write 2 0x8+3"]);
}

#[test]
fn f26_an_access_outside_a_region_or_against_its_rights_is_refused() {
    let table = Table::new();
    let seat = table.open();
    table.calls();
    for (offset, what) in [
        (REGION_SIZE, "just beyond"),
        ((1 << 40) - 1, "the end of the index"),
        (1 << 40, "a region that is not there"),
        (2 << 40, "a region that is only written"),
        (4 << 40, "no region"),
        (u64::MAX, "the last byte there is"),
        (1 << 63, "a negative offset"),
    ] {
        assert_eq!(seat.file.serve_read(&seat.client, offset, 4), Err(Errno::EINVAL), "{what}");
    }
    assert_eq!(seat.file.serve_write(&seat.client, 3 << 40, &[0]), Err(Errno::EINVAL), "a region that is only read");
    assert_eq!(seat.file.serve_write(&seat.client, REGION_SIZE, &[0]), Err(Errno::EINVAL));
    assert_eq!(table.calls(), [""; 0]);
}

#[test]
fn eventfds_are_set_for_the_interrupts_that_are_meant() {
    let table = Table::new();
    let seat = table.open();
    seat.client.install(20, Descriptor::Event(EventFd::new().unwrap()));
    let fds = [20i32.to_ne_bytes(), (-1i32).to_ne_bytes(), 20i32.to_ne_bytes()].concat();
    seat.set_irqs(EVENTFD | TRIGGER, 0, 1, 3, &fds).unwrap();
    let change = seat.last_irqs();
    assert_eq!((change.index, change.start, events(&change)), (0, 1, vec![true, false, true]));
}

#[test]
fn every_kind_of_data_and_action_reaches_the_device() {
    let table = Table::new();
    let seat = table.open();
    for (flag, action) in [(MASK, IrqAction::Mask), (UNMASK, IrqAction::Unmask), (TRIGGER, IrqAction::Trigger)] {
        seat.set_irqs(NONE | flag, 1, 0, 1, &[]).unwrap();
        let change = seat.last_irqs();
        assert!(change.action == action && matches!(change.data, IrqData::None(1)), "{change:?}");
        seat.set_irqs(BOOL | flag, 1, 0, 1, &[2]).unwrap();
        let change = seat.last_irqs();
        assert!(change.action == action && matches!(&change.data, IrqData::Bool(which) if *which == [true]));
    }
    seat.client.install(20, Descriptor::Event(EventFd::new().unwrap()));
    seat.set_irqs(EVENTFD | UNMASK, 1, 0, 1, &20i32.to_ne_bytes()).unwrap();
    let change = seat.last_irqs();
    assert!(
        change.action == IrqAction::Unmask && matches!(&change.data, IrqData::EventFd(events) if events.len() == 1)
    );
    seat.set_irqs(NONE | TRIGGER, 0, 0, 0, &[]).unwrap();
    assert!(matches!(seat.last_irqs().data, IrqData::None(0)), "which takes the index down");
}

#[test]
fn a_malformed_change_of_interrupts_is_einval() {
    let table = Table::new();
    let seat = table.open();
    for (flags, index, start, count, what) in [
        (TRIGGER, 0, 0, 1, "no data"),
        (NONE, 0, 0, 1, "no action"),
        (NONE | BOOL | TRIGGER, 0, 0, 1, "two kinds of data"),
        (NONE | MASK | TRIGGER, 1, 0, 1, "two actions"),
        (NONE | TRIGGER | 64, 0, 0, 1, "an unknown flag"),
        (NONE | TRIGGER, 3, 0, 1, "no such index"),
        (NONE | TRIGGER, 2, 0, 0, "an index of no interrupts"),
        (NONE | TRIGGER, 0, 4, 0, "beginning beyond the end"),
        (NONE | TRIGGER, 0, 0, 5, "more than there are"),
        (NONE | TRIGGER, 0, 3, 2, "ending beyond the end"),
        (NONE | TRIGGER, 0, 1, u32::MAX, "wrapping around"),
        (NONE | TRIGGER, 0, u32::MAX, 1, "wrapping around from the end"),
        (BOOL | TRIGGER, 0, 0, 4, "data that is not there"),
        (EVENTFD | TRIGGER, 0, 0, 4, "descriptors that are not there"),
    ] {
        assert_eq!(seat.set_irqs(flags, index, start, count, &[]), Err(Errno::EINVAL), "{what}");
    }
    assert_eq!(seat.set_irqs(NONE | MASK, 0, 0, 1, &[]), Err(Errno::ENOTTY), "an index that cannot be masked");
    assert_eq!(seat.ask(SET_IRQS, &[19, NONE | TRIGGER, 0, 0, 1]), Err(Errno::EINVAL));
    assert_eq!(seat.ask(SET_IRQS, &[23, EVENTFD | TRIGGER, 0, 0, 1, 0]), Err(Errno::EINVAL));
    assert!(table.deeds.lock().irqs.is_empty());
}

#[test]
fn f27_one_descriptor_that_is_no_eventfd_refuses_the_whole_change() {
    let table = Table::new();
    let seat = table.open();
    seat.client.install(20, Descriptor::Event(EventFd::new().unwrap()));
    seat.client.install(21, Descriptor::Other);
    for (fd, errno) in [(21, Errno::EINVAL), (22, Errno::EBADF), (-2, Errno::EBADF), (i32::MIN, Errno::EBADF)] {
        let fds = [20i32.to_ne_bytes(), i32::to_ne_bytes(fd)].concat();
        assert_eq!(seat.set_irqs(EVENTFD | TRIGGER, 0, 0, 2, &fds), Err(errno), "descriptor {fd}");
    }
    assert!(table.deeds.lock().irqs.is_empty());
}

#[test]
fn an_index_that_cannot_be_resized_keeps_its_size_until_it_is_taken_down() {
    let table = Table::new();
    let seat = table.open();
    let none = |count: usize| [(-1i32).to_ne_bytes()].repeat(count).concat();
    seat.set_irqs(EVENTFD | TRIGGER, 0, 0, 2, &none(2)).unwrap();
    seat.set_irqs(EVENTFD | TRIGGER, 0, 1, 1, &none(1)).unwrap();
    assert_eq!(seat.set_irqs(EVENTFD | TRIGGER, 0, 2, 1, &none(1)), Err(Errno::EINVAL));
    seat.set_irqs(NONE | TRIGGER, 0, 0, 0, &[]).unwrap();
    seat.set_irqs(EVENTFD | TRIGGER, 0, 0, 4, &none(4)).unwrap();
}

#[test]
fn a_device_is_reset_where_it_can_be() {
    let table = Table::new();
    let seat = table.open();
    table.calls();
    assert_eq!(seat.call(RESET, 0), Ok(0));
    assert_eq!(table.calls(), ["reset"]);
    seat.close();

    let mut card = Card::new(table.deeds.clone());
    card.resettable = false;
    table.lab.group.set_device(std::sync::Arc::new(card));
    let seat = table.open();
    table.calls();
    assert_eq!(seat.ask(DEVICE_GET_INFO, &[16, 0, 0, 0]).unwrap()[1], 2);
    assert_eq!(seat.call(RESET, 0), Err(Errno::ENOTTY));
    assert_eq!(table.calls(), [""; 0]);
}

#[test]
fn features_are_decoded_before_they_are_looked_for() {
    let table = Table::new();
    let seat = table.open();
    let ask = |argsz, flags| seat.ask(FEATURE, &[argsz, flags]).map(drop);
    assert_eq!(ask(7, GET_FEATURE | 999), Err(Errno::EINVAL));
    assert_eq!(ask(8, 1 << 19 | GET_FEATURE | 999), Err(Errno::EINVAL));
    assert_eq!(ask(8, GET_FEATURE | SET_FEATURE | 999), Err(Errno::EINVAL));
    for asked in [GET_FEATURE, SET_FEATURE, PROBE_FEATURE, PROBE_FEATURE | GET_FEATURE | SET_FEATURE, 0] {
        assert_eq!(ask(8, asked | 999), Err(Errno::ENOTTY), "{asked:#x}");
    }
}

#[test]
fn calls_of_other_types_are_the_drivers_and_unknown_ones_nobodys() {
    let table = Table::new();
    let seat = table.open();
    table.calls();
    assert_eq!(seat.call(0xaf01, 0), Ok(7));
    assert_eq!(table.calls(), ["ioctl 0xaf01"]);
    assert_eq!(seat.call(0x3b90, 0), Err(Errno::ENOTTY));
    for cmd in [0x3b70, 0x3b71, 0x3b72, 0x3b73, 0x3b74] {
        assert_eq!(seat.call(cmd, ARG), Err(Errno::EOPNOTSUPP), "{cmd:#x}");
    }
    assert_eq!(seat.call(BIND, ARG), Err(Errno::EINVAL), "not the device's own node");
    assert_eq!(table.calls(), [""; 0]);
}

#[test]
fn m3_what_changes_the_device_is_for_who_gave_it_its_memory() {
    let table = Table::new();
    let seat = table.open();
    let stranger = FakeClient::new(2);
    table.calls();
    stranger.put(ARG, &[20, NONE | TRIGGER, 0, 0, 0].map(u32::to_ne_bytes).concat());
    assert_eq!(seat.call_of(&stranger, SET_IRQS, ARG), Err(Errno::EPERM));
    for (cmd, arg) in [(RESET, 0), (0xaf01, 0)] {
        assert_eq!(seat.call_of(&stranger, cmd, arg), Err(Errno::EPERM), "{cmd:#x}");
    }
    assert_eq!(seat.file.serve_read(&stranger, 0, 1), Err(Errno::EPERM));
    assert_eq!(seat.file.serve_write(&stranger, 0, &[1]), Err(Errno::EPERM));
    assert_eq!(table.calls(), [""; 0]);
    stranger.put(ARG, &16u32.to_ne_bytes());
    assert_eq!(seat.call_of(&stranger, DEVICE_GET_INFO, ARG), Ok(0), "what it is made of may ask whoever has the file");
}
