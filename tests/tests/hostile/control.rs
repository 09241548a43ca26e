//! Rings, status, features and configuration, out of turn or out of range.

use super::*;

#[test]
fn f23_rings_stand_still_while_the_driver_runs() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    let (desc, avail, used) = client.tx.addresses();
    assert_eq!(refused(client.vhost.set_vring_addr(1, desc, avail, used)), Errno::EINVAL);
    assert_eq!(refused(client.vhost.set_vring_num(1, 64)), Errno::EBUSY);
    assert_eq!(refused(client.vhost.set_vring_base(1, 0)), Errno::EINVAL);
    assert_eq!(refused(client.vhost.vring_base(1)), Errno::EBUSY);
    client.exchange(&FRAME).unwrap();
    // Suspended, it can be told where its rings are and where it stands in them.
    client.vhost.suspend().unwrap();
    let base = client.vhost.vring_base(1).unwrap();
    assert_eq!(base, u32::from(client.tx.avail_idx));
    client.vhost.set_vring_num(1, u32::from(client.tx.size)).unwrap();
    client.vhost.set_vring_addr(1, desc, avail, used).unwrap();
    client.vhost.set_vring_base(1, base).unwrap();
    client.vhost.resume().unwrap();
    assert_eq!(refused(client.vhost.set_vring_addr(1, desc, avail, used)), Errno::EINVAL);
    client.exchange(&FRAME).unwrap();
}

#[test]
fn f28_where_a_ring_begins_cannot_be_set_while_it_runs() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    for base in [0, 1, u32::from(client.tx.avail_idx), 0x7fff, 0xffff, 0x1_0000, u32::MAX] {
        for index in [0, 1] {
            assert_eq!(refused(client.vhost.set_vring_base(index, base)), Errno::EINVAL, "{base:#x}");
        }
        client.exchange(&FRAME).unwrap();
    }
    // Nor while a single queue is disabled: the driver runs all the same.
    client.vhost.set_vring_enable(1, false).unwrap();
    assert_eq!(refused(client.vhost.set_vring_base(1, 0)), Errno::EINVAL);
    client.vhost.set_vring_enable(1, true).unwrap();
    client.exchange(&FRAME).unwrap();
    // After a reset it may be anything that an index can be, and frames pass from there.
    client.vhost.set_status(0).unwrap();
    assert_eq!(refused(client.vhost.set_vring_base(1, 0x1_0000)), Errno::EINVAL);
    client.restart().unwrap();
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
        for cmd in [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR] {
            assert_eq!(refused(vhost.set_vring_fd_number(cmd, index, -1)), Errno::ENOBUFS);
        }
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
fn f24_no_bit_of_a_running_driver_is_taken_back_alone() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    for bits in 1..0xf {
        assert_eq!(refused(client.vhost.set_status(0xf & !bits)), Errno::EINVAL, "without {bits:#x}");
        assert_eq!(client.vhost.status().unwrap(), 0xf);
    }
    client.exchange(&FRAME).unwrap();
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
    // VHOST_F_LOG_ALL is taken though it is not offered, but not without a log.
    assert_eq!(refused(client.vhost.set_features(offered | VHOST_F_LOG_ALL)), Errno::EFAULT);
    for bit in (0..64).filter(|bit| (offered | VHOST_F_LOG_ALL) & 1 << bit == 0) {
        assert_eq!(refused(client.vhost.set_features(offered | 1 << bit)), Errno::EINVAL, "bit {bit}");
    }
    // Before DRIVER_OK already they are fixed.
    client.negotiate().unwrap();
    let accepted = VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM;
    for features in [offered, accepted, 0] {
        assert_eq!(refused(client.vhost.set_features(features)), Errno::EBUSY, "{features:#x}");
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
    let ranges = [(0, 0), (size, 1), (size + 1, 1), (0, size + 1), (4, u32::MAX), (u32::MAX, 8), (u32::MAX, u32::MAX)];
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
