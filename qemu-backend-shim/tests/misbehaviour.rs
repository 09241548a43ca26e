//! Front ends that lie, instances that vanish: the connection ends, the process does not, nothing is left behind.

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use qemu_backend_shim::error::Error;
use qemu_backend_shim::server::Outcome;
use support::*;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_ENABLE: u32 = 18;
const SET_STATUS: u32 = 39;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

fn vring_state(index: u32, num: u32) -> Vec<u8> {
    [index.to_ne_bytes(), num.to_ne_bytes()].concat()
}

/// The body of SET_MEM_TABLE: one region of (gpa, size, uaddr, offset) each.
fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    words(&[&[regions.len() as u64], regions.as_flattened()].concat())
}

fn closes(server: &Server, what: &str, bytes: &[u8], files: &[&File]) {
    let stream = server.connect();
    send(&stream, bytes, files);
    assert!(is_closed_by_peer(&stream), "{what}: the connection stays open");
    server.instance.eventually(what, |r| r.maps.is_empty() && r.eventfds.is_empty() && r.status == 0);
}

#[test]
fn a_request_that_cannot_be_right_ends_its_connection_and_the_next_front_end_is_served() {
    let server = Server::start();
    let file = memory(0x4000);
    let dev_null = File::open("/dev/null").unwrap();
    let pipe = File::from(OwnedFd::from(std::io::pipe().unwrap().0));
    let cases: &[(&str, Vec<u8>, &[&File])] = &[
        ("an unknown request", message(999, 0, &[]), &[]),
        ("a request that was not offered", message(SET_STATUS, 0, &words(&[15])), &[]),
        ("another protocol version", [SET_FEATURES, 2, 8, 0, 0].map(u32::to_ne_bytes).concat(), &[]),
        ("a body that is too short", message(SET_FEATURES, 0, &[0; 4]), &[]),
        ("a huge body", [SET_FEATURES, 1, u32::MAX].map(u32::to_ne_bytes).concat(), &[]),
        ("features nobody offered", message(SET_FEATURES, 0, &words(&[1 << 50])), &[]),
        ("ring 2", message(SET_VRING_NUM, 0, &vring_state(2, 256)), &[]),
        ("ring 2^32-1", message(GET_VRING_BASE, 0, &vring_state(u32::MAX, 0)), &[]),
        ("ring 255 kick", message(SET_VRING_KICK, 0, &words(&[0x1ff])), &[]),
        ("ring 7 enable", message(SET_VRING_ENABLE, 0, &vring_state(7, 1)), &[]),
        ("enable 2", message(SET_VRING_ENABLE, 0, &vring_state(0, 2)), &[]),
        ("size 0", message(SET_VRING_NUM, 0, &vring_state(0, 0)), &[]),
        ("size 65536", message(SET_VRING_NUM, 0, &vring_state(0, 65536)), &[]),
        ("a log flag", message(SET_VRING_ADDR, 0, &words(&[1 << 32, 0, 0, 0, 0])), &[]),
        ("a kick without the fd it announces", message(SET_VRING_KICK, 0, &words(&[0])), &[]),
        ("a kick with two", message(SET_VRING_KICK, 0, &words(&[0])), &[&file, &file]),
        ("a table without fds", message(SET_MEM_TABLE, 0, &table(&[[0, 0x1000, 0, 0]])), &[]),
        ("a region of no size", message(SET_MEM_TABLE, 0, &table(&[[0, 0, 0, 0]])), &[&file]),
        ("a region that wraps", message(SET_MEM_TABLE, 0, &table(&[[u64::MAX - 0xfff, 0x2000, 0, 0]])), &[&file]),
        ("an offset that wraps", message(SET_MEM_TABLE, 0, &table(&[[0, 0x1000, 0, u64::MAX - 0xfff]])), &[&file]),
        ("a region beyond its file", message(SET_MEM_TABLE, 0, &table(&[[0, 0x8000, 0, 0]])), &[&file]),
        ("an unaligned offset", message(SET_MEM_TABLE, 0, &table(&[[0, 0x1000, 0, 0x10]])), &[&file]),
        ("an unaligned address", message(SET_MEM_TABLE, 0, &table(&[[8, 0x1000, 0, 0]])), &[&file]),
        ("a device as memory", message(SET_MEM_TABLE, 0, &table(&[[0, 0x1000, 0, 0]])), &[&dev_null]),
        ("a pipe as memory", message(SET_MEM_TABLE, 0, &table(&[[0, 0x1000, 0, 0]])), &[&pipe]),
        (
            "regions that overlap",
            message(SET_MEM_TABLE, 0, &table(&[[0, 0x2000, 0, 0], [0x1000, 0x1000, 0x8000, 0]])),
            &[&file, &file],
        ),
    ];
    for (what, bytes, files) in cases {
        closes(&server, what, bytes, files);
    }
    Guest::started(&server);
}

#[test]
fn half_a_message_and_then_silence_ends_with_its_connection() {
    let server = Server::start();
    for len in [1, 11, 12, 15] {
        let mut stream = server.connect();
        stream.write_all(&message(SET_FEATURES, 0, &words(&[0]))[..len]).unwrap();
    }
    Guest::started(&server);
}

#[test]
fn rings_outside_the_memory_do_not_start() {
    let server = Server::start();
    let mut guest = Guest::connect(&server);
    guest.share_memory();
    guest.set_up_rings([0, 0]);
    guest.frontend.set_vring_addr(1, &addresses(UADDR + SIZE - 0x1000)).unwrap();
    server.instance.take_calls();
    assert!(guest.frontend.set_vring_enable(0, true).is_err());
    assert!(!server.instance.take_calls().contains(&"status 0xf".into()));
}

#[test]
fn a_running_ring_cannot_be_moved() {
    let server = Server::start();
    for attempt in 0..3 {
        let guest = Guest::started(&server);
        let refused = match attempt {
            0 => guest.frontend.set_vring_num(0, 128),
            1 => guest.frontend.set_vring_base(0, 1),
            _ => guest.frontend.set_vring_addr(0, &addresses(UADDR + 0x8_0000)),
        };
        assert!(refused.is_err());
    }
}

#[test]
fn a_refused_region_leaves_nothing_half_done() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    let overlapping = region(GPA + 0x1000, 0x1000, 0x1000, 0, &guest.memory);
    assert!(guest.frontend.add_mem_region(&overlapping).is_err());
    server.instance.eventually("torn down", |r| r.maps.is_empty());
    let mut guest = Guest::connect(&server);
    assert!(guest.frontend.remove_mem_region(&guest.region()).is_err());
}

#[test]
fn a_front_end_that_goes_leaves_a_clean_instance_to_the_next() {
    let server = Server::start();
    for _ in 0..3 {
        let guest = Guest::started(&server);
        assert_eq!(server.instance.record().maps.len(), 1);
        drop(guest);
        server.instance.eventually("clean", |r| r.maps.is_empty() && r.eventfds.is_empty() && r.status == 0);
    }
    // nothing of the last one is left to start from
    let mut guest = Guest::connect(&server);
    server.instance.take_calls();
    guest.enable_rings();
    assert_eq!(server.instance.take_calls(), [] as [&str; 0]);
}

#[test]
fn a_second_front_end_waits_for_the_first_to_go() {
    let server = Server::start();
    let first = Guest::started(&server);
    let path = server.path.clone();
    let second = std::thread::spawn(move || {
        vhost::vhost_user::Frontend::from_stream(UnixStream::connect(path).unwrap(), 2).get_features().unwrap()
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!second.is_finished());
    assert_eq!(server.instance.record().status, 0xf);
    drop(first);
    assert_ne!(second.join().unwrap(), 0);
}

#[test]
fn a_removed_instance_ends_the_server_while_no_front_end_is_there() {
    let mut server = Server::start();
    server.instance.record().present = false;
    assert!(matches!(server.outcome(), Ok(Outcome::InstanceGone(_))));
}

#[test]
fn a_removed_instance_ends_the_server_under_a_silent_front_end() {
    for errno in [Errno::ENODEV, Errno::EIO, Errno::ENOTCONN] {
        let mut server = Server::start();
        let guest = Guest::started(&server);
        server.instance.record().failing = Some(("", errno));
        let Ok(Outcome::InstanceGone(how)) = server.outcome() else { panic!("{errno}: stopped") };
        assert!(how.to_string().contains(errno.desc()), "{how}");
        assert!(guest.frontend.get_features().is_err());
    }
}

#[test]
fn the_request_to_let_go_of_the_instance_is_followed_at_once() {
    let mut server = Server::start();
    let _guest = Guest::started(&server);
    writeln!(server.events, r#"{{"event":"remove_request","uuid":"{UUID}"}}"#).unwrap();
    assert!(matches!(server.outcome(), Ok(Outcome::InstanceGone(Error::RemovalRequested))));
    let record = server.instance.record();
    assert!(record.maps.is_empty() && record.eventfds.is_empty() && record.status == 0);
}

#[test]
fn a_request_that_the_instance_refuses_ends_the_connection_alone() {
    let server = Server::start();
    let guest = Guest::connect(&server);
    server.instance.record().failing = Some(("map", Errno::ENOSPC));
    assert!(guest.frontend.set_mem_table(&[guest.region()]).is_err());
    server.instance.record().failing = None;
    Guest::started(&server);
}

#[test]
fn an_instance_that_cannot_be_cleared_is_not_given_to_another_front_end() {
    let mut server = Server::start();
    let guest = Guest::started(&server);
    server.instance.record().failing = Some(("unmap", Errno::EBUSY));
    drop(guest);
    assert!(server.outcome().unwrap_err().to_string().contains("EBUSY"));
}

#[test]
fn stopping_does_not_wait_for_the_rest_of_a_message() {
    let mut server = Server::start();
    let mut stream = server.connect();
    stream.write_all(&[5, 0]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    assert!(matches!(server.stop(), Ok(Outcome::Stopped)));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
