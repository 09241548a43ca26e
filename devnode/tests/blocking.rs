//! No client can make others wait: rules B1 and B3 to B6.
#![allow(missing_docs)]

mod common;

use common::client::{self, Client, Memory, Word, never_faulted_in};
use common::{Mounted, eventually, io};
use devnode::{IoctlReply, ServerConfig};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Reads a word at the argument.
const READ: u32 = io(1);
/// Sleeps for the argument in milliseconds.
const SLEEP: u32 = io(2);
/// Fails with the argument.
const FAIL: u32 = io(3);
/// Panics.
const PANIC: u32 = io(4);
/// Answers more than was asked for.
const TOO_MUCH: u32 = common::ior(5);

fn mounted(config: ServerConfig) -> (Mounted, std::sync::Arc<common::Device>) {
    let mounted = Mounted::with(config);
    let device = mounted.device("dev", |caller, call| match call.cmd {
        READ => {
            let mut word = [0; 8];
            caller.read(call.arg, &mut word)?;
            Ok(IoctlReply::ok())
        }
        SLEEP => {
            std::thread::sleep(Duration::from_millis(call.arg));
            Ok(IoctlReply::value(1))
        }
        FAIL => Err(Errno::from_raw(i32::try_from(call.arg).unwrap())),
        PANIC => panic!("on purpose"),
        TOO_MUCH => Ok(IoctlReply::output([0; 9])),
        _ => Err(Errno::ENOTTY),
    });
    (mounted, device)
}

/// A client whose threads all wait in an ioctl for memory that never comes, until `end` is set.
fn hang(path: &std::path::Path, threads: usize, uid: u32, end: &Word) -> Client {
    Client::spawn(|| {
        let device = client::open(path).unwrap();
        let memory = Memory::anonymous(4096, false);
        // Before the user changes: userfaultfd is not for everybody.
        let uffd = never_faulted_in(memory);
        if uid != 0 {
            client::become_user(uid);
        }
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| client::ioctl(&device, READ, memory.addr));
            }
            end.wait_for(1);
            drop(uffd);
        });
    })
}

#[test]
fn b1_memory_that_never_comes_blocks_only_its_owner() {
    let config = ServerConfig { stuck_after: Duration::from_millis(300), ..ServerConfig::default() };
    let (mounted, _device) = mounted(config);
    let path = mounted.path("dev");
    let end = Word::new();
    let hanging = hang(&path, 40, 65534, &end);
    eventually("its user is at the bound and the rest waits", || {
        mounted.stats().queued.get(&65534).is_some_and(|n| *n == 24)
    });
    // Others are served all the time, of another user and the superuser.
    let began = Instant::now();
    for uid in [0, 1000] {
        let path = path.clone();
        Client::run(move || {
            if uid != 0 {
                client::become_user(uid);
            }
            let device = client::open(&path).unwrap();
            for _ in 0..100 {
                assert_eq!(client::ioctl(&device, SLEEP, 0), Ok(1));
            }
        });
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    eventually("its threads are given up", || mounted.stats().stuck == 16);
    eventually("none of them counts as busy", || mounted.stats().busy == 0);
    end.set(1);
    hanging.join();
    eventually("nothing is left", || {
        let stats = mounted.stats();
        (stats.stuck, stats.requests, stats.handles, stats.queued.len()) == (0, 0, 0, 0)
    });
    eventually("idle threads go", || mounted.stats().threads <= 8);
}

#[test]
fn b1_the_superusers_stuck_threads_are_replaced() {
    let config = ServerConfig { stuck_after: Duration::from_millis(300), threads: 8, ..ServerConfig::default() };
    let (mounted, _device) = mounted(config);
    let path = mounted.path("dev");
    let end = Word::new();
    let hanging = hang(&path, 20, 0, &end);
    eventually("all are given up", || mounted.stats().stuck == 20);
    Client::run(move || {
        assert_eq!(client::ioctl(client::open(&path).unwrap(), SLEEP, 0), Ok(1));
    });
    end.set(1);
    hanging.join();
    eventually("nothing is left", || (mounted.stats().stuck, mounted.stats().requests) == (0, 0));
}

#[test]
fn b1_a_client_that_hangs_us_can_be_killed() {
    let (mounted, device) = mounted(ServerConfig::default());
    let end = Word::new();
    let mut hanging = hang(&mounted.path("dev"), 3, 0, &end);
    eventually("it hangs", || mounted.stats().requests == 3);
    let began = Instant::now();
    hanging.signal(Signal::SIGKILL);
    assert!(hanging.wait(Duration::from_secs(5)).is_some());
    // Before its threads count as stuck.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    eventually("nothing is left", || (mounted.stats().requests, mounted.stats().handles) == (0, 0));
    assert_eq!(device.released(), 1);
}

#[test]
fn b1_a_server_with_stuck_threads_can_be_shut_down() {
    let (mut mounted, _device) = mounted(ServerConfig::default());
    let path = mounted.path("dev");
    let end = Word::new();
    let hanging = hang(&path, 3, 0, &end);
    eventually("it hangs", || mounted.stats().requests == 3);
    mounted.server.take().unwrap().shutdown();
    assert!(devnode::is_stale(mounted.root()));
    end.set(1);
    hanging.join();
}

#[test]
fn b3_signals_do_not_interrupt_a_bounded_call() {
    let (mounted, _device) = mounted(ServerConfig::default());
    let path = mounted.path("dev");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        client::kilohertz();
        for round in 0..200 {
            assert_eq!(client::ioctl(&device, SLEEP, 5), Ok(1), "round {round}");
        }
    });
}

#[test]
fn b4_reopen_waits_for_a_running_release() {
    let (mounted, device) = mounted(ServerConfig::default());
    device.exclusive.store(true, Ordering::SeqCst);
    device.release_ms.store(2, Ordering::SeqCst);
    let path = mounted.path("dev");
    Client::run(move || {
        for round in 0..300 {
            client::open(&path).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
    });
    eventually("all are released", || device.released() == 300);
}

#[test]
fn b4_a_device_that_is_really_in_use_is_busy_at_once() {
    let (mounted, device) = mounted(ServerConfig::default());
    device.exclusive.store(true, Ordering::SeqCst);
    let path = mounted.path("dev");
    Client::run(move || {
        let _held = client::open(&path).unwrap();
        let began = Instant::now();
        assert_eq!(client::open(&path).unwrap_err(), Errno::EBUSY);
        // Before an open gives up on a release.
        assert!(began.elapsed() < Duration::from_millis(900));
    });
}

#[test]
fn b4_an_open_does_not_wait_for_ever_for_a_release() {
    let (mounted, device) =
        mounted(ServerConfig { release_wait: Duration::from_millis(200), ..ServerConfig::default() });
    device.exclusive.store(true, Ordering::SeqCst);
    device.release_ms.store(1000, Ordering::SeqCst);
    let path = mounted.path("dev");
    Client::run(move || {
        drop(client::open(&path).unwrap());
        let began = Instant::now();
        assert_eq!(client::open(&path).unwrap_err(), Errno::EBUSY);
        assert!((150..900).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    });
}

#[test]
fn b5_a_killed_client_is_reaped_at_once() {
    for earlier_signal in [false, true] {
        let (mounted, device) = mounted(ServerConfig::default());
        let path = mounted.path("dev");
        let mut client = Client::spawn(move || {
            client::ignore_by_handler(Signal::SIGUSR1);
            let device = client::open(&path).unwrap();
            let _ = client::ioctl(&device, SLEEP, 3000);
        });
        eventually("it is in its ioctl", || mounted.stats().requests == 1);
        if earlier_signal {
            client.signal(Signal::SIGUSR1);
            assert!(client.wait(Duration::from_millis(200)).is_none(), "an ordinary signal ended the call");
        }
        let began = Instant::now();
        client.signal(Signal::SIGKILL);
        assert!(client.wait(Duration::from_secs(10)).is_some());
        // Before its call ends by itself.
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        eventually("the file is released", || device.released() == 1);
        eventually("the request is forgotten", || mounted.stats().requests == 0);
    }
}

#[test]
fn b5_a_client_killed_while_it_opens_leaves_nothing_open() {
    let (mounted, device) = mounted(ServerConfig::default());
    device.exclusive.store(true, Ordering::SeqCst);
    device.release_ms.store(1500, Ordering::SeqCst);
    let path = mounted.path("dev");
    let mut client = Client::spawn(move || {
        drop(client::open(&path).unwrap());
        let _second = client::open(&path);
        std::thread::sleep(Duration::from_secs(30));
    });
    eventually("the second open waits", || device.opened.load(Ordering::SeqCst) == 1 && mounted.stats().requests == 2);
    client.signal(Signal::SIGKILL);
    // Before its open gives up on the release.
    assert!(client.wait(Duration::from_millis(800)).is_some());
    eventually("nothing is left", || (mounted.stats().requests, mounted.stats().handles) == (0, 0));
    assert!(!device.is_open.load(Ordering::SeqCst));
}

#[test]
fn b6_any_error_number_reaches_the_client_as_one_it_can_have() {
    let (mounted, _device) = mounted(ServerConfig::default());
    let path = mounted.path("dev");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        for number in [512, 514, 524, 600, 4095, 0, 95] {
            assert_eq!(client::ioctl(&device, FAIL, number), Err(Errno::EOPNOTSUPP), "{number}");
        }
        assert_eq!(client::ioctl(&device, FAIL, 38), Err(Errno::ENOTTY));
        assert_eq!(client::ioctl(&device, FAIL, 16), Err(Errno::EBUSY));
        assert_eq!(client::ioctl(&device, FAIL, 133), Err(Errno::EHWPOISON));
        assert_eq!(client::ioctl(&device, PANIC, 0), Err(Errno::EIO));
        let mut word = 0u64;
        assert_eq!(client::ioctl(&device, TOO_MUCH, (&raw mut word).expose_provenance()), Err(Errno::EIO));
        assert_eq!(client::ioctl(&device, SLEEP, 0), Ok(1));
    });
}

#[test]
fn many_clients_at_once_are_all_served() {
    let (mounted, device) = mounted(ServerConfig::default());
    let path = mounted.path("dev");
    let clients: Vec<Client> = (0..8)
        .map(|uid| {
            let path = path.clone();
            Client::spawn(move || {
                client::become_user(uid);
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| {
                            for round in 0..100 {
                                let device = client::open(&path).unwrap();
                                assert_eq!(client::ioctl(&device, SLEEP, round % 2), Ok(1));
                            }
                        });
                    }
                });
            })
        })
        .collect();
    clients.into_iter().for_each(Client::join);
    eventually("all are released", || device.released() == 6400);
    eventually("nothing is left", || (mounted.stats().handles, mounted.stats().requests) == (0, 0));
}
