//! Callers that lie, hurry, or have no business here: each gets the kernel's errno, and harms itself alone.

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, FdFlag, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags};
use std::fs::{self, File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use umdev_tests::driver::abi::*;
use umdev_tests::driver::memory::{IOVA, SIZE};
use umdev_tests::driver::sys::{self, Map};
use umdev_tests::driver::{
    CallResult, Client, Container, Daemon, Descriptor, Group, Memory, Options, Ring, Vhost, Via, eventually,
};

const FRAME: [u8; 200] = [0xc3; 200];
const IOTLB: Options = Options { via: Via::Iotlb, features: 0, queue_size: 256, private: false };
const PRIVATE: Options = Options { via: Via::Container, private: true, ..IOTLB };
const PAGE: u64 = 4096;

fn client(daemon: &Daemon) -> (String, Client) {
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    client.exchange(&FRAME).unwrap();
    (uuid, client)
}

/// The errno of a refusal.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: CallResult<T>) -> Errno {
    let error = result.expect_err("to be refused");
    error.errno().unwrap_or_else(|| panic!("no errno: {error}"))
}

fn caller(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_umdev-caller")).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.trim().to_owned()
}

mod control {
    use super::*;

    #[test]
    fn f23_rings_stand_still_while_the_driver_runs() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let (desc, avail, used) = client.tx.addresses();
        assert_eq!(refused(client.vhost.set_vring_addr(1, desc, avail, used)), Errno::EINVAL);
        assert_eq!(refused(client.vhost.set_vring_num(1, 64)), Errno::EBUSY);
        assert!(matches!(refused(client.vhost.set_vring_base(1, 0)), Errno::EINVAL | Errno::EBUSY));
        client.exchange(&FRAME).unwrap();
    }

    #[test]
    fn f23_a_queue_that_is_not_there_is_enobufs() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let vhost = Vhost::open(daemon.root(), &uuid).unwrap();
        vhost.set_owner().unwrap();
        for index in [2, 3, 1 << 16, u32::MAX] {
            assert_eq!(refused(vhost.set_vring_num(index, 64)), Errno::ENOBUFS);
            assert_eq!(refused(vhost.set_vring_addr(index, 0, 0, 0)), Errno::ENOBUFS);
            assert_eq!(refused(vhost.set_vring_base(index, 0)), Errno::ENOBUFS);
            assert_eq!(refused(vhost.vring_base(index)), Errno::ENOBUFS);
            assert_eq!(refused(vhost.set_vring_enable(index, true)), Errno::ENOBUFS);
            assert_eq!(refused(vhost.set_vring_fd_number(VHOST_SET_VRING_CALL, index, -1)), Errno::ENOBUFS);
        }
    }

    #[test]
    fn f23_vring_calls_need_an_owner() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let vhost = Vhost::open(daemon.root(), &uuid).unwrap();
        assert_eq!(refused(vhost.set_vring_num(0, 64)), Errno::EPERM);
        assert_eq!(refused(vhost.set_vring_enable(0, true)), Errno::EPERM);
        vhost.features().unwrap();
        vhost.set_owner().unwrap();
        vhost.set_vring_num(0, 64).unwrap();
        assert_eq!(refused(vhost.set_owner()), Errno::EBUSY);
    }

    #[test]
    fn f23_kick_and_call_may_change_at_any_time() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let mut client = Client::open(daemon.root(), &uuid, Options::default()).unwrap();
        client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 0, &client.rx.call).unwrap();
        client.vhost.set_vring_fd(VHOST_SET_VRING_KICK, 0, &client.rx.kick).unwrap();
        client.run().unwrap();
        for _ in 0..50 {
            let fresh = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
            (client.tx.kick, client.tx.call) = (fresh(), fresh());
            client.vhost.set_vring_fd(VHOST_SET_VRING_KICK, 1, &client.tx.kick).unwrap();
            client.vhost.set_vring_fd_number(VHOST_SET_VRING_CALL, 1, -1).unwrap();
            client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 1, &client.tx.call).unwrap();
            client.exchange(&FRAME).unwrap();
        }
    }

    #[test]
    fn f24_only_legal_steps_of_the_status_byte_are_taken() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let vhost = Vhost::open(daemon.root(), &uuid).unwrap();
        vhost.set_owner().unwrap();
        let walk = |from: &[u8], then: u8| {
            vhost.set_status(0).unwrap();
            from.iter().for_each(|step| vhost.set_status(*step).unwrap());
            let before = vhost.status().unwrap();
            let errno = refused(vhost.set_status(then));
            assert_eq!(vhost.status().unwrap(), before, "a refused status changes nothing");
            errno
        };
        assert_eq!(walk(&[ACKNOWLEDGE, 3], ACKNOWLEDGE), Errno::EINVAL);
        assert_eq!(walk(&[ACKNOWLEDGE, 3], DRIVER), Errno::EINVAL);
        assert_eq!(walk(&[3], 3 | DRIVER_OK), Errno::EINVAL);
        assert_eq!(walk(&[3], 3 | NEEDS_RESET), Errno::EINVAL);
        assert_eq!(walk(&[3], 3 | 0x10), Errno::EINVAL);
        assert_eq!(walk(&[3], 3 | 0x20), Errno::EINVAL);
        // FAILED is the driver's to set, and ends in a reset.
        vhost.set_status(3 | FAILED).unwrap();
        vhost.set_status(0).unwrap();
        assert_eq!(vhost.status().unwrap(), 0);
    }

    #[test]
    fn f24_the_orders_of_real_clients_are_legal() {
        let daemon = Daemon::start();
        for steps in [&[0xf][..], &[0x8, 0xc], &[0x1, 0x3, 0xb, 0xf]] {
            let uuid = daemon.create();
            let client = Client::open(daemon.root(), &uuid, Options::default()).unwrap();
            client.vhost.set_features(client.vhost.features().unwrap() & (3 << 32)).unwrap();
            client.program(&client.rx).unwrap();
            client.program(&client.tx).unwrap();
            for step in steps {
                client.vhost.set_status(*step).unwrap();
                assert_eq!(client.vhost.status().unwrap(), *step);
            }
        }
    }

    #[test]
    fn f25_features_are_a_subset_of_the_offer_and_fixed_after_features_ok() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let offered = client.vhost.features().unwrap();
        assert_eq!(refused(client.vhost.set_features(offered)), Errno::EBUSY);
        client.vhost.set_status(0).unwrap();
        for bit in (0..64).filter(|bit| offered & 1 << bit == 0) {
            assert_eq!(refused(client.vhost.set_features(offered | 1 << bit)), Errno::EINVAL, "bit {bit}");
        }
        client.restart().unwrap();
        client.exchange(&FRAME).unwrap();
    }

    #[test]
    fn f26_config_ranges_that_are_empty_or_reach_beyond_are_einval() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let vhost = Vhost::open(daemon.root(), &uuid).unwrap();
        let mut size = [0; 4];
        sys::ioctl(&vhost, VHOST_VDPA_GET_CONFIG_SIZE, &mut size).unwrap();
        let size = u32::from_le_bytes(size);
        assert_eq!(vhost.config(0, size).unwrap().len(), usize::try_from(size).unwrap());
        let ranges =
            [(0, 0), (size, 1), (size + 1, 1), (0, size + 1), (4, u32::MAX), (u32::MAX, 8), (u32::MAX, u32::MAX)];
        for (offset, len) in ranges {
            let mut argument = umdev_tests::driver::config_argument(offset, len);
            argument.resize(64, 0);
            for cmd in [VHOST_VDPA_GET_CONFIG, VHOST_VDPA_SET_CONFIG] {
                assert_eq!(sys::ioctl(&vhost, cmd, &mut argument), Err(Errno::EINVAL), "{len} at {offset}");
            }
        }
    }

    #[test]
    fn an_address_that_is_nothing_is_efault() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        for address in [0, 8, 1 << 46, u64::MAX - 4095] {
            for cmd in [VHOST_GET_FEATURES, VHOST_VDPA_GET_CONFIG, VHOST_VDPA_SET_CONFIG, VHOST_SET_VRING_NUM] {
                assert_eq!(sys::ioctl_value(&client.vhost, cmd, address), Err(Errno::EFAULT), "{cmd:#x} {address:#x}");
            }
            let (group, container) = client.vfio.as_ref().unwrap();
            assert_eq!(sys::ioctl_value(container, VFIO_IOMMU_MAP_DMA, address), Err(Errno::EFAULT));
            assert_eq!(sys::ioctl_value(group, VFIO_GROUP_GET_STATUS, address), Err(Errno::EFAULT));
        }
        client.exchange(&FRAME).unwrap();
    }

    #[test]
    fn unknown_calls_are_enotty() {
        let daemon = Daemon::start();
        let (_, client) = client(&daemon);
        for cmd in [0xaf99, 0x8008_af99, 0x5401, 0x3b64] {
            assert_eq!(sys::ioctl(&client.vhost, cmd, &mut [0; 256]), Err(Errno::ENOTTY), "{cmd:#x}");
        }
        let (_, container) = client.vfio.as_ref().unwrap();
        assert_eq!(sys::ioctl(container, 0x3bff, &mut [0; 256]), Err(Errno::ENOTTY));
        assert_eq!(sys::ioctl(container, 0xaf01, &mut [0; 256]), Err(Errno::ENOTTY));
    }
}

mod descriptors {
    use super::*;

    #[test]
    fn f27_only_eventfds_become_kick_call_and_err() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let path_only = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open("/dev/null").unwrap();
        let (pipe, _pipe) = nix::unistd::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let name = daemon.type_dir("loopback-net").join("name");
        let own_attribute = File::open(name).unwrap();
        let own_container = Container::open(daemon.root()).unwrap();
        let table: [(&str, BorrowedFd<'_>, Errno); 7] = [
            ("O_PATH", path_only.as_fd(), Errno::EBADF),
            ("pipe", pipe.as_fd(), Errno::EINVAL),
            ("/dev/null", null.as_fd(), Errno::EINVAL),
            ("memfd", client.memory.file().as_fd(), Errno::EINVAL),
            ("an attribute of ours", own_attribute.as_fd(), Errno::EINVAL),
            ("a container of ours", own_container.as_fd(), Errno::EINVAL),
            ("the vhost file itself", client.vhost.as_fd(), Errno::EINVAL),
        ];
        for cmd in [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR] {
            for (what, fd, errno) in &table {
                assert_eq!(refused(client.vhost.set_vring_fd(cmd, 0, fd)), *errno, "{what} for {cmd:#x}");
            }
            for number in [-2, 999, i32::MAX, i32::MIN] {
                assert_eq!(refused(client.vhost.set_vring_fd_number(cmd, 0, number)), Errno::EBADF, "{number}");
            }
        }
        client.exchange(&FRAME).unwrap();
        client.vhost.set_vring_fd_number(VHOST_SET_VRING_ERR, 0, -1).unwrap();
    }

    #[test]
    fn f27_a_call_that_is_full_and_blocks_harms_nobody_else() {
        let mut daemon = Daemon::start();
        let (uuid, mut client) = client(&daemon);
        let (_, mut bystander) = super::client(&daemon);
        let full = EventFd::from_flags(EfdFlags::empty()).unwrap();
        full.write(u64::MAX - 1).unwrap();
        for index in [0, 1] {
            client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, index, &full).unwrap();
        }
        for _ in 0..5 {
            client.queue(&FRAME);
            client.tx.notify().unwrap();
            bystander.exchange(&FRAME).unwrap();
        }
        // The counter at its maximum says already that there is something to see.
        assert!(eventually(std::time::Duration::from_secs(5), || client.rx.used_idx() == 6));
        assert_eq!(daemon.attribute(&uuid, "state"), "running");
        client.restart().unwrap();
        client.exchange(&FRAME).unwrap();
        assert!(daemon.is_alive());
    }

    #[test]
    fn f27_semaphores_and_one_eventfd_for_kick_and_call_work() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let semaphore = || EventFd::from_flags(EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_NONBLOCK).unwrap();
        (client.tx.kick, client.tx.call) = (semaphore(), semaphore());
        client.vhost.set_vring_fd(VHOST_SET_VRING_KICK, 1, &client.tx.kick).unwrap();
        client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 1, &client.tx.call).unwrap();
        (0..10).for_each(|_| client.exchange(&FRAME).unwrap());
        client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 1, &client.tx.kick).unwrap();
        (0..10).for_each(|_| client.exchange(&FRAME).unwrap());
    }

    #[test]
    fn f27_a_number_that_is_reused_meanwhile_gives_an_eventfd_or_a_refusal() {
        let mut daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let null = File::open("/dev/null").unwrap();
        let mut target = null.try_clone().map(std::os::fd::OwnedFd::from).unwrap();
        let number = target.as_raw_fd();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    nix::unistd::dup2(&event, &mut target).unwrap();
                    nix::unistd::dup2(&null, &mut target).unwrap();
                }
            });
            for _ in 0..2000 {
                match client.vhost.set_vring_fd_number(VHOST_SET_VRING_CALL, 0, number) {
                    Ok(()) => {}
                    Err(error) => assert!(matches!(error.errno(), Some(Errno::EINVAL | Errno::EBADF)), "{error}"),
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        client.restart().unwrap();
        client.exchange(&FRAME).unwrap();
        assert!(daemon.is_alive());
    }

    #[test]
    fn setting_a_call_ten_thousand_times_leaks_no_descriptor() {
        let daemon = Daemon::start();
        let (_, client) = client(&daemon);
        client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 0, &client.rx.call).unwrap();
        let before = daemon.open_fds();
        for _ in 0..10_000 {
            client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 0, &client.rx.call).unwrap();
        }
        let settled = eventually(std::time::Duration::from_secs(10), || daemon.open_fds() <= before + 2);
        assert!(settled, "{before} before, {} after", daemon.open_fds());
    }
}

mod dma {
    use super::*;

    #[test]
    fn f31_maps_follow_the_rules_of_type_1() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let (_, container) = client.vfio.as_ref().unwrap();
        let address = client.memory.address();
        let size = client.memory.size();
        let (end, far) = (IOVA + size, 1 << 40);
        let (read, both) = (VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
        for (what, flags, iova, size, address, expected) in [
            ("a duplicate", both, IOVA, size, address, Err(Errno::EEXIST)),
            ("an overlap at the start", both, IOVA - PAGE, 2 * PAGE, address, Err(Errno::EEXIST)),
            ("an overlap at the end", both, end - PAGE, 2 * PAGE, address, Err(Errno::EEXIST)),
            ("an overlap inside", both, IOVA + PAGE, PAGE, address, Err(Errno::EEXIST)),
            ("one around", both, IOVA - PAGE, size + 2 * PAGE, address, Err(Errno::EEXIST)),
            ("one adjacent behind", both, end, PAGE, address, Ok(())),
            ("one adjacent before", read, IOVA - PAGE, PAGE, address, Ok(())),
            ("nothing", both, far, 0, address, Err(Errno::EINVAL)),
            ("half a page", both, far, PAGE / 2, address, Err(Errno::EINVAL)),
            ("an odd IOVA", both, far + 1, PAGE, address, Err(Errno::EINVAL)),
            ("an odd address", both, far, PAGE, address + 1, Err(Errno::EINVAL)),
            ("a wrap", both, u64::MAX - PAGE + 1, 2 * PAGE, address, Err(Errno::EINVAL)),
            ("a size of all", both, far, u64::MAX - PAGE + 1, address, Err(Errno::EINVAL)),
            ("an address that wraps", both, far, PAGE, u64::MAX - PAGE + 1, Err(Errno::EFAULT)),
            ("no permission", 0, far, PAGE, address, Err(Errno::EINVAL)),
            ("an unknown flag", 1 << 7 | both, far, PAGE, address, Err(Errno::EINVAL)),
            ("an address of nothing", both, far, PAGE, 1 << 46, Err(Errno::EFAULT)),
        ] {
            let result = container.map_with(flags, iova, size, address).map_err(|error| error.errno().unwrap());
            if what == "an address that wraps" {
                // Refused as a range that wraps or as one with nothing there.
                assert!(matches!(result, Err(Errno::EINVAL | Errno::EFAULT)), "{what}: {result:?}");
            } else {
                assert_eq!(result, expected, "{what}");
            }
        }
        client.exchange(&FRAME).unwrap();
    }

    #[test]
    fn f31_an_argsz_that_is_too_small_is_einval() {
        let daemon = Daemon::start();
        let (_, client) = client(&daemon);
        let (group, container) = client.vfio.as_ref().unwrap();
        for argsz in [0_u32, 4, 23, 31] {
            let mut argument = [0; 64];
            argument[..4].copy_from_slice(&argsz.to_ne_bytes());
            assert_eq!(sys::ioctl(container, VFIO_IOMMU_MAP_DMA, &mut argument), Err(Errno::EINVAL), "{argsz}");
        }
        assert_eq!(sys::ioctl(group, VFIO_GROUP_GET_STATUS, &mut [0; 64]), Err(Errno::EINVAL));
        assert_eq!(sys::ioctl(container, VFIO_IOMMU_GET_INFO, &mut [0; 64]), Err(Errno::EINVAL));
    }

    #[test]
    fn f32_unmaps_bisect_nothing_and_say_how_much_they_unmapped() {
        let daemon = Daemon::start();
        let (_, client) = client(&daemon);
        let (_, container) = client.vfio.as_ref().unwrap();
        let (address, size) = (client.memory.address(), client.memory.size());
        let far = 1 << 40;
        container.map(far, 4 * PAGE, address).unwrap();
        container.map(far + 4 * PAGE, 4 * PAGE, address).unwrap();
        assert_eq!(refused(container.unmap(far, PAGE)), Errno::EINVAL);
        assert_eq!(refused(container.unmap(far + PAGE, 5 * PAGE)), Errno::EINVAL);
        assert_eq!(refused(container.unmap(far, 0)), Errno::EINVAL);
        assert_eq!(refused(container.unmap(far + 1, PAGE)), Errno::EINVAL);
        assert_eq!(container.unmap(far << 1, PAGE).unwrap(), 0);
        assert_eq!(container.unmap(far, 64 * PAGE).unwrap(), 8 * PAGE);
        assert_eq!(container.unmap(far, 8 * PAGE).unwrap(), 0);
        assert_eq!(container.unmap(IOVA, size).unwrap(), size);
    }

    #[test]
    fn f31_a_client_of_65535_maps_gets_enospc_and_leaves_room_for_its_neighbour() {
        let mut daemon = Daemon::start();
        let (_, client) = client(&daemon);
        let (_, container) = client.vfio.as_ref().unwrap();
        let pages = client.memory.size() / PAGE;
        let mut made = 1_u64;
        let errno = loop {
            // Every other page, so that no two of them can be one mapping.
            let address = client.memory.address() + (made * 2 % pages) * PAGE;
            match container.map((1 << 40) + made * PAGE, PAGE, address) {
                Ok(()) => made += 1,
                Err(error) => break error.errno(),
            }
            assert!(made <= 65_535);
        };
        assert_eq!((made, errno), (65_535, Some(Errno::ENOSPC)));
        let (_, mut neighbour) = super::client(&daemon);
        neighbour.exchange(&FRAME).unwrap();
        assert_eq!(container.unmap(1 << 40, 1 << 40).unwrap(), (made - 1) * PAGE);
        container.map(1 << 40, PAGE, client.memory.address()).unwrap();
        assert!(daemon.is_alive());
    }

    #[test]
    fn two_clients_at_the_same_iova_never_see_each_other() {
        let daemon = Daemon::start();
        let (_, mut one) = client(&daemon);
        let (_, mut other) = client(&daemon);
        for _ in 0..100 {
            one.exchange(&[0x11; 300]).unwrap();
            other.exchange(&[0x22; 300]).unwrap();
        }
        let contains = |client: &Client, byte: u8| {
            let mut bytes = vec![0; SIZE];
            client.memory.read(0, &mut bytes);
            bytes.windows(16).any(|window| window == [byte; 16])
        };
        assert!(contains(&one, 0x11) && !contains(&one, 0x22));
        assert!(contains(&other, 0x22) && !contains(&other, 0x11));
    }

    #[test]
    fn a_process_that_merely_opens_the_vhost_file_has_an_empty_space() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        // The container is here. At the very addresses the other process uses, its memory has two rings that a device
        // would at once work on: a frame to send, and a buffer to receive it into.
        let container = Container::open(daemon.root()).unwrap();
        let group = Group::open(daemon.root(), &uuid).unwrap();
        group.set_container(&container).unwrap();
        container.set_iommu().unwrap();
        let memory = Arc::new(Memory::new().unwrap());
        container.map(IOVA, memory.size(), memory.address()).unwrap();
        for (index, flags) in [(0, VIRTQ_DESC_F_WRITE), (1, 0)] {
            let mut ring = Ring::new(Arc::clone(&memory), index, 64).unwrap();
            let addr = Memory::iova(ring.buffer(0));
            ring.write_descriptor(0, Descriptor { addr, len: 512, flags, next: 0 });
            ring.offer(0);
        }
        let contents = || {
            let mut bytes = vec![0; SIZE];
            memory.read(0, &mut bytes);
            bytes
        };
        let before = contents();
        let said = caller(&["empty", daemon.root().to_str().unwrap(), &uuid]);
        assert!(contents() == before, "the device worked on memory its client has no right to: {said}");
        let never_ran = said.starts_with("start: ") || said == "status 0x4f";
        assert!(never_ran, "{said}");
    }

    #[test]
    fn iotlb_messages_serve_instead_of_a_container() {
        let daemon = Daemon::start();
        for name in ["loopback-net", "loopback-net-iommu"] {
            let uuid = daemon.create_of(name);
            let mut client = Client::start(daemon.root(), &uuid, IOTLB).unwrap();
            (0..20).for_each(|_| client.exchange(&FRAME).unwrap());
            client.vhost.set_status(0).unwrap();
            client.vhost.iotlb_invalidate(0, u64::MAX).unwrap();
            client.vhost.iotlb_update(IOVA, client.memory.size(), client.memory.address()).unwrap();
            client.restart().unwrap();
            client.exchange(&FRAME).unwrap();
        }
    }

    #[test]
    fn a_container_and_iotlb_messages_together_are_ebusy() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let refusal = client
            .vhost
            .set_backend_features(VHOST_BACKEND_F_IOTLB_MSG_V2)
            .and_then(|()| client.vhost.iotlb_update(1 << 40, PAGE, client.memory.address()));
        assert_eq!(refused(refusal), Errno::EBUSY);
        client.exchange(&FRAME).unwrap();
    }

    #[test]
    fn f33_truncated_memory_stops_its_device_alone() {
        let mut daemon = Daemon::start();
        let (uuid, client) = client(&daemon);
        let (_, mut bystander) = super::client(&daemon);
        client.memory.file().set_len(0).unwrap();
        // This process must not touch the memory now either: only the eventfds.
        client.tx.notify().unwrap();
        client.rx.notify().unwrap();
        daemon.wait_for(&uuid, "state", "needs_reset");
        (0..20).for_each(|_| bystander.exchange(&FRAME).unwrap());
        assert_ne!(client.vhost.status().unwrap() & NEEDS_RESET, 0);
        drop(client);
        let mut again = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
        again.exchange(&FRAME).unwrap();
        assert!(daemon.is_alive());
    }

    #[test]
    fn f33_memory_truncated_behind_the_rings_stops_its_device_alone() {
        let mut daemon = Daemon::start();
        let (uuid, mut client) = client(&daemon);
        // Receive buffers go, rings and the transmit buffers' room stay.
        let keep = u64::try_from(client.rx.buffer(0)).unwrap();
        client.memory.file().set_len(keep).unwrap();
        let addr = Memory::iova(umdev_tests::driver::memory::SCRATCH);
        client.tx.write_descriptor(9, Descriptor { addr, len: 100, flags: 0, next: 0 });
        client.tx.offer(9);
        client.tx.notify().unwrap();
        daemon.wait_for(&uuid, "state", "needs_reset");
        assert!(daemon.is_alive());
    }

    #[test]
    fn f33_memory_truncated_under_a_device_that_never_had_work_stops_it_at_its_next_kick() {
        let mut daemon = Daemon::start();
        let uuid = daemon.create();
        let client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
        client.memory.file().set_len(0).unwrap();
        client.tx.notify().unwrap();
        daemon.wait_for(&uuid, "state", "needs_reset");
        assert!(daemon.is_alive());
    }

    #[test]
    fn f33_punched_memory_reads_as_zeros_and_harms_nobody() {
        let mut daemon = Daemon::start();
        let (uuid, mut client) = client(&daemon);
        let (_, mut bystander) = super::client(&daemon);
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(client.memory.file(), punch, 0, i64::try_from(SIZE).unwrap()).unwrap();
        client.tx.notify().unwrap();
        // An available index of 0 after one of 1 has gone back.
        daemon.wait_for(&uuid, "state", "needs_reset");
        bystander.exchange(&FRAME).unwrap();
        client.restart().unwrap();
        client.exchange(&FRAME).unwrap();
        assert!(daemon.is_alive());
    }

    #[test]
    fn f33_a_sealed_memfd_is_never_written() {
        let daemon = Daemon::start();
        let file = File::from(memfd_create(c"sealed", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        file.set_len(PAGE).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK)).unwrap();
        stays_unwritten(&daemon, &file);
    }

    #[test]
    fn f33_a_file_opened_for_reading_is_never_written() {
        let daemon = Daemon::start();
        let path = tempfile::Builder::new().prefix("umdev-").tempfile_in("/dev/shm").unwrap();
        fs::write(path.path(), vec![0; 4096]).unwrap();
        stays_unwritten(&daemon, &File::open(path.path()).unwrap());
    }

    /// A device is given memory as writable that its client itself may only read, and receives into it.
    fn stays_unwritten(daemon: &Daemon, file: &File) {
        for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
            let (_, mut client) = client(daemon);
            let map = Map::of(file, NonZeroUsize::new(4096).unwrap(), ProtFlags::PROT_READ, flags).unwrap();
            let far = 1 << 40;
            let mapped = client.vfio.as_ref().unwrap().1.map(far, PAGE, map.address());
            if mapped.is_ok() {
                let next = client.rx.seen % client.rx.size;
                client.rx.write_descriptor(next, Descriptor { addr: far, len: 4096, flags: 2, next: 0 });
                client.queue(&FRAME);
                client.tx.notify().unwrap();
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
            let mut bytes = [1; 4096];
            std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
            assert_eq!(bytes, [0; 4096], "{flags:?}: map gave {mapped:?}");
        }
    }

    #[test]
    fn private_memory_works_and_private_rings_are_warned_about() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let mut client = Client::start(daemon.root(), &uuid, PRIVATE).unwrap();
        (0..100).for_each(|_| client.exchange(&FRAME).unwrap());
        let log = daemon.log();
        assert!(log.lines().any(|line| line.contains("WARN") && line.contains(&uuid)), "{log}");
    }

    #[test]
    fn memory_may_be_shared_and_private_at_once() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let map = Map::private(NonZeroUsize::new(4096).unwrap()).unwrap();
        let far = 1 << 40;
        client.vfio.as_ref().unwrap().1.map(far, PAGE, map.address()).unwrap();
        let next = client.rx.seen % client.rx.size;
        client.rx.write_descriptor(next, Descriptor { addr: far, len: 4096, flags: 2, next: 0 });
        client.queue(&FRAME);
        client.tx.notify().unwrap();
        let mut received = [0; 200];
        let arrived = eventually(std::time::Duration::from_secs(5), || {
            map.read(12, &mut received);
            received == FRAME
        });
        assert!(arrived, "{}", daemon.log());
    }
}

mod identity {
    use super::*;

    #[test]
    fn a_second_opener_is_ebusy() {
        let daemon = Daemon::start();
        let (uuid, _client) = client(&daemon);
        assert_eq!(refused(Vhost::open(daemon.root(), &uuid)), Errno::EBUSY);
        assert_eq!(refused(Group::open(daemon.root(), &uuid)), Errno::EBUSY);
    }

    #[test]
    fn f30_a_process_that_inherits_the_file_is_not_its_owner() {
        let daemon = Daemon::start();
        let (_, mut client) = client(&daemon);
        let uuid = daemon.create();
        let messages = Client::start(daemon.root(), &uuid, IOTLB).unwrap();
        for vhost in [&client.vhost, &messages.vhost] {
            fcntl(vhost, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            let said = caller(&["inherited", &vhost.as_fd().as_raw_fd().to_string()]);
            fcntl(vhost, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
            assert!(said.starts_with("num EPERM, enable EPERM, message EPERM, status "), "{said}");
        }
        client.exchange(&FRAME).unwrap();
    }

    #[test]
    fn a_client_under_a_1_khz_timer_sees_no_eintr() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let said = caller(&["signals", daemon.root().to_str().unwrap(), &uuid]);
        assert!(said.starts_with("0 interrupted of "), "{said}");
    }

    #[test]
    fn closing_and_opening_300_times_is_never_ebusy() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        assert_eq!(caller(&["reopens", daemon.root().to_str().unwrap(), &uuid]), "done");
    }

    #[test]
    fn a_node_is_its_owners_alone() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let mut command = Command::new("cat");
        command.arg(daemon.vhost_path(&uuid)).stdout(Stdio::null()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
        // The test's own directory is closed to others; it must not be what refuses.
        let dir = daemon.root().parent().unwrap();
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(!command.status().unwrap().success());
        let mut attribute = Command::new("cat");
        attribute.arg(daemon.type_dir("loopback-net").join("name")).stdout(Stdio::null());
        std::os::unix::process::CommandExt::uid(&mut attribute, 65_534);
        assert!(attribute.status().unwrap().success(), "attributes are for everybody to read");
    }
}
