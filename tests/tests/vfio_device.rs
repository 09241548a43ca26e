//! An instance as a VFIO device: the file that `dev/vfio/handle` becomes, with a client that lies or hurries too.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;
use umdev_tests::driver::abi::*;
use umdev_tests::driver::device::{RegionInfo, become_device, empty_handle};
use umdev_tests::driver::{CallResult, Client, Container, Daemon, Device, Group, Options, Vhost, Via, eventually, sys};

const FRAME: [u8; 200] = [0xc3; 200];
const DEVICE: Options = Options { via: Via::Device, ..Options::DEFAULT };
const PATIENCE: Duration = Duration::from_secs(20);
const CONFIG: u64 = 1 << 40;

/// A client of the device file alone, frames passing.
fn client(daemon: &Daemon) -> (String, Client) {
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, DEVICE).unwrap();
    client.exchange(&FRAME).unwrap();
    (uuid, client)
}

/// Group, container and device of an instance, nothing started.
fn bare(daemon: &Daemon, uuid: &str) -> (Device, Group, Container) {
    let (container, group) = (Container::open(daemon.root()).unwrap(), Group::open(daemon.root(), uuid).unwrap());
    group.set_container(&container).unwrap();
    container.set_iommu().unwrap();
    (Device::of(daemon.root(), &group, uuid).unwrap(), group, container)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: CallResult<T>) -> Errno {
    let error = result.expect_err("to be refused");
    error.errno().unwrap_or_else(|| panic!("no errno: {error}"))
}

fn event() -> EventFd {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap()
}

#[test]
fn a_client_of_vhost_mdev_moves_frames_by_the_device_file_alone() {
    let daemon = Daemon::start();
    let (uuid, mut client) = client(&daemon);
    assert_eq!(daemon.attribute(&uuid, "state"), "running");
    for at in 0..1000u16 {
        client.exchange(&at.to_le_bytes().repeat(usize::from(at % 200 + 10))).unwrap();
    }
    client.restart().unwrap();
    client.exchange(&FRAME).unwrap();
    drop(client);
    daemon.wait_for(&uuid, "state", "idle");
}

#[test]
fn what_the_device_is_made_of_is_told() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (device, _group, _container) = bare(&daemon, &uuid);
    assert_eq!(device.info(), Ok([VFIO_DEVICE_FLAGS_PLATFORM | VFIO_DEVICE_FLAGS_RESET, 2, 2]));
    let doorbells = device.region(0).unwrap();
    assert_eq!((doorbells.size, doorbells.offset), (2 * 4096, 0));
    let config = Vhost(device.0.try_clone().unwrap()).config(0, 8).unwrap();
    let RegionInfo { flags, size, offset } = device.region(1).unwrap();
    assert_eq!((flags, offset), (3, CONFIG));
    assert_eq!(device.read(offset, 8), Ok(config));
    assert_eq!(device.read(offset, 4096).unwrap().len(), usize::try_from(size).unwrap());
    assert_eq!(device.irq(0), Ok([VFIO_IRQ_INFO_EVENTFD, 2]));
    assert_eq!(device.irq(1), Ok([VFIO_IRQ_INFO_EVENTFD, 1]));
    assert_eq!(refused(device.region(2)), Errno::EINVAL);
    assert_eq!(refused(device.irq(2)), Errno::EINVAL);
}

#[test]
fn frames_pass_with_doorbells_and_interrupts_of_vfio_and_no_eventfd_of_vhost() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let mut client = Client::open(daemon.root(), &uuid, DEVICE).unwrap();
    let device = client.device().unwrap();
    client.negotiate().unwrap();
    for ring in [&client.rx, &client.tx] {
        let (desc, avail, used) = ring.addresses();
        client.vhost.set_vring_num(ring.index, u32::from(ring.size)).unwrap();
        client.vhost.set_vring_addr(ring.index, desc, avail, used).unwrap();
        client.vhost.set_vring_enable(ring.index, true).unwrap();
    }
    let calls = [&client.rx, &client.tx].map(|ring| ring.call.as_fd().as_raw_fd());
    device.set_events(0, &calls).unwrap();
    client.vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK).unwrap();
    client.offer_receive_buffers().unwrap();
    device.kick(0).unwrap();
    for _ in 0..50 {
        client.queue(&FRAME);
        device.kick(1).unwrap();
        client.tx.wait(PATIENCE, "the frame to be used").unwrap();
        client.receive(PATIENCE).unwrap();
        device.kick(0).unwrap();
    }
    // The driver looks at its rings now and then: that an interrupt comes is seen by the eventfd.
    let irq = event();
    device.set_events(0, &[irq.as_fd().as_raw_fd()]).unwrap();
    client.queue(&FRAME);
    device.kick(1).unwrap();
    assert!(eventually(PATIENCE, || irq.read().is_ok()));
}

#[test]
fn an_interrupt_can_be_tried_and_taken_away() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (device, _group, _container) = bare(&daemon, &uuid);
    let irq = event();
    device.set_events(1, &[irq.as_fd().as_raw_fd()]).unwrap();
    device.set_irqs(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 1, 0, 1, &[]).unwrap();
    assert_eq!(irq.read(), Ok(1));
    device.set_irqs(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 1, 0, 0, &[]).unwrap();
    device.set_irqs(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 1, 0, 1, &[]).unwrap();
    assert_eq!(irq.read(), Err(Errno::EAGAIN));
    // A device that is told to interrupt nobody else keeps no descriptor.
    let before = daemon.open_fds();
    device.set_events(1, &[irq.as_fd().as_raw_fd()]).unwrap();
    device.set_events(1, &[-1]).unwrap();
    assert!(eventually(PATIENCE, || daemon.open_fds() <= before));
}

#[test]
fn a_reset_of_the_device_stops_it_and_it_can_begin_again() {
    let daemon = Daemon::start();
    let (uuid, mut client) = client(&daemon);
    client.device().unwrap().reset().unwrap();
    assert_eq!(client.vhost.status(), Ok(0));
    assert_eq!(daemon.attribute(&uuid, "state"), "open");
    client.restart().unwrap();
    client.exchange(&FRAME).unwrap();
}

#[test]
fn the_group_and_its_container_live_until_the_device_is_closed() {
    let daemon = Daemon::start();
    let (uuid, mut client) = client(&daemon);
    let (group, _) = client.vfio.as_ref().unwrap();
    assert_eq!(sys::ioctl_value(group, VFIO_GROUP_UNSET_CONTAINER, 0), Err(Errno::EBUSY));
    drop(client.vfio.take());
    client.exchange(&FRAME).unwrap();
    assert_eq!(refused(Group::open(daemon.root(), &uuid)), Errno::EBUSY);
    drop(client);
    Group::open(daemon.root(), &uuid).unwrap();
    daemon.wait_for(&uuid, "state", "idle");
}

#[test]
fn b4_closing_a_device_and_what_it_kept_busy_are_one() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    for _ in 0..100 {
        let (device, group, container) = bare(&daemon, &uuid);
        Vhost(device.0.try_clone().unwrap()).set_owner().unwrap();
        drop(device);
        let unset = sys::ioctl_value(&group, VFIO_GROUP_UNSET_CONTAINER, 0);
        assert_eq!(unset, Ok(0), "the device was closed before");
        group.set_container(&container).unwrap();
        container.set_iommu().unwrap();
        let device = Device::of(daemon.root(), &group, &uuid).unwrap();
        // In the wrong order: the group is held by the device, whose close is the last.
        drop((group, container, device));
        drop(Vhost::open(daemon.root(), &uuid).unwrap());
    }
}

#[test]
fn f30_the_vhost_file_and_the_device_file_exclude_each_other() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let vhost = Vhost::open(daemon.root(), &uuid).unwrap();
    let (device, _group, _container) = bare(&daemon, &uuid);
    let on_device = Vhost(device.0.try_clone().unwrap());
    assert_eq!(refused(on_device.set_owner()), Errno::EBUSY);
    drop(vhost);
    on_device.set_owner().unwrap();
    assert_eq!(refused(Vhost::open(daemon.root(), &uuid)), Errno::EBUSY);
    drop((device, on_device));
    Vhost::open(daemon.root(), &uuid).unwrap();
}

#[test]
fn f30_two_files_of_a_device_are_one_device() {
    let daemon = Daemon::start();
    let (uuid, mut client) = client(&daemon);
    let second = Device::of(daemon.root(), &client.vfio.as_ref().unwrap().0, &uuid).unwrap();
    assert_eq!(second.info(), client.device().unwrap().info());
    assert_eq!(refused(Vhost(second.0.try_clone().unwrap()).set_owner()), Errno::EBUSY);
    drop(second);
    client.exchange(&FRAME).unwrap();
}

#[test]
fn a_handle_asks_for_what_get_device_fd_asks_for() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let other = daemon.create();
    let (container, group) = (Container::open(daemon.root()).unwrap(), Group::open(daemon.root(), &uuid).unwrap());
    let handle = empty_handle(daemon.root()).unwrap();
    let fd = group.as_fd().as_raw_fd();
    let ask = |fd, name: &str| become_device(&handle, fd, name.as_bytes());
    assert_eq!(refused(ask(fd, &uuid)), Errno::EINVAL, "no container");
    group.set_container(&container).unwrap();
    assert_eq!(refused(ask(fd, &uuid)), Errno::EINVAL, "no IOMMU");
    container.set_iommu().unwrap();
    let null = File::open("/dev/null").unwrap();
    assert_eq!(refused(ask(fd, &other)), Errno::ENODEV, "a device of another group");
    assert_eq!(refused(ask(fd, "")), Errno::ENODEV);
    assert_eq!(refused(ask(-1, &uuid)), Errno::EBADF);
    assert_eq!(refused(ask(999, &uuid)), Errno::EBADF);
    assert_eq!(refused(ask(null.as_raw_fd(), &uuid)), Errno::EINVAL);
    assert_eq!(refused(ask(container.as_fd().as_raw_fd(), &uuid)), Errno::EINVAL);
    assert_eq!(refused(ask(handle.as_raw_fd(), &uuid)), Errno::EINVAL, "the handle itself");
    assert_eq!(refused(become_device(&handle, fd, &[b'u'; 64])), Errno::EINVAL, "a name without an end");
    assert_eq!(refused(Device(handle.try_clone().unwrap()).info()), Errno::ENOTTY, "an empty handle is no device");
    assert_eq!(refused(Device(handle.try_clone().unwrap()).read(0, 4)), Errno::EINVAL);
    ask(fd, &uuid).unwrap();
    assert!(Device(handle).info().is_ok());
}

#[test]
fn a_direct_get_device_fd_is_refused_with_the_way_out() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (_device, group, _container) = bare(&daemon, &uuid);
    let mut name = [uuid.as_bytes(), &[0]].concat();
    assert_eq!(sys::ioctl(&group, VFIO_GROUP_GET_DEVICE_FD, &mut name), Err(Errno::EOPNOTSUPP));
}

#[test]
fn the_devices_own_node_is_good_for_nothing_before_it_is_bound() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let node = std::fs::read_dir(daemon.instance_dir(&uuid).join("vfio-dev")).unwrap().next().unwrap().unwrap();
    let path = daemon.path("dev/vfio/devices").join(node.file_name());
    let device = Device(File::options().read(true).write(true).open(path).unwrap());
    assert_eq!(refused(device.info()), Errno::EINVAL);
    assert_eq!(refused(device.reset()), Errno::EINVAL);
    assert_eq!(refused(device.read(CONFIG, 4)), Errno::EINVAL);
    assert_eq!(refused(Vhost(device.0.try_clone().unwrap()).set_owner()), Errno::EINVAL);
    assert_eq!(sys::ioctl_value(&device, 0x3b99, 0), Err(Errno::EINVAL));
}

#[test]
fn f27_only_eventfds_are_interrupts_and_one_bad_one_changes_nothing() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let device = client.device().unwrap();
    let (good, null) = (event(), File::open("/dev/null").unwrap());
    let (pipe, _pipe) = nix::unistd::pipe().unwrap();
    let own = device.as_fd().as_raw_fd();
    device.set_events(1, &[good.as_fd().as_raw_fd()]).unwrap();
    for (fd, errno) in [
        (null.as_raw_fd(), Errno::EINVAL),
        (pipe.as_raw_fd(), Errno::EINVAL),
        (own, Errno::EINVAL),
        (999, Errno::EBADF),
        (-2, Errno::EBADF),
        (i32::MIN, Errno::EBADF),
    ] {
        assert_eq!(refused(device.set_events(1, &[fd])), errno, "descriptor {fd}");
        assert_eq!(refused(device.set_events(0, &[good.as_fd().as_raw_fd(), fd])), errno, "descriptor {fd}");
    }
    device.set_irqs(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 1, 0, 1, &[]).unwrap();
    assert_eq!(good.read(), Ok(1), "the configuration interrupt is as it was");
    client.exchange(&FRAME).unwrap();
    assert_eq!(good.read(), Err(Errno::EAGAIN), "and no queue has the good one of a bad pair");
}

#[test]
fn f27_an_interrupt_that_is_full_and_blocks_holds_up_nobody() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let (_, mut bystander) = self::client(&daemon);
    let full = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    full.write(u64::MAX - 1).unwrap();
    let device = client.device().unwrap();
    device.set_events(0, &[full.as_fd().as_raw_fd(); 2]).unwrap();
    for ring in [0, 1] {
        client.vhost.set_vring_fd_number(VHOST_SET_VRING_CALL, ring, -1).unwrap();
    }
    device.set_irqs(VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, 2, &[1, 1]).unwrap();
    client.exchange(&FRAME).unwrap();
    bystander.exchange(&FRAME).unwrap();
}

#[test]
fn lies_about_sizes_and_ranges_are_einval_and_nothing_is_written_beyond() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (device, _group, _container) = bare(&daemon, &uuid);
    for (cmd, short) in [(VFIO_DEVICE_GET_INFO, 15), (VFIO_DEVICE_GET_REGION_INFO, 31), (VFIO_DEVICE_GET_IRQ_INFO, 15)]
    {
        for argsz in [0, 1, short] {
            let mut words = vec![7; 8];
            (words[0], words[2]) = (argsz, 0);
            assert_eq!(refused(device.ask("a short one", cmd, &words)), Errno::EINVAL, "{cmd:#x} of {argsz}");
        }
        // At the end of a page that nothing follows.
        assert_eq!(sys::ioctl_value(&device, cmd, 8), Err(Errno::EFAULT));
    }
    assert_eq!(device.ask("GET_INFO", VFIO_DEVICE_GET_INFO, &[u32::MAX, 7, 7, 7, 7, 7, 7]).unwrap()[4..], [0, 0, 7]);
    let trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
    for (flags, start, count) in [
        (VFIO_IRQ_SET_DATA_NONE | trigger, 1, u32::MAX),
        (VFIO_IRQ_SET_DATA_NONE | trigger, u32::MAX, 1),
        (VFIO_IRQ_SET_DATA_BOOL | trigger, 0, u32::MAX),
        (VFIO_IRQ_SET_DATA_EVENTFD | trigger, 0, 0x4000_0000),
        (VFIO_IRQ_SET_DATA_EVENTFD | trigger, 0, 2),
        (VFIO_IRQ_SET_DATA_NONE, 0, 1),
        (trigger, 0, 1),
    ] {
        assert_eq!(refused(device.set_irqs(flags, 0, start, count, &[])), Errno::EINVAL, "{flags:#x} {start} {count}");
    }
    let mask = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK;
    assert_eq!(refused(device.set_irqs(mask, 0, 0, 1, &[])), Errno::ENOTTY, "which no interrupt here can be");
    for offset in [2 * 4096, CONFIG - 1, CONFIG + 4096, 2 << 40, i64::MAX.cast_unsigned()] {
        assert_eq!(refused(device.write(offset, &[0])), Errno::EINVAL, "{offset:#x}");
    }
    assert_eq!(refused(device.read(0, 4)), Errno::EINVAL, "doorbells are not read");
    assert_eq!(sys::ioctl_value(&device, VFIO_DEVICE_IOEVENTFD, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(sys::ioctl_value(&device, 0x3b99, 0), Err(Errno::ENOTTY));
}

#[test]
fn m3_a_process_that_inherits_the_device_file_changes_nothing() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let device = client.device().unwrap();
    fcntl(&device, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let number = device.as_fd().as_raw_fd().to_string();
    let said = Command::new(env!("CARGO_BIN_EXE_umdev-caller")).args(["device", &number]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said.matches(" EPERM").count(), 7, "{said}");
    assert!(said.trim().ends_with("; info told"), "{said}");
    client.exchange(&FRAME).unwrap();
}

#[test]
fn a_device_file_kept_after_its_instance_was_removed_answers_enodev() {
    let daemon = Daemon::start();
    let (uuid, client) = client(&daemon);
    let busy = daemon.remove(&uuid, "1").unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY), "the device is in use");
    daemon.remove(&uuid, "force").unwrap();
    let device = client.device().unwrap();
    assert_eq!(refused(device.info()), Errno::ENODEV);
    assert_eq!(refused(device.reset()), Errno::ENODEV);
    assert_eq!(refused(device.kick(0)), Errno::ENODEV);
    assert_eq!(refused(device.read(CONFIG, 1)), Errno::ENODEV);
    assert_eq!(refused(client.vhost.status()), Errno::ENODEV);
    drop(client);
    // The next one has the number of the last, and nothing else of it.
    let (_, mut next) = self::client(&daemon);
    next.exchange(&FRAME).unwrap();
}

#[test]
fn a_device_file_kept_after_its_driver_was_unbound_is_gone_and_a_new_binding_begins_anew() {
    let daemon = Daemon::start();
    let (uuid, client) = client(&daemon);
    let driver = daemon.path("sys/bus/mdev/drivers/vhost_mdev");
    std::fs::write(driver.join("unbind"), &uuid).unwrap();
    let device = client.device().unwrap();
    assert_eq!(refused(device.info()), Errno::ENODEV);
    assert_eq!(refused(device.kick(0)), Errno::ENODEV);
    let (group, container) = client.vfio.as_ref().unwrap();
    assert_eq!(refused(Device::of(daemon.root(), group, &uuid)), Errno::ENODEV);
    assert_eq!(refused(container.map(0, 0x1000, client.memory.address())), Errno::EINVAL, "nobody has the memory");
    std::fs::write(driver.join("bind"), &uuid).unwrap();
    let mut next = Client::start(daemon.root(), &uuid, DEVICE).unwrap();
    next.exchange(&FRAME).unwrap();
    // The late close of what was there before harms nothing.
    drop((device, client));
    next.exchange(&FRAME).unwrap();
}

#[test]
fn a_device_file_is_a_holder_and_is_told_by_name() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (device, _group, _container) = bare(&daemon, &uuid);
    assert_eq!(daemon.attribute(&uuid, "state"), "open");
    daemon.remove(&uuid, "1").unwrap_err();
    let reason = daemon.attribute(&uuid, "last_error");
    assert!(reason.contains(&format!("process {}", std::process::id())), "{reason}");
    drop(device);
    daemon.wait_for(&uuid, "state", "idle");
    daemon.remove(&uuid, "1").unwrap();
}

#[test]
fn calls_of_a_device_file_are_traced() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (answer, mut fds) = daemon.ask(&serde_json::json!({ "op": "trace", "uuid": uuid }));
    assert_eq!(answer["ok"], true, "{answer}");
    let mut lines = std::io::BufReader::new(File::from(fds.pop().unwrap())).lines();
    let (device, _group, _container) = bare(&daemon, &uuid);
    device.info().unwrap();
    device.read(CONFIG + 2, 4).unwrap();
    let mut next = |call: &str| loop {
        let line = lines.next().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if line["call"] == call {
            return line;
        }
    };
    let became = next("UMDEV_HANDLE_GET_DEVICE");
    assert_eq!((&became["file"], &became["args"]["name"]), (&"handle".into(), &uuid.as_str().into()));
    assert_eq!(next("VFIO_DEVICE_GET_INFO")["file"], "device");
    let read = next("read");
    assert_eq!((&read["args"]["region"], &read["args"]["offset"], &read["result"]), (&1.into(), &2.into(), &4.into()));
}

#[test]
fn f29_devices_opened_and_closed_however_often_leave_nothing_behind() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (_first, group, _container) = bare(&daemon, &uuid);
    let turn = || {
        let device = Device::of(daemon.root(), &group, &uuid).unwrap();
        let irq = event();
        device.set_events(1, &[irq.as_fd().as_raw_fd()]).unwrap();
        assert!(empty_handle(daemon.root()).is_ok());
    };
    (0..50).for_each(|_| turn());
    let before = daemon.open_fds();
    (0..500).for_each(|_| turn());
    let settled = eventually(PATIENCE, || daemon.open_fds() <= before + 2);
    assert!(settled, "{before} descriptors before, {} after", daemon.open_fds());
}

#[test]
fn a_killed_client_of_a_device_file_frees_its_instance() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let program = env!("CARGO_BIN_EXE_umdev-caller");
    let root = daemon.root().to_str().unwrap();
    let mut child = Command::new(program).args(["device-holder", root, &uuid]).spawn().unwrap();
    daemon.wait_for(&uuid, "state", "running");
    child.kill().unwrap();
    child.wait().unwrap();
    daemon.wait_for(&uuid, "state", "idle");
    let mut client = Client::start(daemon.root(), &uuid, DEVICE).unwrap();
    client.exchange(&FRAME).unwrap();
}
