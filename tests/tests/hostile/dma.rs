//! Maps and unmaps, and whose memory a device reaches.

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
        let addr = memory.iova(ring.buffer(0));
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
