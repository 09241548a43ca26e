//! Devices that are bound to a context, and attached to an IOAS of it.

use super::lab::*;
use crate::card::{BIND, Card, DEVICE_GET_INFO, Deeds, RESET};
use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::Arc;
use vfio_container::testing::{Descriptor, FakeClient};
use vfio_container::{CdevNode, DeviceFile, Group};
use virtio_mdev_api::notify::EventFd;

const ATTACH: u32 = 0x3b77;
const DETACH: u32 = 0x3b78;

/// An instance with its nodes.
struct Instance {
    group: Arc<Group>,
    node: CdevNode,
    deeds: Arc<Mutex<Deeds>>,
}

impl Instance {
    fn new(number: u32) -> Self {
        let group = Group::new((1 << 20) + number, format!("uuid{number}"));
        let deeds = Arc::new(Mutex::new(Deeds::default()));
        group.set_device(Arc::new(Card::new(deeds.clone())));
        Self { node: CdevNode::new(group.clone()), group, deeds }
    }

    /// Address and length of what the device sees.
    fn sees(&self) -> Option<Vec<(u64, u64)>> {
        let memory = self.deeds.lock().memory.clone()?;
        Some(memory.regions().iter().map(|region| (region.iova, region.len)).collect())
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.deeds.lock().calls)
    }
}

fn on(lab: &Lab, file: &DeviceFile, cmd: u32, structure: &[u8]) -> Result<(), Errno> {
    lab.client.put(ARG, structure);
    file.serve(&lab.client, &Ioctl { cmd, arg: ARG, input: &[] }).map(drop)
}

fn bind_to(lab: &Lab, file: &DeviceFile, fd: i32) -> Result<u32, Errno> {
    on(lab, file, BIND, &Fields::default().u32(0).u32(fd.cast_unsigned()).u32(0).sized())?;
    Ok(lab.u32_at(ARG + 12))
}

fn bind(lab: &Lab, file: &DeviceFile) -> Result<u32, Errno> {
    bind_to(lab, file, IOMMU_FD)
}

fn attach(lab: &Lab, file: &DeviceFile, pt: u32) -> Result<(), Errno> {
    on(lab, file, ATTACH, &Fields::default().u32(0).u32(pt).sized())
}

fn detach(lab: &Lab, file: &DeviceFile) -> Result<(), Errno> {
    on(lab, file, DETACH, &Fields::default().u32(0).sized())
}

fn close(file: Arc<DeviceFile>) {
    OpenFile::release(&*file);
}

#[test]
fn a_device_is_good_for_nothing_before_it_is_bound() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let file = instance.node.open_file();
    for cmd in [DEVICE_GET_INFO, RESET, ATTACH, DETACH] {
        assert_eq!(on(&lab, &file, cmd, &[0; 24]), Err(Errno::EINVAL), "{cmd:#x}");
    }
    assert_eq!(instance.calls(), [""; 0]);
    let ioas = lab.alloc();
    assert_eq!(bind(&lab, &file), Ok(ioas + 1), "its number is the context's next");
    assert_eq!(on(&lab, &file, RESET, &[]), Ok(()));
    assert_eq!(instance.sees(), None, "bound, not attached");
}

#[test]
fn bind_wants_an_iommufd_and_says_what_is_wrong() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let file = instance.node.open_file();
    lab.client.install(20, Descriptor::Event(EventFd::new().unwrap()));
    lab.client.install(21, Descriptor::Device(file.clone()));
    for (fd, errno) in [(-1, Errno::EINVAL), (50, Errno::EBADF), (20, Errno::EBADFD), (21, Errno::EBADFD)] {
        assert_eq!(bind_to(&lab, &file, fd), Err(errno), "descriptor {fd}");
    }
    let short = [&15u32.to_ne_bytes()[..], &[0; 12]].concat();
    assert_eq!(on(&lab, &file, BIND, &short), Err(Errno::EINVAL));
    let flags = Fields::default().u32(1).u32(IOMMU_FD.cast_unsigned()).u32(0).sized();
    assert_eq!(on(&lab, &file, BIND, &flags), Err(Errno::EINVAL));
    assert!(instance.group.clone().open_file().is_ok(), "no refusal keeps the group");
}

#[test]
fn a_device_is_bound_once_and_not_beside_its_open_group() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let (file, other) = (instance.node.open_file(), instance.node.open_file());
    let group_file = instance.group.clone().open_file().unwrap();
    assert_eq!(bind(&lab, &file), Err(Errno::EBUSY), "the group is open");
    OpenFile::release(&*group_file);
    bind(&lab, &file).unwrap();
    assert_eq!(bind(&lab, &file), Err(Errno::EINVAL), "a second time");
    assert_eq!(bind(&lab, &other), Err(Errno::EINVAL), "by another file");
    assert_eq!(instance.group.clone().open_file().err(), Some(Errno::EBUSY), "the device is bound");
    close(file);
    assert!(instance.group.clone().open_file().is_ok());
}

#[test]
fn an_attached_device_sees_what_is_mapped_and_a_detached_one_nothing() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let file = instance.node.open_file();
    let ioas = lab.alloc();
    bind(&lab, &file).unwrap();
    lab.map(ioas, FIXED | RW, RAM, 0x4000, PAGE).unwrap();
    attach(&lab, &file, ioas).unwrap();
    assert_eq!(instance.sees(), Some(vec![(0x4000, PAGE)]), "what was mapped before");
    lab.map(ioas, FIXED | RW, RAM, 0x8000, PAGE).unwrap();
    assert_eq!(instance.sees(), Some(vec![(0x4000, PAGE), (0x8000, PAGE)]), "and after");
    assert!(instance.group.space_for(&lab.client).is_some(), "the vhost node is given the same");
    assert!(instance.group.space_for(&FakeClient::new(2)).is_none());
    detach(&lab, &file).unwrap();
    assert_eq!(instance.sees(), None);
    assert!(instance.group.space_for(&lab.client).is_none());
    assert_eq!(detach(&lab, &file), Ok(()), "once more does no harm");
    assert_eq!(lab.unmap_all(ioas), 2 * PAGE, "the IOAS has what it had");
}

#[test]
fn an_attach_to_another_ioas_takes_the_place_of_the_first() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let file = instance.node.open_file();
    let (one, two) = (lab.alloc(), lab.alloc());
    let devid = bind(&lab, &file).unwrap();
    lab.map(one, FIXED | RW, RAM, 0x4000, PAGE).unwrap();
    lab.map(two, FIXED | RW, RAM, 0x8000, PAGE).unwrap();
    attach(&lab, &file, one).unwrap();
    attach(&lab, &file, two).unwrap();
    assert_eq!(instance.sees(), Some(vec![(0x8000, PAGE)]));
    lab.destroy(one).unwrap();
    for pt in [one, 0, devid, 99] {
        assert_eq!(attach(&lab, &file, pt), Err(Errno::ENOENT), "object {pt} is no IOAS");
    }
    instance.calls();
    attach(&lab, &file, two).unwrap();
    assert_eq!(instance.calls(), [""; 0], "to where it is: nothing happens");
    assert_eq!(instance.sees(), Some(vec![(0x8000, PAGE)]), "what cannot be attached stays where it is");
}

#[test]
fn a_device_finds_at_a_copy_what_it_finds_at_the_original() {
    let lab = Lab::of(FakeClient::with_stretches(1, 0x2000));
    let instance = Instance::new(0);
    let file = instance.node.open_file();
    let (one, two) = (lab.alloc(), lab.alloc());
    bind(&lab, &file).unwrap();
    attach(&lab, &file, two).unwrap();
    let written: Vec<u8> = (0..0x6000u32).map(|at| at.to_le_bytes()[1]).collect();
    lab.client.put(RAM, &written);
    lab.map(one, FIXED | RW, RAM, 0x10_0000, 0x3000).unwrap();
    lab.map(one, FIXED | RW, RAM + 0x3000, 0x10_3000, 0x3000).unwrap();
    lab.copy(FIXED | RW, (one, 0x10_1000), (two, 0x4000), 0x4000).unwrap();
    lab.unmap_all(one);
    let memory = instance.deeds.lock().memory.clone().unwrap();
    let mut reader = memory.reader("device", Arc::new(|_: &str| {}));
    let mut read = vec![0; 0x4000];
    reader.enter().view().read(0x4000, &mut read).unwrap();
    assert!(read == written[0x1000..0x5000], "a part of each mapping, in the order of addresses");
    reader.enter().view().write(0x4000, b"device").unwrap();
    assert_eq!(lab.client.get(RAM + 0x1000, 6), b"device");
}

#[test]
fn a_device_without_pasids_says_so() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let file = instance.node.open_file();
    let ioas = lab.alloc();
    bind(&lab, &file).unwrap();
    let with = |flags| Fields::default().u32(flags).u32(ioas).u32(7).sized();
    for cmd in [ATTACH, DETACH] {
        assert_eq!(on(&lab, &file, cmd, &with(1)), Err(Errno::EOPNOTSUPP), "{cmd:#x}");
        assert_eq!(on(&lab, &file, cmd, &with(2)), Err(Errno::EINVAL), "{cmd:#x}");
        assert_eq!(on(&lab, &file, cmd, &[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Errno::EINVAL), "{cmd:#x}");
    }
}

#[test]
fn objects_in_use_are_not_destroyed() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let file = instance.node.open_file();
    let ioas = lab.alloc();
    let devid = bind(&lab, &file).unwrap();
    attach(&lab, &file, ioas).unwrap();
    assert_eq!(lab.destroy(ioas), Err(Errno::EBUSY), "attached");
    assert_eq!(lab.destroy(devid), Err(Errno::EBUSY), "a device goes with its file");
    assert_eq!(lab.map(devid, RW, RAM, 0, PAGE), Err(Errno::ENOENT), "and is no IOAS");
    detach(&lab, &file).unwrap();
    assert_eq!(lab.destroy(ioas), Ok(()));
    close(file);
    assert_eq!(lab.destroy(devid), Err(Errno::ENOENT));
}

#[test]
fn files_may_be_closed_in_any_order() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    for device_first in [true, false] {
        let client = FakeClient::new(1);
        let lab = Lab { file: lab.node.open_file(&client).unwrap(), node: lab.node.clone(), client };
        lab.client.install(IOMMU_FD, Descriptor::Device(lab.file.clone()));
        let file = instance.node.open_file();
        let ioas = lab.alloc();
        bind(&lab, &file).unwrap();
        lab.map(ioas, FIXED | RW, RAM, 0x4000, PAGE).unwrap();
        attach(&lab, &file, ioas).unwrap();
        if device_first {
            close(file);
            assert_eq!(lab.unmap(ioas, 0x4000, PAGE), Ok(PAGE), "the context does not need the device");
            lab.close();
        } else {
            lab.close();
            assert_eq!(instance.sees(), Some(vec![(0x4000, PAGE)]), "a bound device keeps its context");
            close(file);
        }
        assert_eq!(instance.sees(), None, "device first: {device_first}");
        assert_eq!(lab.client.holders(), 0, "device first: {device_first}");
    }
}

#[test]
fn devices_of_one_ioas_see_the_same_and_leave_it_apart() {
    let lab = Lab::new();
    let instances: Vec<_> = (0..3).map(Instance::new).collect();
    let files: Vec<_> = instances.iter().map(|instance| instance.node.open_file()).collect();
    let ioas = lab.alloc();
    for (at, file) in (2..).zip(&files) {
        assert_eq!(bind(&lab, file), Ok(at));
        attach(&lab, file, ioas).unwrap();
    }
    lab.map(ioas, FIXED | RW, RAM, 0x4000, PAGE).unwrap();
    assert!(instances.iter().all(|instance| instance.sees() == Some(vec![(0x4000, PAGE)])));
    detach(&lab, &files[1]).unwrap();
    assert_eq!(instances[1].sees(), None);
    assert_eq!(instances[2].sees(), Some(vec![(0x4000, PAGE)]));
    assert_eq!(lab.destroy(ioas), Err(Errno::EBUSY));
}

#[test]
fn m3_only_who_bound_the_device_attaches_it() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let file = instance.node.open_file();
    let ioas = lab.alloc();
    bind(&lab, &file).unwrap();
    let foreign = Lab { client: FakeClient::new(2), node: lab.node.clone(), file: lab.file.clone() };
    assert_eq!(attach(&foreign, &file, ioas), Err(Errno::EPERM));
    attach(&lab, &file, ioas).unwrap();
    assert_eq!(detach(&foreign, &file), Err(Errno::EPERM));
    assert_eq!(on(&foreign, &file, RESET, &[]), Err(Errno::EPERM));
    assert_eq!(on(&foreign, &file, DEVICE_GET_INFO, &Fields::default().u32(0).u64(0).u64(0).sized()), Ok(()));
}

#[test]
fn f37_a_removed_instance_loses_its_memory_and_answers_enodev() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    let file = instance.node.open_file();
    let ioas = lab.alloc();
    bind(&lab, &file).unwrap();
    attach(&lab, &file, ioas).unwrap();
    instance.group.remove();
    assert_eq!(instance.sees(), None);
    for cmd in [RESET, ATTACH, DETACH] {
        assert_eq!(on(&lab, &file, cmd, &Fields::default().u32(0).u32(ioas).sized()), Err(Errno::ENODEV), "{cmd:#x}");
    }
    assert_eq!(lab.destroy(ioas), Ok(()), "nothing is attached to it any more");
    assert_eq!(bind(&lab, &instance.node.open_file()), Err(Errno::ENODEV));
}

#[test]
fn a_device_that_is_not_to_be_opened_is_not_bound() {
    let (lab, instance) = (Lab::new(), Instance::new(0));
    instance.deeds.lock().busy = true;
    let file = instance.node.open_file();
    assert_eq!(bind(&lab, &file), Err(Errno::EBUSY));
    instance.deeds.lock().busy = false;
    lab.client.refuse_writes(true);
    assert_eq!(bind(&lab, &file), Err(Errno::EFAULT), "its number cannot be told");
    lab.client.refuse_writes(false);
    assert_eq!(bind(&lab, &file), Ok(1), "no refusal kept a number");
}
