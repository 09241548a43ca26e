//! The same call again and again: nothing is left behind, neither of one that works nor of one that is refused.

use super::*;
use std::time::Duration;

/// How often each call is made.
const TIMES: u32 = if cfg!(feature = "full") { 20_000 } else { 1_200 };
/// How often the calls are made that take hold of most: a descriptor, and memory.
const MANY_TIMES: u32 = if cfg!(feature = "full") { 1_000_000 } else { 10_000 };
const WARM_UP: u32 = 2_000;
const SPACE: u64 = 1 << 40;

/// A call, its refusals included.
type Deed<'a> = (&'static str, Box<dyn Fn() + 'a>);

/// Descriptors, mappings and resident KiB of the daemon.
fn figures(daemon: &Daemon) -> (usize, usize, u64) {
    (daemon.open_fds(), daemon.mappings(), daemon.figure("VmRSS"))
}

/// Makes each call so many times and looks at the daemon before and after.
fn leaves_nothing(daemon: &Daemon, times: u32, deeds: &[Deed<'_>]) {
    for (what, deed) in deeds {
        // What is kept once, such as the allocator's room of a thread that serves now, is kept now.
        (0..WARM_UP).for_each(|_| deed());
        let before = figures(daemon);
        (0..times).for_each(|_| deed());
        // Threads come and go, each with a few mappings and pages. What a table
        // needs at most for a moment is megabytes; of a million calls nine bytes each are more than this.
        let limit = (before.0 + 2, before.1 + 40, before.2 + 8192);
        let settled = eventually(Duration::from_secs(20), || {
            let now = figures(daemon);
            now.0 <= limit.0 && now.1 <= limit.1 && now.2 <= limit.2
        });
        assert!(settled, "{what}, {times} times: {before:?} before, {:?} after", figures(daemon));
    }
}

#[test]
fn f29_calls_of_the_vhost_file_leave_nothing_behind() {
    let daemon = Daemon::start();
    let (_, client) = client(&daemon);
    let (vhost, event) = (&client.vhost, client.rx.call.as_fd().as_raw_fd());
    let null = File::open("/dev/null").unwrap();
    let (desc, avail, used) = client.rx.addresses();
    let notifier = |name, cmd| -> Deed<'_> {
        let null = &null;
        let deed = move || {
            vhost.set_vring_fd_number(cmd, 0, event).unwrap();
            assert_eq!(refused(vhost.set_vring_fd(cmd, 0, null)), Errno::EINVAL);
            assert_eq!(refused(vhost.set_vring_fd_number(cmd, 0, 9999)), Errno::EBADF);
        };
        (name, Box::new(deed))
    };
    let deeds = [
        notifier("SET_VRING_CALL", VHOST_SET_VRING_CALL),
        notifier("SET_VRING_KICK", VHOST_SET_VRING_KICK),
        notifier("SET_VRING_ERR", VHOST_SET_VRING_ERR),
        ("SET_LOG_FD", Box::new(|| vhost.set_log_fd(event).unwrap())),
        ("SET_CONFIG_CALL", Box::new(|| vhost.set_config_call(event).unwrap())),
        ("GET_CONFIG", Box::new(|| drop(vhost.config(0, 8).unwrap()))),
        ("GET_CONFIG, too much", Box::new(|| drop(vhost.config(0, 4000).unwrap_err()))),
        ("SET_OWNER, again", Box::new(|| drop(vhost.set_owner().unwrap_err()))),
        ("SET_FEATURES, too late", Box::new(|| drop(vhost.set_features(0).unwrap_err()))),
        ("SET_VRING_ADDR, running", Box::new(|| drop(vhost.set_vring_addr(0, desc, avail, used).unwrap_err()))),
        ("an unknown call", Box::new(|| assert!(sys::ioctl(vhost, 0xaf99, &mut []).is_err()))),
        ("a bad address", Box::new(|| assert!(sys::ioctl_value(vhost, VHOST_SET_VRING_CALL, 8).is_err()))),
    ];
    leaves_nothing(&daemon, TIMES, &deeds);
}

/// Each alone, because a million calls take minutes.
#[test]
fn f29_a_descriptor_taken_however_often_leaves_nothing_behind() {
    let daemon = Daemon::start();
    let (_, client) = client(&daemon);
    let event = client.rx.call.as_fd().as_raw_fd();
    let take = || client.vhost.set_vring_fd_number(VHOST_SET_VRING_CALL, 0, event).unwrap();
    leaves_nothing(&daemon, MANY_TIMES, &[("SET_VRING_CALL", Box::new(take))]);
}

#[test]
fn f29_memory_mapped_however_often_leaves_nothing_behind() {
    let daemon = Daemon::start();
    let (_, client) = client(&daemon);
    let (_, container) = client.vfio.as_ref().unwrap();
    let map = || {
        container.map(SPACE, PAGE, client.memory.address()).unwrap();
        container.unmap(SPACE, PAGE).unwrap();
    };
    leaves_nothing(&daemon, MANY_TIMES, &[("MAP_DMA and UNMAP_DMA", Box::new(map))]);
}

#[test]
fn f29_logs_groups_and_misses_leave_nothing_behind() {
    let daemon = Daemon::start();
    let client = Client::start(daemon.root(), &daemon.create_of("loopback-net-cvq"), IOTLB).unwrap();
    let vhost = &client.vhost;
    let asids = VHOST_BACKEND_F_IOTLB_MSG_V2 | VHOST_BACKEND_F_IOTLB_ASID;
    let shared = Memory::of_size(4096).unwrap();
    let private = Map::private(NonZeroUsize::new(4096).unwrap()).unwrap();
    let features = VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM;
    let log = |address: u64| {
        vhost.set_log_base(address).unwrap();
        vhost.set_features(features | VHOST_F_LOG_ALL).unwrap();
        vhost.set_features(features).unwrap();
    };
    let bind = |asid| vhost.vring_state("SET_GROUP_ASID", VHOST_VDPA_SET_GROUP_ASID, 1, asid);
    fcntl(vhost, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).unwrap();
    let deeds: [Deed<'_>; 6] = [
        ("a log in a memfd", Box::new(|| log(shared.address()))),
        ("a log in private memory", Box::new(|| log(private.address()))),
        ("a log nowhere", Box::new(|| drop(vhost.set_log_base(1 << 46).unwrap_err()))),
        ("SET_BACKEND_FEATURES", Box::new(|| vhost.set_backend_features(asids).unwrap())),
        ("SET_GROUP_ASID, running", Box::new(|| drop(bind(1).unwrap_err()))),
        ("a read without a MISS", Box::new(|| assert!(nix::unistd::read(vhost, &mut [0; 72]).is_err()))),
    ];
    leaves_nothing(&daemon, TIMES, &deeds);
}

#[test]
fn f29_starts_and_stops_leave_nothing_behind() {
    let daemon = Daemon::start();
    let (_, client) = client(&daemon);
    let vhost = &client.vhost;
    let deeds: [Deed<'_>; 2] = [
        (
            "SUSPEND and RESUME",
            Box::new(|| {
                vhost.suspend().unwrap();
                vhost.resume().unwrap();
            }),
        ),
        (
            "reset and start",
            Box::new(|| {
                vhost.set_status(0).unwrap();
                client.negotiate().unwrap();
                client.program(&client.rx).unwrap();
                client.program(&client.tx).unwrap();
                vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK).unwrap();
            }),
        ),
    ];
    leaves_nothing(&daemon, TIMES, &deeds);
}

#[test]
fn f29_maps_and_unmaps_leave_nothing_behind() {
    let daemon = Daemon::start();
    let (_, client) = client(&daemon);
    let (_, container) = client.vfio.as_ref().unwrap();
    let (size, address) = (client.memory.size(), client.memory.address());
    let private = Map::private(NonZeroUsize::new(0x1_0000).unwrap()).unwrap();
    let both = |address: u64, size: u64| {
        container.map(SPACE, size, address).unwrap();
        assert_eq!(container.unmap(SPACE, size).unwrap(), size);
    };
    let deeds: [Deed<'_>; 4] = [
        ("MAP_DMA and UNMAP_DMA of a memfd", Box::new(|| both(address, size))),
        ("MAP_DMA and UNMAP_DMA of private memory", Box::new(|| both(private.address(), 0x1_0000))),
        ("MAP_DMA of what is mapped", Box::new(|| drop(container.map(IOVA, size, address).unwrap_err()))),
        ("MAP_DMA of nothing", Box::new(|| drop(container.map(SPACE, PAGE, 1 << 46).unwrap_err()))),
    ];
    leaves_nothing(&daemon, TIMES, &deeds);
}

#[test]
fn f29_iotlb_messages_leave_nothing_behind() {
    let daemon = Daemon::start();
    let client = Client::start(daemon.root(), &daemon.create(), IOTLB).unwrap();
    let (vhost, size, address) = (&client.vhost, client.memory.size(), client.memory.address());
    let deeds: [Deed<'_>; 2] = [
        (
            "UPDATE and INVALIDATE",
            Box::new(|| {
                vhost.iotlb_update(SPACE, size, address).unwrap();
                vhost.iotlb_invalidate(SPACE, size).unwrap();
            }),
        ),
        ("UPDATE of what is mapped", Box::new(|| drop(vhost.iotlb_update(IOVA, size, address).unwrap_err()))),
    ];
    leaves_nothing(&daemon, TIMES, &deeds);
}

#[test]
fn f29_opens_and_attachments_leave_nothing_behind() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let group = Group::open(daemon.root(), &daemon.create()).unwrap();
    let deeds: [Deed<'_>; 2] = [
        ("open and close", Box::new(|| drop(Vhost::open(daemon.root(), &uuid).unwrap()))),
        (
            "SET_CONTAINER, SET_IOMMU and UNSET_CONTAINER",
            Box::new(|| {
                let container = Container::open(daemon.root()).unwrap();
                group.set_container(&container).unwrap();
                container.set_iommu().unwrap();
                sys::ioctl_value(&group, VFIO_GROUP_UNSET_CONTAINER, 0).unwrap();
            }),
        ),
    ];
    leaves_nothing(&daemon, TIMES, &deeds);
}
