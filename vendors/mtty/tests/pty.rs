//! Ports whose other side is a terminal of the host.

mod common;

use common::{Card, FAST, card, card_with, request};
use mtty::Mtty;
use nix::poll::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::Command;
use std::time::{Duration, Instant};
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{CreateRequest, Device, Engine, Parent};

const PATIENCE: Duration = Duration::from_secs(10);

fn with_terminals(kind: &str) -> Card {
    let card = card_with(kind, &[("backend", "pty")]);
    (0..card.attribute("ports").parse().unwrap()).for_each(|port| card.start(port));
    card
}

fn open(card: &Card, port: u32) -> File {
    let path = card.attribute(&format!("tty{port}"));
    File::options().read(true).write(true).custom_flags(libc_noctty()).open(path).unwrap()
}

fn libc_noctty() -> i32 {
    nix::fcntl::OFlag::O_NOCTTY.bits()
}

/// Waits for the interrupt, as a client does.
fn wait(call: &EventFd) {
    let mut fds = [PollFd::new(call.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 10_000_u16), Ok(1), "no interrupt");
    call.drain().unwrap();
}

/// Receives `len` bytes as an interrupt handler does.
fn receive(card: &Card, intx: &EventFd, port: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        wait(intx);
        bytes.extend(card.received(port));
        card.unmask();
    }
    bytes
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256).to_le_bytes()[0]).collect()
}

#[test]
fn a_terminal_of_each_port_is_named_by_an_attribute_and_raw_and_the_superusers() {
    let card = with_terminals("2");
    assert_eq!(card.attribute("backend"), "pty");
    assert_ne!(card.attribute("tty0"), card.attribute("tty1"));
    let mode = File::open(card.attribute("tty0")).unwrap().metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(common::card("1").session.show_attribute("tty0").is_err());
}

#[test]
fn a_terminal_belongs_to_the_owner_of_the_instance() {
    let request = CreateRequest { owner: Some((1234, 5678)), ..request("1", &[("backend", "pty")]) };
    let Ok(Device::Vfio(mut card)) = Mtty::new("m", 1).create(request) else { panic!("no card") };
    let terminal = std::fs::metadata(card.show_attribute("tty0").unwrap()).unwrap();
    assert_eq!((terminal.uid(), terminal.gid(), terminal.mode() & 0o777), (1234, 5678, 0o600));
}

#[test]
fn nothing_is_lost_either_way_however_slow_the_other_side_is() {
    let card = with_terminals("2");
    let intx = card.trigger(0);
    let mut host = open(&card, 1);
    let data = numbered(20_000);
    card.write(1, 1, &[1]);
    std::thread::scope(|scope| {
        scope.spawn(|| (&host).write_all(&data).unwrap());
        assert!(receive(&card, &intx, 1, data.len()) == data, "the bytes of the host");
    });
    // The other way nobody reads until the card has no room any more.
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            std::thread::sleep(FAST);
            let mut read = vec![0; data.len()];
            host.read_exact(&mut read).unwrap();
            read
        });
        let begun = Instant::now();
        for chunk in data.chunks(16) {
            while card.read(1, 5, 1)[0] & 0x20 == 0 {
                assert!(begun.elapsed() < PATIENCE, "the transmitter does not become empty");
                std::thread::yield_now();
            }
            card.send(1, chunk);
        }
        assert!(reader.join().unwrap() == data, "the bytes of the card");
    });
}

#[test]
fn a_transmitter_that_waits_for_the_terminal_interrupts_when_it_is_empty() {
    let card = with_terminals("1");
    let intx = card.trigger(0);
    let mut host = open(&card, 0);
    // The kernel moves what it has into its last buffer a while later: full is what stays full.
    let (mut sent, mut full) = (0, 0);
    while full < 10 {
        if card.read(0, 5, 1)[0] & 0x20 == 0 {
            std::thread::sleep(FAST);
            full += 1;
        } else {
            card.send(0, &[0x55; 16]);
            (sent, full) = (sent + 16, 0);
        }
    }
    card.write(0, 1, &[2]);
    std::thread::sleep(FAST);
    assert_eq!(intx.drain(), Ok(None), "nobody reads");
    let mut read = vec![0; sent];
    host.read_exact(&mut read).unwrap();
    wait(&intx);
    assert_eq!(card.read(0, 2, 1), [0xc2]);
}

#[test]
fn bytes_wait_in_the_terminal_while_rts_is_down_or_the_card_is_stopped() {
    let card = with_terminals("1");
    let intx = card.trigger(0);
    card.write(0, 1, &[1]);
    card.write(0, 4, &[0x01]);
    let mut host = open(&card, 0);
    host.write_all(b"later").unwrap();
    std::thread::sleep(FAST);
    assert_eq!(card.received(0), b"");
    card.session.stop().unwrap();
    card.write(0, 4, &[0x03]);
    std::thread::sleep(FAST);
    assert_eq!(card.received(0), b"");
    card.session.run().unwrap();
    assert_eq!(receive(&card, &intx, 0, 5), b"later");
}

#[test]
fn a_session_that_ends_hangs_up_its_terminal_and_the_card_has_it_back() {
    let card = with_terminals("1");
    let intx = card.trigger(0);
    card.write(0, 1, &[1]);
    let path = card.attribute("tty0");
    for turn in 0..3 {
        // The shell leads a session whose terminal this becomes.
        let script = format!("exec 3<>{path}; printf x >&3");
        let status = Command::new("setsid").args(["--wait", "/bin/sh", "-c", &script]).status().unwrap();
        assert!(status.success());
        let mut host = open(&card, 0);
        host.write_all(b"again").unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"again") {
            received.extend(receive(&card, &intx, 0, 1));
        }
        card.send(0, &[b'0' + turn]);
        let mut back = [0];
        host.read_exact(&mut back).unwrap();
        assert_eq!(back, [b'0' + turn]);
    }
    assert_eq!(card.attribute("tty0"), path);
}

#[test]
fn a_card_that_waits_takes_no_time() {
    let card = with_terminals("2");
    let host = open(&card, 0);
    drop(host);
    let before = thread_time();
    std::thread::sleep(Duration::from_millis(200));
    let took = thread_time() - before;
    assert!(took < Duration::from_millis(50), "{took:?}");
}

/// The processor time of this process.
fn thread_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    Duration::from_nanos(u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap())
}

#[test]
fn a_card_that_goes_takes_its_thread_and_its_terminals() {
    let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    for _ in 0..20 {
        let card = with_terminals("2");
        card.send(0, b"unread");
        card.session.retire();
    }
    assert_eq!(std::fs::read_dir("/proc/self/fd").unwrap().count(), before);
    let names = std::fs::read_dir("/proc/self/task").unwrap();
    let ours = names.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    assert_eq!(ours.filter(|name| name.starts_with("mtty")).count(), 0);
    drop(card("1"));
}
