//! Memory that is cut short behind the device, that must not be written, or that is not shared.

use super::*;

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
    let addr = client.memory.iova(umdev_tests::driver::memory::SCRATCH);
    client.tx.write_descriptor(9, Descriptor { addr, len: 100, flags: 0, next: 0 });
    client.tx.offer(9);
    client.tx.notify().unwrap();
    daemon.wait_for(&uuid, "state", "needs_reset");
    assert!(daemon.is_alive());
}

/// The kernel takes the end of a large frame from where it is, and finds nothing there.
#[test]
fn f33_a_frame_for_an_interface_that_is_cut_short_stops_its_device_alone() {
    use umdev_tests::driver::memory::{BUFFERS, SCRATCH};
    const CSUM: u64 = 1;
    const HOST_TSO4: u64 = 1 << 11;
    let mut daemon = Daemon::with(&["--parent", "tap:tap0"]);
    let create = daemon.path("sys/class/mdev_bus/tap0/mdev_supported_types/tap-net/create");
    let uuid = umdev_tests::driver::new_uuid();
    std::fs::write(create, &uuid).unwrap();
    let options = Options { features: CSUM | HOST_TSO4, receive_buffers: 0, ..Options::DEFAULT };
    let mut client = Client::start(daemon.root(), &uuid, options).unwrap();
    // NEEDS_CSUM, TCPV4, headers of 54 bytes, segments of 1400, checksum at 34 + 16.
    let header = [1, 1, 54, 0, 0x78, 5, 34, 0, 16, 0, 0, 0];
    client.memory.write(SCRATCH, &header);
    let part = |at: usize, flags, next| Descriptor { addr: client.memory.iova(at), len: 3000, flags, next };
    let parts = [part(SCRATCH, 1, 6), part(BUFFERS + 0x2000, 0, 0)];
    for (at, part) in (5..).zip(parts) {
        client.tx.write_descriptor(at, part);
    }
    client.tx.offer(5);
    client.tx.notify().unwrap();
    assert!(
        eventually(std::time::Duration::from_secs(10), || client.tx.used_idx() == 1),
        "{}",
        daemon.attribute(&uuid, "last_fault")
    );
    client.memory.file().set_len(BUFFERS as u64).unwrap();
    client.tx.offer(5);
    client.tx.notify().unwrap();
    daemon.wait_for(&uuid, "state", "needs_reset");
    assert!(daemon.is_alive());
    drop(client);
    let mut again = Client::start(daemon.root(), &uuid, Options { receive_buffers: 0, ..Options::DEFAULT }).unwrap();
    again.send(&FRAME).unwrap();
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
        let (uuid, mut client) = client(daemon);
        let map = Map::of(file, NonZeroUsize::new(4096).unwrap(), ProtFlags::PROT_READ, flags).unwrap();
        let far = 1 << 40;
        // Whoever asks for writing is refused or believed; either way nothing is written.
        match client.vfio.as_ref().unwrap().1.map(far, PAGE, map.address()) {
            Err(error) => assert_eq!(error.errno(), Some(Errno::EFAULT), "{flags:?}"),
            Ok(()) => {
                let (next, used) = (client.rx.seen % client.rx.size, client.rx.used_idx());
                client.rx.write_descriptor(next, Descriptor { addr: far, len: 4096, flags: 2, next: 0 });
                client.queue(&FRAME);
                client.tx.notify().unwrap();
                // The device came to the buffer: it gave it back, or found that it cannot be written.
                let tried = || client.rx.used_idx() != used || daemon.attribute(&uuid, "state") == "needs_reset";
                assert!(eventually(std::time::Duration::from_secs(10), tried), "{flags:?}: {}", daemon.log());
            }
        }
        let mut bytes = [1; 4096];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 4096], "{flags:?}");
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
    let options = Options { receive_buffers: 1, ..Options::default() };
    let mut client = Client::start(daemon.root(), &daemon.create(), options).unwrap();
    client.exchange(&FRAME).unwrap();
    let map = Map::private(NonZeroUsize::new(4096).unwrap()).unwrap();
    let far = 1 << 40;
    client.vfio.as_ref().unwrap().1.map(far, PAGE, map.address()).unwrap();
    client.receive_into(Descriptor { addr: far, len: 4096, flags: 2, next: 0 }).unwrap();
    client.queue(&FRAME);
    client.tx.notify().unwrap();
    let mut received = [0; 200];
    let arrived = eventually(std::time::Duration::from_secs(5), || {
        map.read(12, &mut received);
        received == FRAME
    });
    assert!(arrived, "{}", daemon.log());
}
