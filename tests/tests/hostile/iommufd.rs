//! `dev/iommu` and devices bound to it, by clients that want too much or leave in the wrong order.

use super::*;
use std::time::Duration;
use umdev_tests::driver::Device;
use umdev_tests::driver::iommufd::Iommufd;

const FAR: u64 = 1 << 40;

/// A device bound and attached, frames passing in the memory of an IOAS.
struct Attached {
    uuid: String,
    iommufd: Iommufd,
    ioas: u32,
    devid: u32,
    device: Device,
    client: Client,
}

fn attached(daemon: &Daemon) -> Attached {
    let uuid = daemon.create();
    let (iommufd, memory) = (Iommufd::open(daemon.root()).unwrap(), Memory::new().unwrap());
    let ioas = iommufd.alloc().unwrap();
    let device = Device::by_cdev(daemon.root(), &uuid).unwrap();
    let devid = device.bind(&iommufd).unwrap();
    device.attach(ioas).unwrap();
    iommufd.map(ioas, Some(memory.first()), memory.size(), memory.address()).unwrap();
    let mut client = Client::on(Vhost(device.0.try_clone().unwrap()), memory).unwrap();
    client.run().unwrap();
    client.exchange(&FRAME).unwrap();
    Attached { uuid, iommufd, ioas, devid, device, client }
}

/// One of what the daemon tells of itself.
fn figure(daemon: &Daemon, name: &str) -> u64 {
    let (stats, _) = daemon.ask(&serde_json::json!({ "op": "stats" }));
    stats[name].as_u64().unwrap_or_else(|| panic!("{name} in {stats}"))
}

#[test]
fn f31_an_ioas_of_65535_maps_gets_enospc_and_leaves_room_for_its_neighbour() {
    let mut daemon = Daemon::start();
    let Attached { iommufd, ioas, mut client, .. } = attached(&daemon);
    let pages = client.memory.size() / PAGE;
    let mut made = 1_u64;
    let errno = loop {
        // Every other page, so that no two of them can be one mapping.
        let address = client.memory.address() + (made * 2 % pages) * PAGE;
        match iommufd.map(ioas, Some(FAR + made * PAGE), PAGE, address) {
            Ok(_) => made += 1,
            Err(error) => break error.errno(),
        }
        assert!(made <= 65_535);
    };
    assert_eq!((made, errno), (65_535, Some(Errno::ENOSPC)));
    client.exchange(&FRAME).unwrap();
    let mut neighbour = attached(&daemon);
    neighbour.client.exchange(&FRAME).unwrap();
    let second = iommufd.alloc().unwrap();
    assert_eq!(iommufd.copy(ioas, FAR + PAGE, 9 * PAGE, second).unwrap() % PAGE, 0, "nor is the context full");
    assert_eq!(iommufd.unmap(ioas, FAR, FAR).unwrap(), (made - 1) * PAGE);
    iommufd.map(ioas, None, PAGE, client.memory.address()).unwrap();
    client.exchange(&FRAME).unwrap();
    assert!(daemon.is_alive());
}

#[test]
fn f32_memory_that_is_unmapped_or_detached_is_out_of_the_devices_reach() {
    let daemon = Daemon::start();
    let mut unmapped = attached(&daemon);
    let size = unmapped.client.memory.size();
    assert_eq!(refused(unmapped.iommufd.unmap(unmapped.ioas, IOVA, PAGE)), Errno::ENOENT, "a part");
    unmapped.client.exchange(&FRAME).unwrap();
    assert_eq!(unmapped.iommufd.unmap(unmapped.ioas, 0, u64::MAX).unwrap(), size);
    unmapped.client.queue(&FRAME);
    unmapped.client.tx.notify().unwrap();
    assert!(unmapped.client.receive(Duration::from_millis(100)).is_err(), "there is no ring to look into");
    unmapped.iommufd.map(unmapped.ioas, Some(IOVA), size, unmapped.client.memory.address()).unwrap();
    unmapped.client.restart().unwrap();
    unmapped.client.exchange(&FRAME).unwrap();

    let detached = attached(&daemon);
    detached.device.detach().unwrap();
    daemon.wait_for(&detached.uuid, "state", "needs_reset");
    let mut neighbour = attached(&daemon);
    neighbour.client.exchange(&FRAME).unwrap();
}

#[test]
fn objects_in_use_outlive_their_file_and_go_with_the_last_who_uses_them() {
    let daemon = Daemon::start();
    let mut first = None;
    for _ in 0..4 {
        let Attached { uuid, iommufd, ioas, devid, device, mut client } = attached(&daemon);
        assert_eq!(refused(iommufd.destroy(ioas)), Errno::EBUSY);
        assert_eq!(refused(iommufd.destroy(devid)), Errno::EBUSY);
        assert_eq!(refused(device.attach(devid)), Errno::ENOENT);
        drop(iommufd);
        client.exchange(&FRAME).unwrap();
        drop(client);
        drop(device);
        daemon.wait_for(&uuid, "state", "idle");
        daemon.remove(&uuid, "1").unwrap();
        let gone = eventually(Duration::from_secs(10), || figure(&daemon, "windows") == 0);
        assert!(gone, "{} windows into clients", figure(&daemon, "windows"));
        let fds = *first.get_or_insert_with(|| daemon.open_fds());
        assert!(eventually(Duration::from_secs(10), || daemon.open_fds() <= fds), "{} descriptors", daemon.open_fds());
    }
}

#[test]
fn a_group_and_a_bound_device_exclude_each_other() {
    let daemon = Daemon::start();
    let Attached { uuid, device, client, .. } = attached(&daemon);
    assert_eq!(refused(Group::open(daemon.root(), &uuid)), Errno::EBUSY);
    let second = Device::by_cdev(daemon.root(), &uuid).unwrap();
    let iommufd = Iommufd::open(daemon.root()).unwrap();
    assert_eq!(refused(second.bind(&iommufd)), Errno::EINVAL);
    drop((client, device));
    let group = Group::open(daemon.root(), &uuid).unwrap();
    assert_eq!(refused(second.bind(&iommufd)), Errno::EBUSY);
    drop(group);
    second.bind(&iommufd).unwrap();
}

#[test]
fn m3_a_process_that_inherits_an_iommufd_and_a_device_changes_nothing() {
    let daemon = Daemon::start();
    let Attached { iommufd, device, ioas, mut client, .. } = attached(&daemon);
    for file in [&iommufd.0, &device.0] {
        fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let number = |file: &File| file.as_raw_fd().to_string();
    let said = caller(&["foreign", &number(&iommufd.0), &number(&device.0), &ioas.to_string()]);
    assert_eq!(said, "EPERM EPERM EPERM EPERM EPERM EPERM");
    client.exchange(&FRAME).unwrap();
}

#[test]
fn m1_a_memory_file_is_mapped_as_its_descriptor_was_opened() {
    let daemon = Daemon::start();
    let Attached { iommufd, ioas, .. } = attached(&daemon);
    let memory = Memory::new().unwrap();
    let size = memory.size();
    let reopened =
        |options: &OpenOptions| options.open(format!("/proc/self/fd/{}", memory.file().as_raw_fd())).unwrap();
    let read_only = reopened(OpenOptions::new().read(true));
    // The daemon has a window of it that can be written.
    iommufd.map_file(ioas, memory.file(), size, true).unwrap();
    assert_eq!(refused(iommufd.map_file(ioas, &read_only, size, true)), Errno::EACCES);
    iommufd.map_file(ioas, &read_only, size, false).unwrap();
    let write_only = reopened(OpenOptions::new().write(true));
    assert_eq!(refused(iommufd.map_file(ioas, &write_only, size, false)), Errno::EACCES);
    let path_only = reopened(OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()));
    assert_eq!(refused(iommufd.map_file(ioas, &path_only, size, false)), Errno::EBADF);

    let sealed = Memory::new().unwrap();
    let sealed_file = sealed.file().try_clone().unwrap();
    drop(sealed);
    fcntl(&sealed_file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
    assert_eq!(refused(iommufd.map_file(ioas, &sealed_file, size, true)), Errno::EPERM);
    let on_disk = tempfile::tempfile_in("/var/tmp").unwrap();
    on_disk.set_len(size).unwrap();
    for file in [on_disk.as_fd(), daemon_file(&daemon).as_fd(), iommufd.as_fd()] {
        assert_eq!(refused(iommufd.map_file(ioas, file, size, false)), Errno::EINVAL);
    }
}

fn daemon_file(daemon: &Daemon) -> File {
    File::open(daemon.path("sys/class/mdev_bus/loopback0/last_error")).unwrap()
}

#[test]
fn f29_maps_by_the_thousand_leave_nothing_behind() {
    let daemon = Daemon::start();
    let Attached { iommufd, ioas, mut client, .. } = attached(&daemon);
    let address = client.memory.address();
    let round = || {
        let at = iommufd.map(ioas, None, PAGE, address).unwrap();
        assert_eq!(iommufd.unmap(ioas, at, PAGE).unwrap(), PAGE);
    };
    (0..1000).for_each(|_| round());
    let (memory, windows) = (daemon.figure("VmRSS"), figure(&daemon, "windows"));
    (0..5_000).for_each(|_| round());
    assert_eq!(figure(&daemon, "windows"), windows);
    assert!(daemon.figure("VmRSS") < memory + 4096, "{} KiB, {memory} before", daemon.figure("VmRSS"));
    client.exchange(&FRAME).unwrap();
}
