//! The in-tree driver on `dev/vhost-net`, its interface in a network namespace of the test's thread, where the daemon is not.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use umdev_tests::driver::abi::{VHOST_NET_SET_BACKEND, VHOST_SET_VRING_ERR};
use umdev_tests::driver::{Client, Daemon, eventually, memory, sys};

const PATIENCE: Duration = Duration::from_secs(20);
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
const HOST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const GUEST_IP: [u8; 4] = [10, 9, 0, 2];
const HOST_IP: [u8; 4] = [10, 9, 0, 1];
const PORT: u16 = 7000;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A daemon, and an interface in a network where only this thread is.
fn scene() -> (Daemon, OwnedFd, UdpSocket) {
    let daemon = Daemon::start();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let tap = sys::tap("vnet0").unwrap();
    ip("link set vnet0 address 52:54:00:00:00:01 up");
    ip("addr add 10.9.0.1/24 dev vnet0");
    ip("neigh add 10.9.0.2 lladdr 52:54:00:00:00:02 dev vnet0");
    let socket = UdpSocket::bind(("10.9.0.1", PORT)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (daemon, tap, socket)
}

/// What the guest sends to arrive at the host's socket.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend((20 + udp_len).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend([GUEST_IP, HOST_IP].concat());
    let sum = header.chunks(2).fold(0u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let ports = [PORT.to_be_bytes(), PORT.to_be_bytes(), udp_len.to_be_bytes(), [0, 0]].concat();
    [&HOST_MAC[..], &GUEST_MAC, &[8, 0], &header, &ports, payload].concat()
}

/// The host's datagram reaches the guest, and the guest's reaches the host.
fn exchange(client: &mut Client, socket: &UdpSocket, payload: &[u8]) {
    socket.send_to(payload, ("10.9.0.2", PORT)).unwrap();
    let begun = Instant::now();
    // The kernel says a word of its own on a new interface, too.
    while !client.receive(PATIENCE).unwrap().ends_with(payload) {
        assert!(begun.elapsed() < PATIENCE, "the datagram did not come");
    }
    client.send(&datagram(payload)).unwrap();
    let mut received = [0; 2048];
    let (len, _) = socket.recv_from(&mut received).unwrap();
    assert_eq!(&received[..len], payload);
}

fn devices(daemon: &Daemon) -> u64 {
    daemon.ask(&serde_json::json!({ "op": "stats" })).0["vhost_net_devices"].as_u64().unwrap()
}

#[test]
fn frames_pass_both_ways_over_vhost_net() {
    let (daemon, tap, socket) = scene();
    let mut client = Client::on_tap(daemon.root(), &tap).unwrap();
    // The descriptor blocks, and it may go: the device has its own.
    drop(tap);
    for number in 0..1000u32 {
        exchange(&mut client, &socket, format!("number {number} of a thousand").as_bytes());
    }
    assert_eq!(devices(&daemon), 1);
    drop(client);
    assert!(eventually(PATIENCE, || devices(&daemon) == 0));
}

#[test]
fn a_ring_in_another_table_goes_on_where_it_stood() {
    let (daemon, tap, socket) = scene();
    let mut client = Client::on_tap(daemon.root(), &tap).unwrap();
    for number in 0..100u32 {
        // Set again, the table is another one all the same.
        client.set_memory_table(memory::IOVA).unwrap();
        exchange(&mut client, &socket, format!("{number}").as_bytes());
    }
    // Elsewhere in guest-physical memory the buffers are not where the ring says: a fault, told by the eventfd.
    let err = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    client.vhost.set_vring_fd(VHOST_SET_VRING_ERR, 1, &err).unwrap();
    client.set_memory_table(1 << 40).unwrap();
    client.queue(&datagram(b"lost"));
    client.tx.notify().unwrap();
    assert!(eventually(PATIENCE, || err.read().is_ok()), "{}", daemon.log());
    assert_eq!(client.tx.take(), None);
    assert!(daemon.log().contains(&format!("vhost-net of process {}", std::process::id())), "{}", daemon.log());
}

#[test]
fn one_device_that_is_broken_leaves_another_running() {
    let (daemon, tap, socket) = scene();
    let other = sys::tap("vnet1").unwrap();
    let mut client = Client::on_tap(daemon.root(), &tap).unwrap();
    let mut broken = Client::on_tap(daemon.root(), &other).unwrap();
    broken.memory.store(broken.tx.avail_offset() + 2, 9999);
    broken.tx.notify().unwrap();
    assert!(eventually(PATIENCE, || daemon.log().contains("device needs reset")));
    exchange(&mut client, &socket, b"unharmed");
    let refused = broken.vhost.set_vring_fd_number(VHOST_NET_SET_BACKEND, 1, 12345).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::EBADF));
    // Set right and given its back end again, the ring goes on.
    broken.memory.store(broken.tx.avail_offset() + 2, 0);
    broken.vhost.set_vring_fd(VHOST_NET_SET_BACKEND, 1, &other).unwrap();
    ip("link set vnet1 up");
    broken.send(&[0xff; 60]).unwrap();
}

#[test]
fn a_killed_client_of_vhost_net_leaves_nothing_behind() {
    let (daemon, ..) = scene();
    let figures = || (daemon.figure("Threads"), daemon.open_fds(), daemon.mappings());
    let run_and_kill = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umdev-caller"));
        let mut child = command.arg("rings").arg(daemon.root()).arg("vnet9").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "running");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(eventually(PATIENCE, || devices(&daemon) == 0));
    };
    // What is made once and stays (threads of the server) is there after the first.
    (0..3).for_each(|_| run_and_kill());
    let (_, fds, mappings) = figures();
    (0..20).for_each(|_| run_and_kill());
    assert!(eventually(PATIENCE, || figures().1 <= fds), "{:?} descriptors, {fds} before", figures());
    // Stacks of threads come and go.
    assert!(figures().2 <= mappings + 16, "{:?} mappings, {mappings} before", figures());
    ip("link set lo up");
    let gone = eventually(PATIENCE, || {
        let links = Command::new("ip").arg("link").output().unwrap();
        !String::from_utf8_lossy(&links.stdout).contains("vnet9")
    });
    assert!(gone, "the interface of a dead process is there still");
}
