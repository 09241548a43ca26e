//! Instances that move to others by VFIO's migration protocol, in the middle of their traffic.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use umdev_tests::driver::abi::*;
use umdev_tests::driver::memory::IOVA;
use umdev_tests::driver::{CallResult, Client, Container, Daemon, Device, Group, Options, Vhost, Via, new_uuid};

const PATIENCE: Duration = Duration::from_secs(20);
const PAGE: usize = 4096;
const DEVICE: Options = Options { via: Via::Device, ..Options::DEFAULT };

#[track_caller]
fn refused<T: std::fmt::Debug>(result: CallResult<T>) -> Errno {
    let error = result.expect_err("to be refused");
    error.errno().unwrap_or_else(|| panic!("no errno: {error}"))
}

fn state(device: &Device) -> u32 {
    let (state, data_fd) = device.migration_state().unwrap();
    assert_eq!(data_fd, -1);
    state
}

/// A client at the other end: files, its own memory mapped, nothing started.
fn destination(daemon: &Daemon, uuid: &str) -> (Client, Device) {
    let client = Client::open(daemon.root(), uuid, DEVICE).unwrap();
    let device = client.device().unwrap();
    (client, device)
}

/// Where device and driver go on with a copy of the source's memory.
fn copy_memory(source: &Client, destination: &Client) {
    let mut bytes = vec![0; source.memory.len()];
    source.memory.read(0, &mut bytes);
    destination.memory.write(0, &bytes);
}

fn copy_pages(source: &Client, destination: &Client, pages: Vec<u64>) -> usize {
    let count = pages.len();
    for page in pages {
        let at = usize::try_from(page).unwrap() * PAGE;
        let mut bytes = [0; PAGE];
        source.memory.read(at, &mut bytes);
        destination.memory.write(at, &bytes);
    }
    count
}

fn frame(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(20 + usize::try_from(number % 300).unwrap())
}

/// Moves a device that is at work. What is told before it stops, and then while it stands still, goes to the destination as it comes.
fn transfer(root: &Path, from: &Device, to: &Device, busy: impl FnOnce()) {
    let mut incoming = to.stream(root, VFIO_DEVICE_STATE_RESUMING).unwrap();
    let mut outgoing = from.stream(root, VFIO_DEVICE_STATE_PRE_COPY).unwrap();
    assert!(outgoing.precopy_info().unwrap().0 > 0);
    incoming.write(&outgoing.read().unwrap()).unwrap();
    assert_eq!(outgoing.precopy_info(), Ok((0, 0)));
    busy();
    from.set_migration_state(VFIO_DEVICE_STATE_STOP_COPY).unwrap();
    incoming.write(&outgoing.read().unwrap()).unwrap();
    to.set_migration_state(VFIO_DEVICE_STATE_STOP).unwrap();
}

/// Frames that a loopback returns: some of them before it moves, some after, each once and in order.
fn move_loopback(options: Options) {
    let daemon = Daemon::start();
    let root = daemon.root();
    let (first, second) = (daemon.create(), daemon.create());
    let mut source = Client::start(root, &first, options).unwrap();
    let from = match options.via {
        Via::Device => source.device().unwrap(),
        _ => Device::of(root, &source.vfio.as_ref().unwrap().0, &first).unwrap(),
    };
    let (mut target, to) = destination(&daemon, &second);
    (0..50).for_each(|number| source.exchange(&frame(number)).unwrap());

    // The memory follows the device's own log, the driver's writes are copied in the end.
    from.log_start(&[(IOVA, source.memory.size())]).unwrap();
    copy_memory(&source, &target);
    let mut sent = 50;
    let mut received = 50;
    transfer(root, &from, &to, || {
        for _ in 0..60 {
            source.queue(&frame(sent));
            sent += 1;
        }
        source.tx.notify().unwrap();
        // Not all: the device is stopped in the middle of it.
        for _ in 0..10 {
            assert_eq!(source.receive(PATIENCE).unwrap(), frame(received));
            received += 1;
        }
    });
    for _ in 0..20 {
        source.queue(&frame(sent));
        sent += 1;
    }
    source.tx.notify().unwrap();
    let dirty = from.log_report(IOVA, source.memory.size()).unwrap();
    let driver_writes: Vec<u64> = driver_pages(&source);
    assert!(copy_pages(&source, &target, dirty) > 10, "the device wrote");
    copy_pages(&source, &target, driver_writes);
    let mut both = [vec![0; source.memory.len()], vec![0; source.memory.len()]];
    source.memory.read(0, &mut both[0]);
    target.memory.read(0, &mut both[1]);
    assert!(both[0] == both[1], "a page was written that nobody told of");

    target.continue_from(&source);
    target.connect().unwrap();
    assert_eq!(target.vhost.status(), Ok(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK));
    to.set_migration_state(VFIO_DEVICE_STATE_RUNNING).unwrap();
    assert_eq!(state(&from), VFIO_DEVICE_STATE_STOP_COPY);
    drop((from, source));
    while received < sent {
        assert_eq!(target.receive(PATIENCE).unwrap(), frame(received));
        received += 1;
    }
    while target.tx.seen != target.tx.avail_idx {
        target.tx.wait(PATIENCE, "a frame to be used").unwrap();
    }
    (sent..sent + 100).for_each(|number| target.exchange(&frame(number)).unwrap());
    assert_eq!(daemon.attribute(&second, "state"), "running");
    daemon.wait_for(&first, "state", "idle");
}

/// The pages that a driver writes: its part of the rings, and transmit buffers.
fn driver_pages(client: &Client) -> Vec<u64> {
    let pages = |offset: usize, len: usize| offset / PAGE..(offset + len).div_ceil(PAGE);
    let mut all = Vec::new();
    for ring in [&client.rx, &client.tx] {
        all.extend(pages(ring.desc_offset(), PAGE));
        all.extend(pages(ring.avail_offset(), PAGE));
    }
    all.extend(pages(client.tx.buffer(0), 256 * PAGE));
    all.into_iter().map(|page| u64::try_from(page).unwrap()).collect()
}

#[test]
fn a_loopback_instance_moves_in_the_middle_of_its_traffic() {
    move_loopback(DEVICE);
}

#[test]
fn an_instance_driven_through_the_vhost_node_moves_too() {
    move_loopback(Options::default());
}

#[test]
fn a_device_that_is_stopped_and_runs_again_goes_on() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, DEVICE).unwrap();
    let device = client.device().unwrap();
    assert_eq!(device.migration_flags(), Ok(7));
    for number in 0..20 {
        client.exchange(&frame(number)).unwrap();
        device.set_migration_state(VFIO_DEVICE_STATE_STOP).unwrap();
        client.queue(&frame(number));
        client.tx.notify().unwrap();
        assert_eq!(client.tx.used_idx(), client.tx.seen, "it stands still");
        let _ = client.tx.call.read();
        assert_eq!(client.tx.call.read(), Err(Errno::EAGAIN));
        device.set_migration_state(VFIO_DEVICE_STATE_RUNNING).unwrap();
        client.tx.wait(PATIENCE, "the frame to be used").unwrap();
        assert_eq!(client.receive(PATIENCE).unwrap(), frame(number));
    }
}

#[test]
fn f41_a_stream_that_is_refused_leaves_an_instance_that_works() {
    let daemon = Daemon::start();
    let root = daemon.root();
    let mut source = Client::start(root, &daemon.create(), DEVICE).unwrap();
    source.exchange(&frame(1)).unwrap();
    let from = source.device().unwrap();
    let good = from.stream(root, VFIO_DEVICE_STATE_STOP_COPY).unwrap().read().unwrap();
    let second = daemon.create();
    let (mut target, to) = destination(&daemon, &second);
    let middle = good.len() / 2;
    let newer = [&good[..8], &[9], &good[9..]].concat();
    let mut flipped = good.clone();
    flipped[middle] ^= 4;
    for (what, bytes) in [
        ("nothing", &[][..]),
        ("the first half", &good[..middle]),
        ("all but the last byte", &good[..good.len() - 1]),
        ("a newer one", &newer),
        ("another bit", &flipped),
        ("more", &[&good[..], &[0]].concat()),
    ] {
        let mut stream = to.stream(root, VFIO_DEVICE_STATE_RESUMING).unwrap();
        let written = stream.write(bytes);
        let stopped = refused(to.set_migration_state(VFIO_DEVICE_STATE_STOP));
        assert_eq!(stopped, Errno::EINVAL, "{what}, {written:?}");
        assert_eq!(state(&to), VFIO_DEVICE_STATE_ERROR, "{what}");
        assert_eq!(refused(to.set_migration_state(VFIO_DEVICE_STATE_RUNNING)), Errno::EINVAL, "{what}");
        to.reset().unwrap();
        assert_eq!(state(&to), VFIO_DEVICE_STATE_RUNNING, "{what}");
        target.restart().unwrap();
        target.exchange(&frame(2)).unwrap();
    }
    // What was read once more or less did the source no harm either.
    from.set_migration_state(VFIO_DEVICE_STATE_RUNNING).unwrap();
    source.exchange(&frame(3)).unwrap();
}

#[test]
fn a_state_that_begins_a_stream_needs_a_handle() {
    let daemon = Daemon::start();
    let mut client = Client::start(daemon.root(), &daemon.create(), DEVICE).unwrap();
    let device = client.device().unwrap();
    for state in [VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_RESUMING] {
        assert_eq!(refused(device.set_migration_state(state)), Errno::EOPNOTSUPP);
    }
    client.exchange(&frame(1)).unwrap();
    let mut stream = device.stream(daemon.root(), VFIO_DEVICE_STATE_PRE_COPY).unwrap();
    stream.read().unwrap();
    device.set_migration_state(VFIO_DEVICE_STATE_RUNNING).unwrap();
    assert_eq!(refused(stream.read()), Errno::ENODEV);
    assert_eq!(refused(stream.precopy_info()), Errno::ENODEV);
}

#[test]
fn a_killed_client_leaves_an_instance_that_runs_for_the_next() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let client = Client::start(daemon.root(), &uuid, DEVICE).unwrap();
    let device = client.device().unwrap();
    device.stream(daemon.root(), VFIO_DEVICE_STATE_STOP_COPY).unwrap();
    drop((device, client));
    daemon.wait_for(&uuid, "state", "idle");
    Client::start(daemon.root(), &uuid, Options::default()).unwrap().exchange(&frame(1)).unwrap();
}

/// A serial card: its BAR, its configuration space, and registers of a 16550.
const BAR0: u64 = 0;
const CONFIG: u64 = 7 << 40;
const COMMAND: u64 = 4;
const DATA: u64 = BAR0;
const FIFO_CONTROL: u64 = BAR0 + 2;
const LINE_CONTROL: u64 = BAR0 + 3;
const LINE_STATUS: u64 = BAR0 + 5;
const SCRATCH: u64 = BAR0 + 7;

/// A client of a serial card, whose line leads back to it.
struct Terminal {
    device: Device,
    _group: Group,
    _container: Container,
}

impl Terminal {
    fn open(daemon: &Daemon) -> Self {
        let uuid = new_uuid();
        let create = daemon.path("sys/class/mdev_bus/mtty0/mdev_supported_types/mtty-1/create");
        std::fs::write(create, &uuid).unwrap();
        let (container, group) = (Container::open(daemon.root()).unwrap(), Group::open(daemon.root(), &uuid).unwrap());
        group.set_container(&container).unwrap();
        container.set_iommu().unwrap();
        let device = Device::of(daemon.root(), &group, &uuid).unwrap();
        Self { device, _group: group, _container: container }
    }

    fn write(&self, register: u64, byte: u8) {
        assert_eq!(self.device.write(register, &[byte]), Ok(1));
    }

    fn read(&self, register: u64) -> u8 {
        self.device.read(register, 1).unwrap()[0]
    }

    /// The next byte that came.
    fn next(&self) -> Option<u8> {
        (self.read(LINE_STATUS) & 1 == 1).then(|| self.read(DATA))
    }
}

#[test]
fn a_serial_card_moves_with_the_bytes_that_nobody_read_yet() {
    let daemon = Daemon::with(&["--parent", "mtty:mtty0"]);
    let (source, target) = (Terminal::open(&daemon), Terminal::open(&daemon));
    source.write(CONFIG + COMMAND, 1);
    source.write(FIFO_CONTROL, 1);
    // Eight bits a byte.
    source.write(LINE_CONTROL, 3);
    source.write(SCRATCH, 0x5a);
    b"first".iter().for_each(|&byte| source.write(DATA, byte));
    assert_eq!((source.next(), source.next()), (Some(b'f'), Some(b'i')));
    transfer(daemon.root(), &source.device, &target.device, || source.write(DATA, b'!'));
    target.device.set_migration_state(VFIO_DEVICE_STATE_RUNNING).unwrap();
    let rest: Vec<u8> = std::iter::from_fn(|| target.next()).collect();
    assert_eq!(rest, b"rst!");
    assert_eq!(target.read(SCRATCH), 0x5a);
    b"more".iter().for_each(|&byte| target.write(DATA, byte));
    assert_eq!(std::iter::from_fn(|| target.next()).collect::<Vec<u8>>(), b"more");
}

#[test]
fn f41_a_network_card_is_no_serial_card() {
    let daemon = Daemon::with(&["--parent", "mtty:mtty0", "--parent", "loopback:loopback0"]);
    let (source, target) = (Terminal::open(&daemon), destination(&daemon, &daemon.create()));
    let told = source.device.stream(daemon.root(), VFIO_DEVICE_STATE_PRE_COPY).unwrap().read().unwrap();
    let mut incoming = target.1.stream(daemon.root(), VFIO_DEVICE_STATE_RESUMING).unwrap();
    assert!(incoming.write(&told).is_err(), "before the source stops");
    assert_eq!(state(&source.device), VFIO_DEVICE_STATE_PRE_COPY);
}

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
const HOST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const PORT: u16 = 7000;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What the guest sends to arrive at the host's socket.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend((20 + udp_len).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1]);
    let sum = header.chunks(2).fold(0u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let ports = [PORT.to_be_bytes(), PORT.to_be_bytes(), udp_len.to_be_bytes(), [0, 0]].concat();
    [&HOST_MAC[..], &GUEST_MAC, &[8, 0], &header, &ports, payload].concat()
}

/// Datagrams of the guest come to the host each once and in order, by whichever port; and the host finds the guest at the other.
#[test]
fn a_tap_instance_moves_to_another_port_of_its_bridge_in_the_middle_of_its_traffic() {
    // The daemon's interfaces are in a network where only it and this thread are.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let daemon = Daemon::with(&["--parent", "tap:tap0"]);
    let root = daemon.root();
    let uuids = [new_uuid(), new_uuid()];
    let create = daemon.path("sys/class/mdev_bus/tap0/mdev_supported_types/tap-net/create");
    ip("link add bridge0 address 52:54:00:00:00:01 type bridge");
    ip("addr add 10.9.0.1/24 dev bridge0");
    ip("link set bridge0 up");
    for (uuid, parameters) in uuids.iter().zip([" mac=52:54:00:00:00:02", ""]) {
        std::fs::write(&create, format!("{uuid}{parameters}")).unwrap();
        ip(&format!("link set umdev{} master bridge0", &uuid[..8]));
    }
    ip("neigh add 10.9.0.2 lladdr 52:54:00:00:00:02 dev bridge0");
    let socket = UdpSocket::bind(("10.9.0.1", PORT)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let arrives = |number: u32| {
        let mut received = [0; 64];
        let (len, _) = socket.recv_from(&mut received).unwrap();
        assert_eq!(received[..len], number.to_be_bytes());
    };
    let hears = |client: &mut Client, text: &[u8]| {
        socket.send_to(text, ("10.9.0.2", PORT)).unwrap();
        while !client.receive(PATIENCE).unwrap().ends_with(text) {}
    };

    let mut source = Client::start(root, &uuids[0], DEVICE).unwrap();
    let from = source.device().unwrap();
    let (mut target, to) = destination(&daemon, &uuids[1]);
    for number in 0..10 {
        source.send(&datagram(&u32::to_be_bytes(number))).unwrap();
        arrives(number);
    }
    hears(&mut source, b"by the first port");
    let mut sent = 10;
    transfer(root, &from, &to, || {
        for _ in 0..100 {
            source.queue(&datagram(&u32::to_be_bytes(sent)));
            sent += 1;
        }
        source.tx.notify().unwrap();
    });
    for _ in 0..50 {
        source.queue(&datagram(&u32::to_be_bytes(sent)));
        sent += 1;
    }
    source.tx.notify().unwrap();
    copy_memory(&source, &target);
    target.continue_from(&source);
    target.connect().unwrap();
    to.set_migration_state(VFIO_DEVICE_STATE_RUNNING).unwrap();
    (10..sent).for_each(arrives);
    while target.tx.seen != target.tx.avail_idx {
        target.tx.wait(PATIENCE, "a frame to be used").unwrap();
    }
    assert_eq!(daemon.attribute(&uuids[1], "mac"), "52:54:00:00:00:02");
    assert_eq!(Vhost(to.0.try_clone().unwrap()).config(0, 6).unwrap(), GUEST_MAC);
    drop((from, source));
    hears(&mut target, b"by the second port");
    for number in sent..sent + 50 {
        target.send(&datagram(&number.to_be_bytes())).unwrap();
        arrives(number);
    }
}
