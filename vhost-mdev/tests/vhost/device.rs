//! A virtio instance as a VFIO device.

use crate::lab::*;
use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vfio_container::testing::{Descriptor, FakeClient};
use vfio_container::{ContainerFile, DeviceFile, GroupFile, HandleFile};
use vhost_mdev::VirtioDevice;
use virtio_mdev_api::notify::EventFd;

const GROUP: i32 = 30;
pub const IRQ: i32 = 31;
const DEVICE_GET_INFO: u32 = 0x3b6b;
const GET_REGION_INFO: u32 = 0x3b6c;
const GET_IRQ_INFO: u32 = 0x3b6d;
const SET_IRQS: u32 = 0x3b6e;
const RESET: u32 = 0x3b6f;
const CONFIG: u64 = 1 << 40;
const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const TRIGGER: u32 = 32;

/// A client of the device file alone.
pub struct Desk {
    pub lab: Lab,
    pub container: Arc<ContainerFile>,
    group: Arc<GroupFile>,
    pub device: Arc<DeviceFile>,
    irq: EventFd,
}

impl Desk {
    pub fn new() -> Self {
        let lab = Lab::unowned(Kind::default());
        lab.file.release();
        Self::at(lab)
    }

    /// With the vhost node open or not.
    pub fn at(lab: Lab) -> Self {
        lab.group.set_device(Arc::new(VirtioDevice::new(lab.node.clone())));
        let (container, group) = lab.attach();
        let irq = EventFd::new().unwrap();
        lab.client.install(GROUP, Descriptor::Device(group.clone()));
        lab.client.install(IRQ, Descriptor::Event(irq.clone()));
        let device = open(&lab);
        Self { lab, container, group, device, irq }
    }

    pub fn call(&self, cmd: u32, input: &[u8]) -> Result<Vec<u8>, Errno> {
        self.device.serve(&self.lab.client, &Ioctl { cmd, arg: ARG, input }).map(|reply| reply.output)
    }

    fn ask(&self, cmd: u32, words: &[u32]) -> Result<Vec<u32>, Errno> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.lab.client.put(ARG, &bytes);
        self.call(cmd, &[])?;
        let after = self.lab.client.get(ARG, bytes.len());
        Ok(after.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect())
    }

    pub fn set_irq(&self, index: u32, start: u32, fd: i32) -> Result<(), Errno> {
        self.ask(SET_IRQS, &[24, EVENTFD | TRIGGER, index, start, 1, fd.cast_unsigned()]).map(drop)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.device.serve_write(&self.lab.client, offset, data)
    }

    /// In the order of vhost-mdev's clients.
    pub fn start(&self) {
        self.call(SET_OWNER, &[]).unwrap();
        self.call(SET_FEATURES, &virtio_mdev_api::features::REQUIRED.to_ne_bytes()).unwrap();
        for index in 0..QUEUES {
            self.call(SET_VRING_ENABLE, &pair(index, 1)).unwrap();
        }
        self.call(SET_STATUS, &[0xf]).unwrap();
    }

    pub fn interrupts(&self) -> u64 {
        self.irq.drain().unwrap().unwrap_or(0)
    }
}

fn open(lab: &Lab) -> Arc<DeviceFile> {
    let handle = HandleFile::default();
    let mut input = vec![0; 72];
    input[..4].copy_from_slice(&GROUP.to_ne_bytes());
    input[8..12].copy_from_slice(b"test");
    handle.serve(&lab.client, &Ioctl { cmd: 0x4048_5510, arg: 0, input: &input }).unwrap();
    handle.device().unwrap()
}

#[test]
fn it_is_a_platform_device_of_doorbells_configuration_and_interrupts() {
    let desk = Desk::new();
    assert_eq!(desk.ask(DEVICE_GET_INFO, &[24, 0, 0, 0, 9, 9]), Ok(vec![24, 4 | 1, 2, 2, 0, 0]));
    let region = |index| desk.ask(GET_REGION_INFO, &[32, 0, index, 0, 0, 0, 0, 0]);
    assert_eq!(region(0), Ok(vec![32, 2, 0, 0, QUEUES * 4096, 0, 0, 0]));
    assert_eq!(region(1), Ok(vec![32, 3, 1, 0, 12, 0, 0, 1 << 8]));
    assert_eq!(desk.ask(GET_IRQ_INFO, &[16, 0, 0, 0]), Ok(vec![16, 1, 0, QUEUES]));
    assert_eq!(desk.ask(GET_IRQ_INFO, &[16, 0, 1, 0]), Ok(vec![16, 1, 1, 1]));
}

#[test]
fn configuration_space_is_a_region() {
    let desk = Desk::new();
    assert_eq!(desk.device.serve_read(&desk.lab.client, CONFIG + 2, 4), Ok(vec![2, 3, 4, 5]));
    assert_eq!(desk.write(CONFIG + 10, &[7, 7, 7]), Ok(2));
    assert_eq!(desk.device.serve_read(&desk.lab.client, CONFIG + 8, 100), Ok(vec![8, 9, 7, 7]));
}

#[test]
fn a_client_of_the_device_file_alone_runs_on_the_mappings_of_its_container() {
    let desk = Desk::new();
    desk.lab.map_in(&desk.container, 0x7000, 0x1000);
    desk.start();
    assert_eq!(desk.lab.running(), 2);
    assert_eq!(desk.lab.regions(), [(0x7000, 0x1000)]);
}

#[test]
fn f30_the_first_vhost_call_takes_the_place_of_the_vhost_node() {
    let desk = Desk::new();
    let node = desk.lab.node.open_file(&desk.lab.client).unwrap();
    assert_eq!(desk.call(GET_FEATURES, &[]), Err(Errno::EBUSY), "the node is open");
    node.release();
    assert!(desk.call(GET_FEATURES, &[]).is_ok());
    assert_eq!(desk.lab.node.open_file(&desk.lab.client).err(), Some(Errno::EBUSY));
    let second = open(&desk.lab);
    desk.device.release();
    assert_eq!(desk.lab.node.open_file(&desk.lab.client).err(), Some(Errno::EBUSY), "a device file is open");
    second.release();
    assert!(desk.lab.node.open_file(&desk.lab.client).is_ok());
}

#[test]
fn the_driver_hears_of_every_file() {
    let desk = Desk::new();
    assert_eq!(desk.lab.opens.load(Ordering::SeqCst), 1);
    desk.call(SET_OWNER, &[]).unwrap();
    desk.device.release();
    assert_eq!(desk.lab.opens.load(Ordering::SeqCst), 0);
}

#[test]
fn a_closed_device_file_resets_the_device_and_takes_its_memory_first() {
    let desk = Desk::new();
    desk.lab.map_in(&desk.container, 0x7000, 0x1000);
    desk.start();
    let space = desk.lab.queue_space();
    desk.lab.calls();
    desk.group.release();
    assert_eq!((desk.lab.running(), space.regions().len()), (2, 1), "the device keeps the group");
    desk.device.release();
    assert_eq!(desk.lab.calls(), ["stop 0", "stop 1", "reset"]);
    assert_eq!(desk.lab.running(), 0);
    assert!(space.regions().is_empty());
    assert!(desk.lab.group.clone().open_file().is_ok());
}

#[test]
fn a_doorbell_kicks_its_queue() {
    let desk = Desk::new();
    desk.start();
    let kick = |index| desk.lab.seen.lock().running[&index].kick.clone();
    assert!(kick(1).is_none());
    desk.lab.calls();
    assert_eq!(desk.write(4096, &1u16.to_le_bytes()), Ok(2));
    assert_eq!(desk.lab.calls(), ["kick 1 true"], "a queue without a kick was given one");
    assert_eq!(desk.write(4096 + 4000, &[1]), Ok(1));
    assert_eq!(desk.lab.calls(), [""; 0]);

    let theirs = EventFd::new().unwrap();
    desk.lab.client.install(KICK, Descriptor::Event(theirs.clone()));
    desk.call(SET_VRING_KICK, &pair(0, KICK.cast_unsigned())).unwrap();
    assert_eq!(desk.write(4094, &[0; 4]), Ok(4), "two pages, two doorbells");
    assert_eq!(theirs.drain(), Ok(Some(1)), "the client's own kick is rung");
    assert_eq!(desk.write(2 * 4096, &[0]), Err(Errno::EINVAL));
    assert_eq!(desk.device.serve_read(&desk.lab.client, 0, 4), Err(Errno::EINVAL));
}

#[test]
fn a_doorbell_of_a_queue_that_does_not_run_is_nothing() {
    let desk = Desk::new();
    desk.lab.calls();
    assert_eq!(desk.write(0, &[0; 2]), Ok(2));
    assert_eq!(desk.lab.calls(), [""; 0]);
}

#[test]
fn interrupts_of_vfio_are_raised_where_no_call_is_set_and_outlive_resets() {
    let desk = Desk::new();
    desk.set_irq(0, 1, IRQ).unwrap();
    desk.start();
    let raise = |index: u16| desk.lab.seen.lock().running[&index].call.signal().unwrap();
    raise(1);
    assert_eq!(desk.interrupts(), 1);
    raise(0);
    assert_eq!(desk.interrupts(), 0, "nobody asked for those of queue 0");

    let call = EventFd::new().unwrap();
    desk.lab.client.install(KICK, Descriptor::Event(call.clone()));
    desk.call(SET_VRING_CALL, &pair(1, KICK.cast_unsigned())).unwrap();
    raise(1);
    assert_eq!((desk.interrupts(), call.drain()), (0, Ok(Some(1))));
    desk.call(SET_VRING_CALL, &pair(1, u32::MAX)).unwrap();
    raise(1);
    assert_eq!(desk.interrupts(), 1);

    desk.call(RESET, &[]).unwrap();
    desk.call(SET_FEATURES, &virtio_mdev_api::features::REQUIRED.to_ne_bytes()).unwrap();
    desk.call(SET_VRING_ENABLE, &pair(1, 1)).unwrap();
    desk.call(SET_STATUS, &[0xf]).unwrap();
    raise(1);
    assert_eq!(desk.interrupts(), 1);
    desk.set_irq(0, 1, -1).unwrap();
    raise(1);
    assert_eq!(desk.interrupts(), 0);
}

#[test]
fn a_configuration_change_is_an_interrupt() {
    let desk = Desk::new();
    desk.set_irq(1, 0, IRQ).unwrap();
    desk.lab.session.link().config_changed();
    assert_eq!(desk.interrupts(), 1);
    desk.ask(SET_IRQS, &[20, NONE | TRIGGER, 1, 0, 0]).unwrap();
    desk.lab.session.link().config_changed();
    assert_eq!(desk.interrupts(), 0, "the index was taken down");
}

#[test]
fn interrupts_can_be_tried() {
    let desk = Desk::new();
    desk.set_irq(0, 0, IRQ).unwrap();
    desk.set_irq(1, 0, IRQ).unwrap();
    desk.ask(SET_IRQS, &[20, NONE | TRIGGER, 0, 0, 2]).unwrap();
    assert_eq!(desk.interrupts(), 1);
    desk.ask(SET_IRQS, &[22, BOOL | TRIGGER, 0, 0, 2, 0x0100]).unwrap();
    assert_eq!(desk.interrupts(), 0, "queue 1 was meant");
    desk.ask(SET_IRQS, &[21, BOOL | TRIGGER, 1, 0, 1, 1]).unwrap();
    assert_eq!(desk.interrupts(), 1);
    desk.ask(SET_IRQS, &[20, NONE | TRIGGER, 0, 0, 0]).unwrap();
    desk.ask(SET_IRQS, &[20, NONE | TRIGGER, 0, 0, 1]).unwrap();
    assert_eq!(desk.interrupts(), 0, "the index was taken down");
}

#[test]
fn interrupts_of_a_closed_file_are_nobodys() {
    let desk = Desk::new();
    desk.set_irq(1, 0, IRQ).unwrap();
    desk.device.release();
    desk.lab.session.link().config_changed();
    assert_eq!(desk.interrupts(), 0);
}

#[test]
fn a_reset_is_one_of_the_session() {
    let desk = Desk::new();
    desk.start();
    desk.lab.calls();
    desk.call(RESET, &[]).unwrap();
    assert_eq!(desk.lab.calls(), ["stop 0", "stop 1", "reset"]);
    assert_eq!(desk.call(GET_STATUS, &[]), Ok(vec![0]));
    // As after a status of 0, the device has no memory of the container.
    desk.start_again();
    assert_eq!(desk.lab.running(), 2);
}

impl Desk {
    fn start_again(&self) {
        self.call(SET_FEATURES, &virtio_mdev_api::features::REQUIRED.to_ne_bytes()).unwrap();
        for index in 0..QUEUES {
            self.call(SET_VRING_ENABLE, &pair(index, 1)).unwrap();
        }
        self.call(SET_STATUS, &[0xf]).unwrap();
    }
}

#[test]
fn vhost_calls_of_a_stranger_who_inherited_the_file_are_refused() {
    let desk = Desk::new();
    let stranger = FakeClient::new(2);
    for cmd in [SET_OWNER, GET_FEATURES] {
        let call = Ioctl { cmd, arg: ARG, input: &[] };
        assert_eq!(desk.device.serve(&stranger, &call), Err(Errno::EPERM), "{cmd:#x}");
    }
    assert!(desk.lab.node.open_file(&stranger).is_ok(), "the place of the node was not taken");
}

#[test]
fn a_removed_instance_is_gone_for_the_device_file_too() {
    let desk = Desk::new();
    desk.lab.map_in(&desk.container, 0x7000, 0x1000);
    desk.start();
    let space = desk.lab.queue_space();
    desk.lab.node.revoke();
    desk.lab.group.remove();
    assert_eq!(desk.lab.running(), 0);
    assert!(space.regions().is_empty());
    assert_eq!(desk.call(GET_FEATURES, &[]), Err(Errno::ENODEV));
    assert_eq!(desk.call(RESET, &[]), Err(Errno::ENODEV));
    desk.device.release();
    assert_eq!(desk.lab.opens.load(Ordering::SeqCst), 0);
}

#[test]
fn a_call_of_no_known_type_is_enotty() {
    let desk = Desk::new();
    assert_eq!(desk.call(0x5401, &[]), Err(Errno::ENOTTY));
    assert_eq!(desk.call(0xaf99, &[]), Err(Errno::ENOTTY));
}

#[test]
fn f38_device_files_that_come_and_go_while_all_else_happens_leave_nothing() {
    let desk = Desk::new();
    desk.lab.map_in(&desk.container, 0x7000, 0x1000);
    let space = desk.lab.group.space_for(&desk.lab.client).unwrap();
    let client = desk.lab.client.thread();
    client.put(ARG, &[24, EVENTFD | TRIGGER, 0, 0, 1, IRQ.cast_unsigned()].map(u32::to_ne_bytes).concat());
    let features = virtio_mdev_api::features::REQUIRED.to_ne_bytes();
    let done = AtomicBool::new(false);
    let Desk { lab, group, device, .. } = desk;
    std::thread::scope(|scope| {
        let on = |cmd, input: Vec<u8>| {
            let (device, lab, done) = (device.clone(), &lab, &done);
            scope.spawn(move || {
                let mut last = false;
                while !last {
                    // One more after the removal.
                    last = done.load(Ordering::Acquire);
                    let call = Ioctl { cmd, arg: ARG, input: &input };
                    let answer = device.serve(&lab.client, &call);
                    let known = [Errno::EBUSY, Errno::EPERM, Errno::ENODEV, Errno::EBADF, Errno::EFAULT, Errno::EINVAL];
                    assert!(answer.is_ok() || answer.is_err_and(|errno| known.contains(&errno)), "{cmd:#x}");
                }
            });
        };
        on(SET_IRQS, Vec::new());
        on(RESET, Vec::new());
        on(SET_OWNER, Vec::new());
        on(SET_FEATURES, features.to_vec());
        on(SET_VRING_ENABLE, pair(0, 1));
        on(SET_STATUS, vec![0xf]);
        for _ in 0..100 {
            let second = open(&lab);
            let _ = second.serve_write(&lab.client, 0, &[0; 2]);
            let _ = second.serve_read(&lab.client, CONFIG, 4);
            second.release();
        }
        lab.node.revoke();
        lab.group.remove();
        assert!(space.regions().is_empty(), "the memory went with the instance");
        assert_eq!(lab.running(), 0);
        done.store(true, Ordering::Release);
    });
    assert_eq!(lab.running(), 0, "and stays away");
    device.release();
    group.release();
    assert_eq!(lab.opens.load(Ordering::SeqCst), 0);
}

#[test]
fn f38_a_device_file_closed_in_the_middle_of_a_call_is_let_go_of_after_it() {
    let desk = Desk::new();
    desk.lab.client.put(ARG, &[24, EVENTFD | TRIGGER, 1, 0, 1, IRQ.cast_unsigned()].map(u32::to_ne_bytes).concat());
    for round in 0..200 {
        let device = open(&desk.lab);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let call = Ioctl { cmd: SET_IRQS, arg: ARG, input: &[] };
                let answer = device.serve(&desk.lab.client, &call);
                assert!(answer.is_ok() || answer == Err(Errno::EBADF), "{answer:?}");
            });
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            device.release();
        });
    }
    desk.device.release();
    desk.lab.session.link().config_changed();
    assert_eq!(desk.interrupts(), 0, "no call that came late left its interrupt");
    assert_eq!(desk.lab.opens.load(Ordering::SeqCst), 0);
}
