//! Kicks by a store to a mapped page, and the way of notifications altogether: no call, no socket, no file of the tree.

use nix::errno::Errno;
use std::time::Duration;
use umdev_tests::driver::abi::{VIRTIO_F_EVENT_IDX, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_RING_PACKED};
use umdev_tests::driver::{Client, Daemon, Options, Via, eventually};

const FRAME: [u8; 300] = [0x3c; 300];

fn requests(daemon: &Daemon) -> u64 {
    daemon.ask(&serde_json::json!({ "op": "stats" })).0["read"].as_u64().unwrap()
}

/// A driver that never writes to a kick.
fn driver(daemon: &Daemon, uuid: &str) -> Client {
    let mut client = Client::open(daemon.root(), uuid, Options::default()).unwrap();
    client.map_doorbells().unwrap();
    client.run().unwrap();
    client
}

#[test]
fn a_driver_that_kicks_by_stores_alone_has_its_frames_passed() {
    let daemon = Daemon::start();
    let uuid = daemon.create_with("doorbell=page");
    assert_eq!(daemon.attribute(&uuid, "doorbell"), "page");
    let mut client = driver(&daemon, &uuid);
    for n in 0..2_000 {
        client.exchange(&FRAME[..64 + n % 200]).unwrap();
    }
    // After a rest, a reset, and a stop.
    std::thread::sleep(Duration::from_millis(300));
    client.exchange(&FRAME).unwrap();
    client.restart().unwrap();
    client.exchange(&FRAME).unwrap();
    client.vhost.suspend().unwrap();
    client.vhost.resume().unwrap();
    client.exchange(&FRAME).unwrap();
    for ring in [&client.rx, &client.tx] {
        assert_eq!(ring.kick.read(), Err(Errno::EAGAIN), "a kick that nobody meant");
    }
}

#[test]
fn doorbells_may_carry_where_the_driver_is() {
    let daemon = Daemon::start();
    let uuid = daemon.try_create("loopback-net-fast", "doorbell=page").unwrap();
    for ring in [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX] {
        let options = Options { features: VIRTIO_F_NOTIFICATION_DATA | ring, queue_size: 8, ..Options::default() };
        let mut client = Client::open(daemon.root(), &uuid, options).unwrap();
        client.map_doorbells().unwrap();
        client.run().unwrap();
        // Around the ring, so that the wrap counter, the highest bit, is both.
        for n in 0..300 {
            client.exchange(&FRAME[..64 + n % 200]).unwrap_or_else(|error| panic!("{ring:#x}, {n}: {error}"));
        }
        assert_eq!(client.tx.kick.read(), Err(Errno::EAGAIN), "a kick that nobody meant");
        // Whatever it says, what counts is that something is said: where the driver is, its ring says.
        let page = client.vhost.map_doorbell(1).unwrap();
        for lie in [0x0001_0007_u32, 0xffff_0001, 0x8000_0001, 0, u32::MAX - 1] {
            client.queue(&FRAME);
            page.store_wide(0, lie);
            assert_eq!(client.receive(Duration::from_secs(10)).unwrap(), FRAME, "{lie:#x}");
            client.tx.wait(Duration::from_secs(10), "the frame to be used").unwrap();
        }
    }
    for (name, parameters) in [("loopback-net-fast", ""), ("loopback-net", "doorbell=page")] {
        let uuid = daemon.try_create(name, parameters).unwrap();
        let client = Client::open(daemon.root(), &uuid, Options::default()).unwrap();
        assert_eq!(client.vhost.features().unwrap() & VIRTIO_F_NOTIFICATION_DATA, 0, "{name} {parameters}");
    }
}

#[test]
fn an_instance_without_doorbell_pages_cannot_be_mapped() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    assert_eq!(daemon.attribute(&uuid, "doorbell"), "eventfd");
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    assert_eq!(client.map_doorbells().unwrap_err().errno(), Some(Errno::ENODEV));
    client.exchange(&FRAME).unwrap();
}

#[test]
fn a_client_that_keeps_its_pages_rings_nobody_else() {
    let daemon = Daemon::start();
    let uuid = daemon.create_with("doorbell=page");
    let mut old = driver(&daemon, &uuid);
    old.exchange(&FRAME).unwrap();
    let stale = old.vhost.map_doorbell(1).unwrap();
    drop(old);
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    client.exchange(&FRAME).unwrap();
    let fresh = client.vhost.map_doorbell(1).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let before = fresh.load(0);
    stale.store(0, 0x1234);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((fresh.load(0), stale.load(0)), (before, 0x1234), "nobody watches the one, nobody rang the other");
    client.exchange(&FRAME).unwrap();
}

#[test]
fn pages_outlive_their_instance() {
    let daemon = Daemon::start();
    let uuid = daemon.create_with("doorbell=page");
    let mut client = driver(&daemon, &uuid);
    client.exchange(&FRAME).unwrap();
    daemon.remove(&uuid, "force").unwrap();
    client.tx.notify().unwrap();
    client.rx.notify().unwrap();
    let open = daemon.open_fds();
    drop(client);
    assert!(eventually(Duration::from_secs(10), || daemon.open_fds() < open), "the daemon keeps what nobody has");
}

#[test]
fn a_restarted_daemon_brings_doorbell_pages_back() {
    let mut daemon = Daemon::start();
    let uuid = daemon.create_with("doorbell=page");
    daemon.end(nix::sys::signal::Signal::SIGTERM);
    daemon.start_again();
    assert_eq!(daemon.attribute(&uuid, "doorbell"), "page");
    driver(&daemon, &uuid).exchange(&FRAME).unwrap();
}

#[test]
fn a_device_file_that_came_from_a_group_cannot_be_mapped() {
    let daemon = Daemon::start();
    let uuid = daemon.create_with("doorbell=page");
    let mut client = Client::start(daemon.root(), &uuid, Options { via: Via::Device, ..Options::default() }).unwrap();
    client.exchange(&FRAME).unwrap();
    assert_eq!(client.device().unwrap().region(0).unwrap().flags, 2, "VFIO_REGION_INFO_FLAG_WRITE alone");
    assert_eq!(client.map_doorbells().unwrap_err().errno(), Some(Errno::ENODEV));
    client.exchange(&FRAME).unwrap();
}

#[test]
fn a_million_kicks_and_their_interrupts_are_no_requests() {
    const KICKS: usize = 1_000_000;
    const FRAMES: usize = 20_000;
    let daemon = Daemon::start();
    for (doorbell, kind) in [("eventfd", false), ("page", true)] {
        let uuid = daemon.create_with(&format!("doorbell={doorbell}"));
        let mut client = Client::open(daemon.root(), &uuid, Options::default()).unwrap();
        if kind {
            client.map_doorbells().unwrap();
        }
        client.run().unwrap();
        let before = requests(&daemon);
        for kick in 0..KICKS {
            if kick % (KICKS / FRAMES) == 0 {
                // Waits for the interrupts of both queues.
                client.exchange(&FRAME).unwrap();
            } else {
                client.tx.notify().unwrap();
            }
        }
        // The question itself looks for the socket.
        let asked = requests(&daemon) - before;
        assert!(asked < 20, "{asked} requests while {KICKS} kicks by {doorbell} were served");
    }
}
