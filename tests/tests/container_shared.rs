//! One container for many devices, and many processes that use the same addresses.

use nix::errno::Errno;
use std::process::{Command, Stdio};
use std::time::Duration;
use umdev_tests::driver::memory::IOVA;
use umdev_tests::driver::{Client, Container, Daemon, Memory, Options, new_uuid};

const PARENTS: [(&str, &str); 3] =
    [("loopback0", "loopback-net"), ("loopback1", "loopback-net-fast"), ("faulty0", "faulty-net")];
const INSTANCES: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(20);

fn daemon() -> Daemon {
    Daemon::with(&["--parent", "loopback:loopback0", "--parent", "loopback:loopback1", "--parent", "faulty:faulty0"])
}

fn create(daemon: &Daemon, number: u64) -> String {
    let (parent, of) = PARENTS[usize::try_from(number).unwrap() % PARENTS.len()];
    let uuid = new_uuid();
    let dir = format!("sys/class/mdev_bus/{parent}/mdev_supported_types/{of}/create");
    std::fs::write(daemon.path(dir), &uuid).unwrap();
    uuid
}

fn one_buffer() -> Options {
    Options { receive_buffers: 1, ..Options::default() }
}

/// Eight devices of three parents in one container, each with memory of its own there.
fn eight(daemon: &Daemon) -> Vec<(String, Client)> {
    let memory = |number: u64| Memory::new().unwrap().first_at(IOVA + number * (16 << 20));
    let uuid = create(daemon, 0);
    let first = Client::open_unmapped(daemon.root(), &uuid, one_buffer(), memory(0)).unwrap();
    first.map_memory().unwrap();
    let mut clients = vec![(uuid, first)];
    for number in 1..INSTANCES {
        let uuid = create(daemon, number);
        let container = container(&clients[0].1);
        let joined = Client::join(daemon.root(), &uuid, container, memory(number)).unwrap();
        clients.push((uuid, joined));
    }
    clients.iter_mut().for_each(|(_, client)| client.run().unwrap());
    clients
}

fn container(client: &Client) -> &Container {
    &client.vfio.as_ref().unwrap().1
}

fn all_exchange(clients: &mut [(String, Client)]) {
    for round in 0..20_u8 {
        // All at once, so that their threads work side by side.
        for (number, (_, client)) in (0_u8..).zip(clients.iter_mut()) {
            client.queue(&[number ^ round; 300]);
            client.tx.notify().unwrap();
        }
        for (number, (_, client)) in (0_u8..).zip(clients.iter_mut()) {
            client.tx.wait(PATIENCE, "the frame to be used").unwrap();
            assert_eq!(client.receive(PATIENCE).unwrap(), [number ^ round; 300]);
        }
    }
}

#[test]
fn eight_devices_of_three_parents_work_in_one_container() {
    let daemon = daemon();
    let mut clients = eight(&daemon);
    all_exchange(&mut clients);
    // They are all in it: one's map would overlap another's.
    let (last, first) = (&clients[7].1, container(&clients[0].1));
    let refused = first.map(last.memory.first(), 4096, clients[0].1.memory.address()).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::EEXIST));
}

#[test]
fn a_device_that_leaves_a_container_leaves_the_others_their_memory() {
    let daemon = daemon();
    let mut clients = eight(&daemon);
    for number in [0, 3, 5] {
        let (uuid, client) = clients.remove(number.min(clients.len() - 1));
        drop(client);
        daemon.remove(&uuid, "1").unwrap();
        all_exchange(&mut clients);
    }
    let (victim, _) = &clients[1];
    daemon.remove(victim, "force").unwrap();
    let (_gone, _client) = clients.remove(1);
    all_exchange(&mut clients);
}

#[test]
fn a_device_reaches_the_memory_of_a_device_it_shares_a_container_with_and_of_no_other() {
    let daemon = daemon();
    let mut clients = eight(&daemon);
    let alone_uuid = create(&daemon, 0);
    let mut alone = Client::start(daemon.root(), &alone_uuid, one_buffer()).unwrap();
    alone.exchange(&[1; 60]).unwrap();
    // The second device's memory begins where the one on its own has nothing.
    let there = clients[1].1.memory.iova(0x8_0000);
    let into = |client: &mut Client| {
        let descriptor = umdev_tests::driver::Descriptor { addr: there, len: 4096, flags: 2, next: 0 };
        client.receive_into(descriptor).unwrap();
        client.queue(&[0x5a; 64]);
        client.tx.notify().unwrap();
    };
    into(&mut clients[0].1);
    clients[0].1.rx.wait(PATIENCE, "a frame").unwrap();
    let mut found = [0; 64];
    clients[1].1.memory.read(0x8_0000 + 12, &mut found);
    assert_eq!(found, [0x5a; 64]);
    into(&mut alone);
    daemon.wait_for(&alone_uuid, "state", "needs_reset");
}

#[test]
fn two_processes_use_the_same_addresses_on_one_parent() {
    let daemon = daemon();
    let start = |number| {
        let uuid = create(&daemon, number);
        let mut command = Command::new(env!("CARGO_BIN_EXE_umdev-exchange"));
        command.arg(daemon.root()).args([&uuid, "3000"]).stdout(Stdio::piped()).spawn().unwrap()
    };
    // Both of the first parent; every byte of every frame is compared.
    for process in [start(0), start(3)] {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
